package qemu

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runm/runm/libvm/vmm"
)

// TestSaved: only a migration that QEMU calls complete is one.
func TestSaved(t *testing.T) {
	for answer, want := range map[string]string{
		`{"return": {"status": "completed"}}`:                           "",
		`{"return": {"status": "failed", "error-desc": "no such CPU"}}`: "migration failed: no such CPU",
		`{"return": {"status": "cancelled"}}`:                           "migration cancelled",
		`{"return": {}}`:                                                "migration",
		`{"error": {"class": "GenericError", "desc": "no"}}`:            "GenericError: no",
	} {
		m := &machine{qmp: serveQMP(t, greeting, `{"return": {}}`, answer)}
		err := m.saved(t.Context())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", answer, err, want)
		}
	}
}

// TestVerdictIsOneLine: it is shown in a table, and in a log.
func TestVerdictIsOneLine(t *testing.T) {
	ended := func(name, words string) *process {
		p := &process{name: name, stderr: newTail(stderrTail), done: make(chan struct{}), err: errors.New("exit status 1")}
		close(p.done)
		_, _ = p.stderr.Write([]byte(words))
		return p
	}
	qemu, daemon := ended("QEMU", "no CPU\n"), ended("virtiofsd", "no files\n")
	for want, m := range map[string]*machine{
		"no such state; QEMU: exit status 1: no CPU":                      {qemu: qemu, fault: errors.New("no such state")},
		"virtiofsd: exit status 1: no files; QEMU: exit status 1: no CPU": {qemu: qemu},
	} {
		if err := m.verdict(daemon); err == nil || err.Error() != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestShape: whatever makes another machine has another shape, one thing at a
// time, and nothing else has.
func TestShape(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	replace := func(name string) {
		t.Helper()
		if err := os.WriteFile(file("new"), []byte(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file("new"), file(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"qemu", "virtiofsd", "vmlinux", "initramfs"} {
		replace(name)
	}
	shape := func(accel vmm.Accel, share vmm.ShareType, change func(*Driver, *vmm.Config)) string {
		t.Helper()
		d := Driver{
			QEMU: file("qemu"), Virtiofsd: file("virtiofsd"),
			Host: Host{Arch: "amd64", TSCKHz: 2600000, Root: true, CPU: "one"},
		}
		cfg := vmm.Config{
			CPUs: 1, MemoryMiB: 512, Accel: accel, Kernel: file("vmlinux"), Initrd: file("initramfs"),
			Cmdline: []string{"GODEBUG=x"},
			Shares:  []vmm.Share{{Type: share, Tag: "runm", Path: "/a"}},
			NICs:    []vmm.NIC{{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}},
		}
		change(&d, &cfg)
		s, err := d.Shape(&cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		name   string
		change func(*Driver, *vmm.Config)
		// same: in the machines of these accelerators and shares it makes no
		// difference.
		same []string
	}{
		{"where the share is", func(_ *Driver, c *vmm.Config) { c.Shares[0].Path = "/b" }, []string{"kvm", "tcg"}},
		{"vCPUs", func(_ *Driver, c *vmm.Config) { c.CPUs = 2 }, nil},
		{"memory", func(_ *Driver, c *vmm.Config) { c.MemoryMiB = 1024 }, nil},
		{"command line", func(_ *Driver, c *vmm.Config) { c.Cmdline = append(c.Cmdline, "psi=1") }, nil},
		{"share's tag", func(_ *Driver, c *vmm.Config) { c.Shares[0].Tag = "other" }, nil},
		{"no share", func(_ *Driver, c *vmm.Config) { c.Shares = nil }, nil},
		{"NICs", func(_ *Driver, c *vmm.Config) { c.NICs = append(c.NICs, c.NICs[0]) }, nil},
		{"rate of the TSC", func(d *Driver, _ *vmm.Config) { d.Host.TSCKHz++ }, []string{"kvm"}},
		{"host's CPU", func(d *Driver, _ *vmm.Config) { d.Host.CPU = "other" }, []string{"tcg"}},
		{"vhost-net", func(d *Driver, _ *vmm.Config) { d.Host.VhostNet = true }, []string{"tcg"}},
		{"kernel", func(*Driver, *vmm.Config) { replace("vmlinux") }, nil},
		{"initramfs", func(*Driver, *vmm.Config) { replace("initramfs") }, nil},
		{"QEMU", func(*Driver, *vmm.Config) { replace("qemu") }, nil},
		{"virtiofsd", func(*Driver, *vmm.Config) { replace("virtiofsd") }, []string{"9p"}},
	} {
		seen := map[string]string{}
		for _, accel := range []vmm.Accel{vmm.AccelKVM, vmm.AccelTCG} {
			for _, share := range []vmm.ShareType{vmm.ShareVirtiofs, vmm.Share9p} {
				before := shape(accel, share, func(*Driver, *vmm.Config) {})
				if other := seen[before]; other != "" {
					t.Errorf("%s with %s has the shape of %s", accel, share, other)
				}
				seen[before] = string(accel) + " with " + string(share)
				want := slices.Contains(c.same, string(accel)) || slices.Contains(c.same, string(share))
				if same := shape(accel, share, c.change) == before; same != want {
					t.Errorf("%s, %s with %s: the same shape: %v, want %v", c.name, accel, share, same, want)
				}
			}
		}
	}
	if _, err := (Driver{QEMU: file("none"), Host: Host{Arch: "amd64"}}).Shape(&vmm.Config{CPUs: 1, MemoryMiB: 1, Accel: vmm.AccelTCG}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a QEMU that is not there: %v", err)
	}
}

// TestCPUModel: what a CPU can do counts, and what it does at the moment does not.
func TestCPUModel(t *testing.T) {
	const cpu = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 143\nmicrocode\t: 0x2b\ncpu MHz\t\t: 2600.000\nflags\t\t: fpu vmx\n"
	if got, want := cpuModel(cpu), "GenuineIntel, 143, 0x2b, fpu vmx"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	path := filepath.Join(t.TempDir(), "cpuinfo")
	if err := os.WriteFile(path, []byte(cpu+"\n"+strings.Replace(cpu, "0x2b", "0x2c", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := firstCPU(path); err != nil || got != cpu {
		t.Errorf("the first is %q, %v", got, err)
	}
}
