//go:build linux

// Package agenttest boots the agent in a real guest and speaks its protocol,
// without anything else of runm: what the agent promises is tested alone.
package agenttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// Files are what a guest is booted from.
type Files struct {
	Kernel, Initrd, QEMU, Virtiofsd, Busybox string
}

// ErrMissing says what this machine lacks; tests skip then.
var ErrMissing = errors.New("not on this machine")

// Find looks for the files on this machine and builds the initramfs in dir.
// RUNM_KERNEL names a kernel, else the newest that hack/kernel.sh built is
// taken.
func Find(dir string) (*Files, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("%w: cache directory: %w", ErrMissing, err)
	}
	cache = filepath.Join(cache, "runm")
	f := &Files{
		Kernel:    os.Getenv("RUNM_KERNEL"),
		QEMU:      filepath.Join(cache, "qemu/bin/qemu-system-x86_64"),
		Virtiofsd: filepath.Join(cache, "qemu/bin/virtiofsd"),
		Busybox:   "/bin/busybox",
	}
	if f.Kernel == "" {
		f.Kernel = newest(filepath.Join(cache, "kernel", "*", "vmlinux"))
	}
	for _, path := range []string{f.Kernel, f.QEMU, f.Virtiofsd, f.Busybox} {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("%w: guest kernel, QEMU, virtiofsd or busybox: %w", ErrMissing, err)
		}
	}
	f.Initrd = filepath.Join(dir, "initramfs.cpio")
	return f, buildInitrd(dir, f.Initrd)
}

func newest(pattern string) string {
	files, _ := filepath.Glob(pattern) // fails for bad patterns only
	var best string
	var when time.Time
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.ModTime().After(when) {
			best, when = file, info.ModTime()
		}
	}
	return best
}

// buildInitrd builds the agent as the product does, with guest/patches.
func buildInitrd(dir, initrd string) error {
	agent := filepath.Join(dir, "agent")
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	script := filepath.Join(strings.TrimSpace(string(root)), "hack", "agent.sh")
	for _, args := range [][]string{
		{script, agent},
		{"go", "run", "github.com/runm/runm/guest/image", "-agent", agent, "-o", initrd},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

// VM is a booted guest.
type VM struct {
	api.AgentService // its protocol

	Session *yamux.Session
	Share   string // host directory the guest mounts at api.ShareMountpoint
	Exited  <-chan error

	files   *Files
	console string
	qemu    *exec.Cmd
}

// Options vary a guest.
type Options struct {
	MemoryMiB int      // 0 means 512
	Cmdline   []string // added to the kernel's
}

// Boot starts a guest that ends with the test. Hello is the caller's.
func Boot(t testing.TB, f *Files, o Options) *VM {
	t.Helper()
	dir := t.TempDir()
	vm := &VM{files: f, Share: filepath.Join(dir, "share"), console: filepath.Join(dir, "console")}
	must(t, os.MkdirAll(vm.Share, 0o755))
	host, guest := socketpair(t)
	fs := vm.startVirtiofsd(t)
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 512
	}
	vm.qemu = exec.Command(f.QEMU, qemuArgs(f, o, vm.console)...)
	vm.qemu.ExtraFiles = []*os.File{guest, fs} // fds 3 and 4
	vm.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	vm.qemu.Stderr = &stderr
	must(t, vm.qemu.Start())
	guest.Close()
	fs.Close()
	exited := make(chan error, 1)
	vm.Exited = exited
	done := make(chan struct{})
	go func() { exited <- vm.qemu.Wait(); close(done) }()
	t.Cleanup(func() {
		vm.qemu.Process.Kill()
		<-done
		if t.Failed() {
			t.Logf("qemu: %s\nconsole:\n%s", stderr.String(), vm.Console())
		}
	})
	conn, err := net.FileConn(host)
	must(t, err)
	host.Close()
	vm.connect(t, conn)
	return vm
}

// Attach speaks to the agent of a guest that somebody else has booted, over the
// stream to it, which ends with the test. share is the host's directory that the
// guest has as api.ShareTag, by virtiofs; busybox is a static one for the guest's
// CPU.
func Attach(t testing.TB, stream io.ReadWriteCloser, share, busybox string) *VM {
	t.Helper()
	vm := &VM{files: &Files{Busybox: busybox}, Share: share}
	vm.connect(t, stream)
	return vm
}

func qemuArgs(f *Files, o Options, console string) []string {
	memory := fmt.Sprintf("%dM", o.MemoryMiB)
	// init_on_alloc: virtiofsd writes guest memory without TCG's knowledge, so a
	// page that once held code, was freed and became page cache would still run
	// the old translation, unless the guest itself writes it in between.
	cmdline := append([]string{"console=ttyS0", "quiet", "panic=-1", "reboot=t", "8250.nr_uarts=1", "init_on_alloc=1"}, o.Cmdline...)
	if khz := tscKHz(); khz != "" {
		cmdline = append(cmdline, "tsc_early_khz="+khz, "tsc=reliable")
	}
	return []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "microvm,acpi=off,pcie=off,usb=off,graphics=off,memory-backend=ram",
		// Without ERMS and FSRM, whose rep movsb TCG executes byte by byte.
		"-accel", "tcg,tb-size=128", "-cpu", "max,erms=off,fsrm=off",
		"-smp", "1", "-m", memory,
		"-object", "memory-backend-memfd,id=ram,share=on,size=" + memory,
		"-global", "virtio-mmio.force-legacy=false",
		"-kernel", f.Kernel, "-initrd", f.Initrd, "-append", strings.Join(cmdline, " "),
		"-serial", "file:" + console,
		"-device", "virtio-serial-device,max_ports=2",
		"-chardev", "socket,id=agent,fd=3", "-device", "virtserialport,chardev=agent,name=" + api.PortName,
		"-chardev", "socket,id=fs,fd=4", "-device", "vhost-user-fs-device,chardev=fs,tag=" + api.ShareTag,
	}
}

