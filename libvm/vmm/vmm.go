// Package vmm describes machines and the drivers that run them.
//
// A Config is the blueprint: plain data, equal everywhere, free of handles. A
// Driver turns it into a Machine, which owns processes and file descriptors.
// Nothing here knows OCI; nothing above it knows QEMU or
// Virtualization.framework. The interface asks of a VMM only what both can do:
// a kernel, memory, shares, one byte stream to the guest and an end.
//
// vmmtest.Run is the contract as a test; every driver runs it.
package vmm

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
)

// Sentinels a driver wraps.
var (
	// ErrNotSupported: this host or this driver cannot do what was asked.
	ErrNotSupported = errors.New("not supported by this machine monitor")
	// ErrNotInstalled: a program or file the driver needs is missing.
	ErrNotInstalled = errors.New("not installed")
)

// Accel says who executes the guest's instructions.
type Accel string

const (
	// AccelAuto takes hardware virtualisation where it is real, else TCG.
	AccelAuto Accel = "auto"
	AccelKVM  Accel = "kvm"
	AccelTCG  Accel = "tcg"
	// AccelHVF is what Virtualization.framework uses; nothing else may.
	AccelHVF Accel = "hvf"
)

// Config describes a machine: plain data, no handles.
type Config struct {
	CPUs      int // virtual CPUs, at least 1
	MemoryMiB int // guest memory in MiB

	Accel  Accel  // never AccelAuto when it reaches a driver
	Kernel string // absolute path: uncompressed vmlinux (amd64), Image (arm64)
	Initrd string // absolute path of an uncompressed cpio
	// Cmdline is what the kernel's command line must contain beyond what the
	// driver adds for its own devices.
	Cmdline []string

	Shares []Share
	Disks  []Disk
	NICs   []NIC
}

// ShareType says how a share reaches the guest.
type ShareType string

const (
	ShareVirtiofs ShareType = "virtiofs"
	Share9p       ShareType = "9p"
)

// Share is a host directory offered to the guest under a tag. It is resolved
// in the mount namespace of the process that calls Start.
type Share struct {
	Type     ShareType
	Tag      string // at most 36 bytes, the limit of virtio-fs
	Path     string // absolute path of a directory
	ReadOnly bool
}

// Disk is a raw image or block device. The driver takes File over when Start
// is called, also when Start fails.
type Disk struct {
	File     *os.File `json:"-"`
	ReadOnly bool
}

// NIC is one network interface. On Linux File is an open tap, which the
// driver takes over when Start is called, also when Start fails; a driver
// that has a network of its own (Virtualization.framework) ignores it.
type NIC struct {
	File *os.File `json:"-"`
	MAC  net.HardwareAddr
	MTU  int
}

// Driver is one VMM.
type Driver interface {
	// Name is what `runm check` and errors call the driver.
	Name() string
	// Start boots cfg. ctx bounds the boot only; the Machine outlives it. On
	// error nothing of the machine is left on the host, and the error says
	// what of the host is missing (ErrNotInstalled, ErrNotSupported).
	// Start returns when the machine executes; the agent in it may still be
	// starting. It must be called from a process that lives as long as the
	// machine: whatever it starts dies with that process.
	Start(ctx context.Context, cfg *Config) (Machine, error)
}

// Machine is a running VM. Its methods may be called at the same time.
type Machine interface {
	// Dial returns the byte stream to the agent. The first Dial wins; there
	// is one stream for each machine. It does not wait for the agent: what is
	// written before the agent listens is delivered when it does. The caller
	// closes the stream.
	Dial(ctx context.Context) (io.ReadWriteCloser, error)
	// Wait blocks until the machine has ended, for whatever reason, and all
	// that Start acquired is given back. nil means the guest powered off or
	// Kill was called. It must be called once.
	Wait() error
	// Kill ends the machine at once. It does not wait and may be called
	// again, also after the end.
	Kill()
	// Console returns the last 64 KiB or less that the guest wrote to its
	// console. The bytes come from the guest: show them, never parse them.
	Console() []byte
}

// Pauser is a Machine whose vCPUs can be stopped.
type Pauser interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
}

// Trimmer is a Machine whose VMM keeps memory for speed alone.
type Trimmer interface {
	// Trim gives the host memory back that the VMM would fill again. The guest
	// stands still meanwhile, for some milliseconds, and is slower for a while:
	// call it for one that does nothing. After an error it goes on, too. It must
	// not be called while the machine is paused, nor Pause before it has returned.
	Trim(ctx context.Context) error
}

// Template is a machine that was saved: two files that belong together and that
// any number of machines may be started from at the same time.
type Template struct {
	Memory *os.File // the guest's memory, MemoryMiB long, with holes
	State  *os.File // processors and devices, in the driver's format
}

// CopyMemory copies a template's memory into a clone's, which is as long and
// empty: who does it pays for it.
type CopyMemory func(ctx context.Context, to, from *os.File) error

// Close closes the template's files.
func (t Template) Close() {
	t.Memory.Close() // nil is fine
	t.State.Close()
}

// Cloner is a Driver that can save a booted machine and start others from where
// it was. Their Configs must be equal, but for the files in them, for the
// places of shares and for what NICs are connected to.
type Cloner interface {
	Driver
	// Shape is all that the driver makes a machine of: a template is good for
	// the machines whose shape is the one of its own. It changes with the
	// content of every file that the machine is made of.
	Shape(cfg *Config) (string, error)
	// StartSavable is Start of a machine whose memory is the file memory, which
	// stays the caller's.
	StartSavable(ctx context.Context, cfg *Config, memory *os.File) (Savable, error)
	// Clone is Start of a machine that goes on where t was saved. It takes t
	// over, also when it fails. What is wrong with t comes from Wait. A driver
	// whose clones need a copy of its memory calls copyMemory, once, before the
	// clone executes anything.
	Clone(ctx context.Context, cfg *Config, t Template, copyMemory CopyMemory) (Machine, error)
}

// Savable is a Machine that can be saved once.
type Savable interface {
	Machine
	// Ready waits until the guest listens to its stream.
	Ready(ctx context.Context) error
	// Save stops the machine for good and writes its State. Nothing of its
	// memory changes any more.
	Save(ctx context.Context, state io.Writer) error
}

// Processes is a Machine that runs as host processes of their own.
type Processes interface {
	// Pids lists the host processes that carry the machine, the VMM first.
	Pids() []int
}
