package qemu

import (
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/vmm"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// A config and its descriptors, as Start would number them.
func machineOf(accel vmm.Accel) (*vmm.Config, FDs) {
	return &vmm.Config{
			CPUs: 1, MemoryMiB: 256, Accel: accel,
			Kernel: "/lib/runm/vmlinux", Initrd: "/lib/runm/initramfs.cpio",
			Cmdline: []string{"init_on_alloc=1"},
		},
		FDs{Kernel: 3, Initrd: 4, Agent: 5, Console: 6, QMP: 7}
}

func TestArgsGolden(t *testing.T) {
	amd64 := Host{Arch: "amd64", TSCKHz: 2600000, Root: true}
	withVhost := Host{Arch: "amd64", TSCKHz: 2600000, VhostNet: true, Root: true}
	arm64 := Host{Arch: "arm64", Root: true}
	share := func(kind vmm.ShareType, readOnly bool) func(*vmm.Config, *FDs) {
		return func(c *vmm.Config, f *FDs) {
			c.Shares = []vmm.Share{{Type: kind, Tag: "runm", Path: "/run/a,b/share", ReadOnly: readOnly}}
			if kind == vmm.ShareVirtiofs {
				f.Virtiofs = []int{8}
			}
		}
	}
	devices := func(c *vmm.Config, f *FDs) {
		c.NICs = []vmm.NIC{{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1450}}
		c.Disks = []vmm.Disk{{}, {ReadOnly: true}}
		f.NICs, f.Disks = []int{8}, []DiskFD{{FD: 9}, {FD: 10, Device: true}}
	}
	tests := []struct {
		name  string
		accel vmm.Accel
		host  Host
		set   func(*vmm.Config, *FDs)
	}{
		{"tcg", vmm.AccelTCG, amd64, nil},
		{"tcg-virtiofs", vmm.AccelTCG, amd64, share(vmm.ShareVirtiofs, false)},
		{"tcg-9p", vmm.AccelTCG, amd64, share(vmm.Share9p, true)},
		{"tcg-9p-unprivileged", vmm.AccelTCG, Host{Arch: "amd64"}, share(vmm.Share9p, false)},
		{"tcg-nic-disk", vmm.AccelTCG, withVhost, devices},
		{"kvm", vmm.AccelKVM, withVhost, func(c *vmm.Config, f *FDs) {
			c.CPUs = 4
			devices(c, f)
			f.VhostNet = []int{11}
		}},
		{"template", vmm.AccelTCG, amd64, func(c *vmm.Config, f *FDs) {
			share(vmm.ShareVirtiofs, false)(c, f)
			f.Memory = 9
		}},
		{"clone", vmm.AccelTCG, amd64, func(c *vmm.Config, f *FDs) {
			share(vmm.ShareVirtiofs, false)(c, f)
			f.Memory, f.Incoming = 9, true
			f.Kernel, f.Initrd = 0, 0
		}},
		{"clone-kvm-9p", vmm.AccelKVM, amd64, func(c *vmm.Config, f *FDs) {
			share(vmm.Share9p, false)(c, f)
			f.Memory, f.Incoming = 9, true
			f.Kernel, f.Initrd = 0, 0
		}},
		{"arm64", vmm.AccelTCG, arm64, share(vmm.ShareVirtiofs, false)},
		{"arm64-kvm", vmm.AccelKVM, arm64, share(vmm.ShareVirtiofs, false)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, fds := machineOf(tt.accel)
			if tt.set != nil {
				tt.set(cfg, &fds)
			}
			args, err := Args(cfg, tt.host, fds)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tt.name, args)
		})
	}
}

// golden compares arguments with a file that has an option and its value on
// each line.
func golden(t *testing.T, name string, args []string) {
	t.Helper()
	got := strings.Join(args, "\n")
	got = strings.ReplaceAll(got, "\n", " ")
	got = strings.ReplaceAll(got, " -", "\n-") + "\n"
	file := filepath.Join("testdata", name+".args")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update rewrites it):\n%s", file, got)
	}
}

func TestVirtiofsdGolden(t *testing.T) {
	s := vmm.Share{Type: vmm.ShareVirtiofs, Tag: "runm", Path: "/run/runm/share"}
	golden(t, "virtiofsd", VirtiofsdArgs(s, 3, 20000))
	s.ReadOnly = true
	golden(t, "virtiofsd-readonly", VirtiofsdArgs(s, 3, 20000))
}

