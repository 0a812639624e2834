//go:build linux

package qemu_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/libvm/vmm/qemu"
	"github.com/runm/runm/libvm/vmm/vmmtest"
)

// helperEnv makes the test binary start a machine, print its pids and stay.
const helperEnv = "RUNM_TEST_QEMU_HELPER"

func TestMain(m *testing.M) {
	if os.Args[0] == qemu.DiscardArg0 {
		os.Exit(qemu.DiscardMain())
	}
	if args := os.Getenv(helperEnv); args != "" {
		helper(strings.Split(args, "\n"))
	}
	os.Exit(m.Run())
}

func helper(args []string) {
	m, err := qemu.Driver{QEMU: args[0], Virtiofsd: args[1]}.Start(context.Background(), config(args[2], args[3], args[4]))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(m.(vmm.Processes).Pids())
	m.Wait()
	os.Exit(1)
}

func config(kernel, initrd, share string) *vmm.Config {
	return &vmm.Config{
		CPUs: 1, MemoryMiB: 256, Accel: vmm.AccelTCG, Kernel: kernel, Initrd: initrd,
		Shares: []vmm.Share{{Type: vmm.ShareVirtiofs, Tag: "share", Path: share}},
	}
}

func driver(t testing.TB) qemu.Driver {
	t.Helper()
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	return qemu.Driver{
		QEMU:      vmmtest.Program(t, "qemu-system-"+arch),
		Virtiofsd: vmmtest.Program(t, "virtiofsd"),
		RunDir:    t.TempDir(),
	}
}

func TestContract(t *testing.T) {
	d := driver(t)
	cfg := config(vmmtest.Kernel(t), vmmtest.Initrd(t), t.TempDir())
	cfg.Shares = append(cfg.Shares,
		vmm.Share{Type: vmm.ShareVirtiofs, Tag: "ro", Path: t.TempDir(), ReadOnly: true},
		vmm.Share{Type: vmm.Share9p, Tag: "nine", Path: t.TempDir()},
		vmm.Share{Type: vmm.Share9p, Tag: "nine-ro", Path: t.TempDir(), ReadOnly: true})
	vmmtest.Run(t, d, cfg)
	if left, err := os.ReadDir(d.RunDir); err != nil || len(left) != 0 {
		t.Errorf("left in RunDir: %v, %v", left, err)
	}
}

