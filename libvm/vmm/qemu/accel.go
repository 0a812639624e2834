//go:build linux

package qemu

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/vmm"
)

// KVM's API has been frozen at this version since Linux 2.6.22
// (Documentation/virt/kvm/api.rst, KVM_GET_API_VERSION).
const (
	kvmGetAPIVersion = 0xAE00
	kvmAPIVersion    = 12
)

// Accelerator decides who executes the guest: KVM where it is real, else TCG.
// The reason says why KVM was not taken; it is empty when it was. To demand
// KVM where it is not real is an error that wraps vmm.ErrNotSupported.
func Accelerator(want vmm.Accel) (got vmm.Accel, reason string, err error) {
	return kvmHost{
		arch:    runtime.GOARCH,
		device:  "/dev/kvm",
		cpuinfo: cpuInfoFile,
		version: kvmVersion,
	}.choose(want)
}

// kvmHost says where to look for KVM.
type kvmHost struct {
	arch, device, cpuinfo string
	version               func(*os.File) (int, error)
}

func (h kvmHost) choose(want vmm.Accel) (got vmm.Accel, reason string, err error) {
	switch want {
	case vmm.AccelTCG:
		return vmm.AccelTCG, "TCG was asked for", nil
	case vmm.AccelKVM, vmm.AccelAuto, "":
	default:
		return "", "", fmt.Errorf("accelerator %q on QEMU: %w", want, vmm.ErrNotSupported)
	}
	cause := h.usable()
	switch {
	case cause == nil:
		return vmm.AccelKVM, "", nil
	case want == vmm.AccelKVM:
		return "", "", fmt.Errorf("accelerator kvm: %w: %w", vmm.ErrNotSupported, cause)
	default:
		return vmm.AccelTCG, cause.Error(), nil
	}
}

// usable returns why KVM cannot run an ordinary kernel, nil when it can. A
// device that opens proves nothing: a software KVM (PVM) opens, creates
// machines, and then hangs an ordinary kernel before its first line.
func (h kvmHost) usable() error {
	f, err := os.OpenFile(h.device, os.O_RDWR, 0)
	if err != nil {
		return err // names the device
	}
	defer f.Close()
	v, err := h.version(f)
	if err != nil {
		return fmt.Errorf("%s: API version: %w", h.device, err)
	}
	if v != kvmAPIVersion {
		return fmt.Errorf("%s has API version %d, want %d", h.device, v, kvmAPIVersion)
	}
	if h.arch != "amd64" {
		return nil
	}
	b, err := os.ReadFile(h.cpuinfo)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if flags, ok := strings.CutPrefix(line, "flags"); ok && hasFlag(flags, "vmx", "svm") {
			return nil
		}
	}
	return errors.New("the CPU offers no hardware virtualisation (neither vmx nor svm in " + h.cpuinfo + ")")
}

func kvmVersion(f *os.File) (int, error) {
	v, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), kvmGetAPIVersion, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(v), nil
}