func TestArgsRefuses(t *testing.T) {
	amd64 := Host{Arch: "amd64"}
	shares := func(n int) []vmm.Share {
		return make([]vmm.Share, n)
	}
	tests := []struct {
		name        string
		host        Host
		set         func(*vmm.Config)
		want        string
		unsupported bool
	}{
		{"accel auto", amd64, func(c *vmm.Config) { c.Accel = vmm.AccelAuto }, `accelerator "auto"`, true},
		{"accel hvf", amd64, func(c *vmm.Config) { c.Accel = vmm.AccelHVF }, `accelerator "hvf"`, true},
		{"arch", Host{Arch: "riscv64"}, func(*vmm.Config) {}, `architecture "riscv64"`, true},
		{"no CPU", amd64, func(c *vmm.Config) { c.CPUs = 0 }, "0 CPUs", false},
		{"no memory", amd64, func(c *vmm.Config) { c.MemoryMiB = 0 }, "0 MiB", false},
		{"share type", amd64, func(c *vmm.Config) { c.Shares = shares(1) }, `of type ""`, true},
		{"long tag", amd64, func(c *vmm.Config) {
			c.Shares = []vmm.Share{{Type: vmm.Share9p, Tag: strings.Repeat("t", 37)}}
		}, "37 bytes", false},
		{"too many devices", amd64, func(c *vmm.Config) {
			for range 7 {
				c.Shares = append(c.Shares, vmm.Share{Type: vmm.Share9p, Tag: "t"})
			}
		}, "9 virtio devices, 8 are possible", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, fds := machineOf(vmm.AccelTCG)
			tt.set(cfg)
			_, err := Args(cfg, tt.host, fds)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Args = %v, want %q", err, tt.want)
			}
			if errors.Is(err, vmm.ErrNotSupported) != tt.unsupported {
				t.Errorf("%v: ErrNotSupported is %v, want %v", err, !tt.unsupported, tt.unsupported)
			}
		})
	}
}

// TestBalloon: memory goes back unless devices of the container's need the slot.
func TestBalloon(t *testing.T) {
	for taken, want := range map[int]bool{7: true, 8: false} {
		cfg, fds := machineOf(vmm.AccelTCG)
		for range taken - 2 { // beside the serial bus and the random source
			cfg.Shares = append(cfg.Shares, vmm.Share{Type: vmm.Share9p, Tag: "t"})
		}
		args, err := Args(cfg, Host{Arch: "amd64"}, fds)
		if err != nil {
			t.Fatal(err)
		}
		line := strings.Join(args, " ")
		for _, word := range []string{"virtio-balloon-device,free-page-reporting=on", "page_reporting_order=3"} {
			if strings.Contains(line, word) != want {
				t.Errorf("%d slots taken: %q there is %v, want %v:\n%s", taken, word, !want, want, line)
			}
		}
	}
}

func TestPortNameIsTheAgents(t *testing.T) {
	if portName != api.PortName {
		t.Errorf("portName %q, want %q", portName, api.PortName)
	}
}

func TestTSC(t *testing.T) {
	tests := []struct {
		name, cpuinfo string
		want          int
	}{
		{"steady", "processor\t: 0\nflags\t\t: fpu constant_tsc\nbogomips\t: 5192.25\n\nprocessor\t: 1\nbogomips\t: 1.00\n\n", 2596125},
		{"unsteady", "flags\t\t: fpu\nbogomips\t: 5192.25\n\n", 0},
		{"no blank line", "flags\t\t: constant_tsc\nbogomips\t: 5200.00", 2600000},
		{"arm", "BogoMIPS\t: 50.00\nFeatures\t: fp\n\n", 0},
		{"empty", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tscKHz(strings.NewReader(tt.cpuinfo))
			if err != nil || got != tt.want {
				t.Errorf("tscKHz = %d, %v, want %d", got, err, tt.want)
			}
		})
	}
	if _, err := tscKHz(strings.NewReader("bogomips: many\n")); err == nil {
		t.Error("a bogomips that is no number is accepted")
	}
}

// TestLayers: a driver knows machines, not containers.
func TestLayers(t *testing.T) {
	out, err := exec.Command(filepath.Join(runtime.GOROOT(), "bin", "go"), "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for dep := range strings.Lines(string(out)) {
		for _, forbidden := range []string{"opencontainers", "runm/libvm/bundle", "runm/libvm/plan", "runm/guest"} {
			if strings.Contains(dep, forbidden) {
				t.Errorf("imports %s", dep)
			}
		}
	}
}