// tscKHz is the TSC's rate, which TCG passes on to the guest.
func tscKHz() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(info)) {
		if rest, ok := strings.CutPrefix(line, "cpu MHz"); ok {
			mhz := strings.Trim(rest, "\t :\n")
			return strings.Replace(mhz, ".", "", 1)
		}
	}
	return ""
}

// startVirtiofsd serves vm.Share and returns QEMU's end of its socket.
func (vm *VM) startVirtiofsd(t testing.TB) *os.File {
	t.Helper()
	path := vm.Share + ".sock"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	listener, err := l.File()
	must(t, err)
	cmd := exec.Command(vm.files.Virtiofsd, "--fd=3", "--shared-dir="+vm.Share, "--sandbox=none", "--cache=auto",
		"--xattr", "--inode-file-handles=prefer", "--rlimit-nofile=4096", "--log-level=warn")
	cmd.ExtraFiles = []*os.File{listener}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	defer conn.Close()
	file, err := conn.File()
	must(t, err)
	listener.Close()
	l.Close()
	return file
}

// connect opens the session on stream, and the protocol's stream on that.
func (vm *VM) connect(t testing.TB, stream io.ReadWriteCloser) {
	t.Helper()
	var err error
	vm.Session, err = api.Host(stream)
	must(t, err)
	t.Cleanup(func() { vm.Session.Close() })
	rpc, err := vm.Session.OpenStream()
	must(t, err)
	client := ttrpc.NewClient(rpc)
	vm.AgentService = api.NewAgentClient(client)
}

// Console returns what the guest wrote to its console.
func (vm *VM) Console() string {
	content, err := os.ReadFile(vm.console)
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// Greet calls Hello with the share.
func (vm *VM) Greet(t testing.TB) *api.HelloResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	resp, err := vm.Hello(ctx, vm.HelloRequest())
	must(t, err)
	return resp
}

// HelloRequest is a valid one.
func (vm *VM) HelloRequest() *api.HelloRequest {
	seed := make([]byte, 64)
	rand.Read(seed)
	return &api.HelloRequest{
		Version: api.Version, UnixNano: time.Now().UnixNano(), Entropy: seed,
		ShareType: "virtiofs", ShareTag: api.ShareTag,
	}
}

func socketpair(t testing.TB) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	return os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "guest")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// CPUTime is what QEMU has used so far, all its threads together: a measure
// that other load on the machine disturbs less than the clock.
func (vm *VM) CPUTime() time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", vm.qemu.Process.Pid))
	if err != nil {
		return 0
	}
	line := string(content)
	f := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}