// TestGuest: what the driver promises of the guest beyond the contract.
func TestGuest(t *testing.T) {
	d := driver(t)
	share := t.TempDir()
	cfg := config(vmmtest.Kernel(t), vmmtest.Initrd(t), share)
	cfg.CPUs = 2
	g := vmmtest.Boot(t, d, cfg)
	defer g.End()

	t.Run("a clock finer than jiffies", func(t *testing.T) {
		got := g.Do("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
		if runtime.GOARCH == "amd64" && !strings.HasPrefix(got, "tsc") { // tsc-early at first
			t.Errorf("clocksource %q, want tsc", got)
		}
	})
	t.Run("every CPU is there", func(t *testing.T) {
		if got := g.Do("cat /sys/devices/system/cpu/online"); got != "0-1\n" {
			t.Errorf("online CPUs %q, want 0-1", got)
		}
	})
	t.Run("entropy", func(t *testing.T) {
		if got := g.Do("cat /sys/devices/virtual/misc/hw_random/rng_current"); !strings.HasPrefix(got, "virtio_rng") {
			t.Errorf("random source %q, want virtio_rng", got)
		}
	})
	t.Run("console", func(t *testing.T) {
		g.Do("print shown on the console")
		if !eventually(func() bool { return strings.Contains(string(g.Machine.Console()), "shown on the console") }) {
			t.Errorf("console: %q", g.Machine.Console())
		}
	})
	t.Run("ACLs of the host", func(t *testing.T) {
		file := filepath.Join(share, "acl")
		if err := os.WriteFile(file, nil, 0o640); err != nil {
			t.Fatal(err)
		}
		// Version 2, then tag, permission and id of user::rw-, user:7:r--,
		// group::r--, mask::r--, other::--- (linux/posix_acl_xattr.h).
		const none = "\xff\xff\xff\xff"
		acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00" + none + "\x02\x00\x04\x00\x07\x00\x00\x00" +
			"\x04\x00\x04\x00" + none + "\x10\x00\x04\x00" + none + "\x20\x00\x00\x00" + none
		if err := unix.Setxattr(file, "system.posix_acl_access", []byte(acl), 0); err != nil {
			t.Skip("this filesystem has no ACLs: ", err)
		}
		if got := g.Do("acl " + g.Do("mount virtiofs share") + "/acl"); got != acl {
			t.Errorf("ACL in the guest %q, want %q", got, acl)
		}
	})
	t.Run("a mount made later is seen", func(t *testing.T) {
		dir := g.Do("mount virtiofs share")
		later := filepath.Join(share, "later")
		if err := os.Mkdir(later, 0o755); err != nil {
			t.Fatal(err)
		}
		g.Do("ls " + dir)
		if err := unix.Mount("tmpfs", later, "tmpfs", 0, ""); err != nil {
			t.Skip("this test may not mount: ", err)
		}
		defer unix.Unmount(later, unix.MNT_DETACH)
		if err := os.WriteFile(filepath.Join(later, "file"), []byte("mounted"), 0o644); err != nil {
			t.Fatal(err)
		}
		var got string
		if !eventually(func() bool { got, _ = g.Try("cat " + dir + "/later/file"); return got == "mounted" }) {
			t.Errorf("the guest read %q", got)
		}
	})
}

// TestDevices fills every virtio slot of a microvm: disks are open files, a NIC
// is a tap.
func TestDevices(t *testing.T) {
	d := driver(t)
	cfg := config(vmmtest.Kernel(t), vmmtest.Initrd(t), t.TempDir())
	cfg.Shares = append(cfg.Shares,
		vmm.Share{Type: vmm.ShareVirtiofs, Tag: "two", Path: t.TempDir()},
		vmm.Share{Type: vmm.Share9p, Tag: "three", Path: t.TempDir()})
	written := filepath.Join(t.TempDir(), "disk")
	cfg.Disks = []vmm.Disk{
		{File: disk(t, written, "writable", os.O_RDWR)},
		{File: disk(t, filepath.Join(t.TempDir(), "disk"), "read-only", os.O_RDONLY), ReadOnly: true},
	}
	tap, err := openTap("runmtest0")
	if err != nil {
		t.Skip("no tap: ", err)
	}
	cfg.NICs = []vmm.NIC{{File: tap, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x42}, MTU: 1400}}
	g := vmmtest.Boot(t, d, cfg)
	defer g.End()

	contents := []string{}
	for _, name := range []string{"vda", "vdb"} {
		ro := g.Do("cat /sys/block/" + name + "/ro")
		text, _, _ := strings.Cut(g.Do("cat /dev/"+name), "\x00")
		contents = append(contents, text+" "+strings.TrimSpace(ro))
	}
	slices.Sort(contents)
	if want := []string{"read-only 1", "writable 0"}; !slices.Equal(contents, want) {
		t.Errorf("disks %q, want %q", contents, want)
	}
	g.Do("write /dev/vda guest")
	if !eventually(func() bool {
		b, err := os.ReadFile(written)
		return err == nil && strings.HasPrefix(string(b), "guest")
	}) {
		t.Error("what the guest wrote to its disk is not in the file")
	}
	for file, want := range map[string]string{"address": "02:00:00:00:00:42", "mtu": "1400"} {
		if got := g.Do("cat /sys/class/net/eth0/" + file); got != want+"\n" {
			t.Errorf("%s of the network interface is %q, want %q", file, got, want)
		}
	}
	for _, s := range cfg.Shares {
		g.Do(fmt.Sprintf("mount %s %s", s.Type, s.Tag))
	}
}

