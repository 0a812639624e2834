//go:build linux

package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/vmm"
)

func TestAccelerator(t *testing.T) {
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	device := write("kvm", "")
	intel := write("intel", "processor\t: 0\nflags\t\t: fpu vmx sse\n")
	amd := write("amd", "flags\t\t: fpu svm\n")
	soft := write("soft", "flags\t\t: fpu vmxx xsvm\nvmx flags\t: vnmi\n")
	version := func(v int, err error) func(*os.File) (int, error) {
		return func(*os.File) (int, error) { return v, err }
	}
	missing := filepath.Join(t.TempDir(), "missing")

	tests := []struct {
		name  string
		host  kvmHost
		cause string // why KVM is not real; empty where it is
	}{
		{"intel", kvmHost{"amd64", device, intel, version(12, nil)}, ""},
		{"amd", kvmHost{"amd64", device, amd, version(12, nil)}, ""},
		{"arm64", kvmHost{"arm64", device, missing, version(12, nil)}, ""},
		{"no device", kvmHost{"amd64", missing, intel, version(12, nil)}, "no such file"},
		{"old", kvmHost{"amd64", device, intel, version(11, nil)}, "API version 11, want 12"},
		{"no kvm", kvmHost{"amd64", device, intel, version(0, unix.ENOTTY)}, "inappropriate ioctl"},
		{"no kvm, really", kvmHost{"amd64", device, intel, kvmVersion}, "inappropriate ioctl"},
		{"software kvm", kvmHost{"amd64", device, soft, version(12, nil)}, "neither vmx nor svm"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := vmm.AccelKVM
			if tt.cause != "" {
				want = vmm.AccelTCG
			}
			got, reason, err := tt.host.choose(vmm.AccelAuto)
			if err != nil || got != want || !strings.Contains(reason, tt.cause) || (reason == "") != (tt.cause == "") {
				t.Errorf("auto = %q, %q, %v, want %q because %q", got, reason, err, want, tt.cause)
			}
			got, _, err = tt.host.choose(vmm.AccelKVM)
			switch {
			case tt.cause == "" && (err != nil || got != vmm.AccelKVM):
				t.Errorf("kvm = %q, %v", got, err)
			case tt.cause != "" && (!errors.Is(err, vmm.ErrNotSupported) || !strings.Contains(err.Error(), tt.cause)):
				t.Errorf("kvm = %q, %v, want an error because %q", got, err, tt.cause)
			}
			if got, _, err = tt.host.choose(vmm.AccelTCG); got != vmm.AccelTCG || err != nil {
				t.Errorf("tcg = %q, %v", got, err)
			}
			if _, _, err = tt.host.choose(vmm.AccelHVF); !errors.Is(err, vmm.ErrNotSupported) {
				t.Errorf("hvf = %v, want %v", err, vmm.ErrNotSupported)
			}
		})
	}
}

// TestAcceleratorHere: whatever this machine is, auto never fails, and never
// takes a KVM without hardware behind it.
func TestAcceleratorHere(t *testing.T) {
	got, reason, err := Accelerator(vmm.AccelAuto)
	if err != nil || (got == vmm.AccelTCG) != (reason != "") {
		t.Fatalf("auto = %q, %q, %v", got, reason, err)
	}
	t.Logf("%s %s", got, reason)
}
