// Package api is what host and guest agree on: the generated protocol of
// agent.proto and the constants around it. docs/protocol.md describes both.
package api

import "net"

// Version is the protocol's version. Host and agent are built together and
// refuse each other when it differs.
const Version = 1

// PortName is the virtio-serial port the agent serves on QEMU; on
// Virtualization.framework it listens on VsockPort.
const (
	PortName  = "runm.agent.0"
	VsockPort = 1024
)

// TemplateParameter is the word on the kernel's command line that says that the
// machine will be saved, and cloned, as soon as the agent has opened its port.
const TemplateParameter = "runm.template"

// TraceKey in a request's metadata asks the agent to record the call, for a
// Trace later. The value is the call's number in decimal, which the host chooses.
const TraceKey = "runm-trace"

// MaxSpans bounds what a recorded call has.
const MaxSpans = 64

// Environment is what the agent wants in its environment: the kernel gives process
// 1 the words of its command line that it does not know and that have a value.
// Emulated, a goroutine often runs for longer than the 10 ms after which Go's
// scheduler would interrupt it by a signal; none of the agent's computes.
var Environment = []string{"GODEBUG=asyncpreemptoff=1"}

// ShareTag names the one share of a machine.
const ShareTag = "runm"

// Paths in the guest. The host builds specs against them.
const (
	// ShareMountpoint is where Hello mounts the share.
	ShareMountpoint = "/run/runm/share"
	// RootfsDir and BindsDir are below the share, on both sides:
	// rootfs/<name> and binds/<name>/<n>/<basename>, with a name that the host
	// gives a container's files.
	RootfsDir = "rootfs"
	BindsDir  = "binds"
)

// NamespaceOf and a container's id in the place of a namespace's path in a
// CreateRequest's spec name that container's namespace of the same type.
const NamespaceOf = "container:"

// ShmDir is where the agent makes a tmpfs when a mount's source first names it:
// ShmDir/<size in bytes>/<path of the host's directory>.
const ShmDir = "/run/runm/shm"

// MaxMessage bounds one message in bytes, either way.
const MaxMessage = 4 << 20

// SpareNIC begins the name of a NIC in the guest that stands for no interface of
// the container's network namespace. Its number follows.
const SpareNIC = "spare"

// NICMAC is the MAC that the NIC with that number is made with: locally
// administered (IEEE 802), "runm", and the number.
func NICMAC(number byte) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'r', 'u', 'n', 'm', number}
}