func disk(t *testing.T, path, text string, flag int) *os.File {
	t.Helper()
	sectors := make([]byte, 8<<10)
	copy(sectors, text)
	if err := os.WriteFile(path, sectors, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// openTap opens a tap as the monitor does: with virtio's header.
func openTap(name string) (*os.File, error) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// eventually asks until the answer is yes, for the guest's caches have a
// second to notice, and it gives memory back every two.
func eventually(yes func() bool) bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < vmmtest.Timeout; <-tick.C {
		if yes() {
			return true
		}
	}
	return false
}

// TestConfinement: QEMU has no capability, virtiofsd those that owning files
// takes; neither can gain privileges, or has files that it does not need.
func TestConfinement(t *testing.T) {
	d := driver(t)
	share := t.TempDir()
	cfg := config(vmmtest.Kernel(t), vmmtest.Initrd(t), share)
	g := vmmtest.Boot(t, d, cfg)
	defer g.End()
	g.Do("echo up")
	pids := g.Machine.(vmm.Processes).Pids()
	if len(pids) != 2 {
		t.Fatalf("processes %v, want QEMU and virtiofsd", pids)
	}
	// chown, dac_override, dac_read_search (file handles), fowner, fsetid,
	// setgid, setuid, mknod, setfcap.
	const virtiofsdCaps = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<6 | 1<<7 | 1<<27 | 1<<31
	// What has no name but the memory that both have.
	const nameless = `socket:.*|pipe:.*|anon_inode:.*|/memfd:.*|/dev/null`
	for i, want := range []struct {
		caps  uint64
		files string // besides the nameless ones
	}{
		{0, regexp.QuoteMeta(real(t, fmt.Sprintf("/proc/%d/exe", pids[0]))) + "|" + regexp.QuoteMeta(real(t, cfg.Kernel)) + "|" + regexp.QuoteMeta(cfg.Initrd)},
		{virtiofsdCaps, `/proc/\d+/(fd|mountinfo)|` + regexp.QuoteMeta(share) + `(/.*)?`},
	} {
		status := readStatus(t, pids[i])
		for _, set := range []string{"CapPrm", "CapEff", "CapInh", "CapAmb"} {
			caps, err := strconv.ParseUint(status[set], 16, 64)
			if err != nil || caps&^want.caps != 0 {
				t.Errorf("process %d: %s is %q, %v; allowed are %#x", i, set, status[set], err, want.caps)
			}
		}
		for field, value := range map[string]string{"CapBnd": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"} {
			if status[field] != value {
				t.Errorf("process %d: %s is %q, want %s", i, field, status[field], value)
			}
		}
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pids[i]))
		if err != nil || len(fds) == 0 {
			t.Fatalf("descriptors of process %d: %v, %v", i, fds, err)
		}
		allowed := regexp.MustCompile("^(" + nameless + "|" + want.files + ")$")
		for _, fd := range fds {
			if target, err := os.Readlink(fd); err == nil && !allowed.MatchString(target) {
				t.Errorf("process %d has %s", i, target)
			}
		}
	}
}

func real(t *testing.T, path string) string {
	t.Helper()
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// TestMalloc: QEMU's libc does what it is told by qemuMalloc. What it does not
// know it ignores without a word, and glibc's loader says what it has understood.
func TestMalloc(t *testing.T) {
	g := vmmtest.Boot(t, driver(t), config(vmmtest.Kernel(t), vmmtest.Initrd(t), t.TempDir()))
	defer g.End()
	g.Do("echo up") // until then it may be the shell that starts it
	pid := g.Machine.(vmm.Processes).Pids()[0]
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	loader := regexp.MustCompile(`/\S*/ld-linux-\S+`).FindString(string(maps))
	if loader == "" {
		t.Fatalf("no glibc in\n%s", maps)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(loader, "--list-tunables")
	cmd.Env = strings.Split(strings.TrimRight(string(env), "\x00"), "\x00")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"glibc.malloc.mmap_threshold: 0x8000 ", "glibc.malloc.top_pad: 0x8000 "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// readStatus returns the fields of /proc/<pid>/status (proc_pid_status(5)).
func readStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

// TestMemoryGoesBack: what the guest has used and freed is the host's again,
// both where virtiofsd maps the guest's memory too and where nobody does.
func TestMemoryGoesBack(t *testing.T) {
	d := driver(t)
	const used = 200 // MiB
	for _, kind := range []vmm.ShareType{vmm.ShareVirtiofs, vmm.Share9p} {
		t.Run(string(kind), func(t *testing.T) {
			cfg := config(vmmtest.Kernel(t), vmmtest.Initrd(t), t.TempDir())
			cfg.MemoryMiB = 512
			cfg.Shares[0].Type = kind
			g := vmmtest.Boot(t, d, cfg)
			defer g.End()
			g.Do("mount " + string(kind) + " share")
			before := resident(t, g)
			g.Do("touch " + strconv.Itoa(used))
			full := resident(t, g)
			if full < before+used*3/4 {
				t.Fatalf("QEMU has %d MiB, and %d after the guest used %d", before, full, used)
			}
			// Not all: the kernel's free lists keep some, TCG translated more.
			after := full
			if !eventually(func() bool { after = resident(t, g); return after <= full-used*3/4 }) {
				t.Errorf("of %d MiB that the guest has freed, %d are back", used, full-after)
			}
			t.Logf("%d MiB; %d used; %d freed", before, full, after)
		})
	}
}

// resident is the host's memory that QEMU has, in MiB.
func resident(t *testing.T, g *vmmtest.Guest) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.Machine.(vmm.Processes).Pids()[0]))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib >> 10
		}
	}
	t.Fatal("QEMU has no VmRSS")
	return 0
}

// TestManyFiles: a guest that looks at more files than virtiofsd may open
// still sees them all.
func TestManyFiles(t *testing.T) {
	d := driver(t)
	share := t.TempDir()
	const dirs, each = 20, 100
	for i := range dirs {
		dir := filepath.Join(share, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range each {
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(j)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	g := vmmtest.Boot(t, d, config(vmmtest.Kernel(t), vmmtest.Initrd(t), share))
	defer g.End()
	if got, want := g.Do("walk "+g.Do("mount virtiofs share")), strconv.Itoa(1+dirs+dirs*each); got != want {
		t.Errorf("the guest saw %s files, want %s", got, want)
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.Machine.(vmm.Processes).Pids()[1]))
	if err != nil {
		t.Fatal(err)
	}
	if len(open) > dirs*each/2 {
		t.Errorf("virtiofsd holds %d files open: it uses no file handles", len(open))
	}
	t.Logf("virtiofsd holds %d files open", len(open))
}

// TestPanicIsTheEnd: a guest whose kernel panics ends, and the console says
// why.
func TestPanicIsTheEnd(t *testing.T) {
	d := driver(t)
	cfg := config(vmmtest.Kernel(t), vmmtest.Initrd(t), t.TempDir())
	cfg.Cmdline = []string{"rdinit=/nowhere", "root=/dev/nowhere"}
	m, err := d.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(vmmtest.Timeout, m.Kill)
	if err := m.Wait(); err != nil {
		t.Error(err)
	}
	if !timer.Stop() {
		t.Error("the machine has not ended by itself")
	}
	if !strings.Contains(string(m.Console()), "Kernel panic") {
		t.Errorf("console: %q", m.Console())
	}
}

// TestProgramsThatFail: what a program says before it ends is in Wait's error.
func TestProgramsThatFail(t *testing.T) {
	good := driver(t)
	cfg := config(vmmtest.Kernel(t), vmmtest.Initrd(t), t.TempDir())
	tests := []struct {
		name   string
		driver qemu.Driver
		want   string
	}{
		{"QEMU", qemu.Driver{QEMU: script(t, "echo no such machine >&2; exit 3"), Virtiofsd: good.Virtiofsd},
			"qemu: QEMU: exit status 3: no such machine"},
		{"virtiofsd", qemu.Driver{QEMU: good.QEMU, Virtiofsd: script(t, "echo no such directory >&2; exit 4")},
			"virtiofsd: exit status 4: no such directory"},
		{"silent QEMU", qemu.Driver{QEMU: script(t, "exit 1"), Virtiofsd: good.Virtiofsd},
			"qemu: QEMU: exit status 1: it said nothing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := tt.driver.Start(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			err = m.Wait()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Wait = %v, want %q", err, tt.want)
			}
			for _, pid := range m.(vmm.Processes).Pids() {
				if unix.Kill(pid, 0) == nil {
					t.Errorf("process %d is left", pid)
				}
			}
		})
	}
}

func script(t *testing.T, body string) string {
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKilledChild: a machine does not survive the loss of its files, nor
// virtiofsd the loss of QEMU.
func TestKilledChild(t *testing.T) {
	d := driver(t)
	cfg := config(vmmtest.Kernel(t), vmmtest.Initrd(t), t.TempDir())
	for i, want := range []string{"QEMU: signal: killed", "virtiofsd: signal: killed"} {
		t.Run(want, func(t *testing.T) {
			g := vmmtest.Boot(t, d, cfg)
			g.Do("mount virtiofs share")
			if err := unix.Kill(g.Machine.(vmm.Processes).Pids()[i], unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := g.Wait(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Wait = %v, want %q", err, want)
			}
		})
	}
}

// TestDiesWithItsParent: nothing of a machine survives the process that
// started it, however that ended.
func TestDiesWithItsParent(t *testing.T) {
	d := driver(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+strings.Join([]string{
		d.QEMU, d.Virtiofsd, vmmtest.Kernel(t), vmmtest.Initrd(t), t.TempDir()}, "\n"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(line, "[%d %d]", &a, &b); err != nil {
		t.Fatalf("helper: %s", line)
	}
	pidfds := []int{open(t, a), open(t, b)}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for i, fd := range pidfds {
		defer unix.Close(fd)
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 10_000)
		for err == unix.EINTR {
			n, err = unix.Poll(ready, 10_000)
		}
		if n != 1 {
			t.Errorf("process %d lives on: %v", i, err)
		}
	}
}

func open(t *testing.T, pid int) int {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// BenchmarkBoot measures from Start to the guest's first answer.
func BenchmarkBoot(b *testing.B) {
	d := driver(b)
	cfg := config(vmmtest.Kernel(b), vmmtest.Initrd(b), b.TempDir())
	for b.Loop() {
		m, err := d.Start(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		s, err := m.Dial(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprintln(s, "echo up")
		if _, err := bufio.NewReader(s).ReadString('\n'); err != nil {
			b.Fatal(err, string(m.Console()))
		}
		b.StopTimer()
		m.Kill()
		m.Wait()
		s.Close()
		b.StartTimer()
	}
}
