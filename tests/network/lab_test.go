//go:build linux

package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/tests/internal/leak"
)

const (
	busybox = "/bin/busybox" // Debian's busybox-static
	// soon bounds what follows a change by itself, on a machine that is busy.
	soon = 20 * time.Second
	// again is the pause between two looks at a fact that sends no event.
	again = 50 * time.Millisecond
	// commandTime bounds one command; create boots a machine.
	commandTime = time.Minute
)

// A lab is one test's scratch directory and network namespaces. Nothing of it
// is in the host's namespace, so labs do not see each other.
type lab struct {
	t     *testing.T
	dir   string
	scope *leak.Scope
	made  int // counts containers and interfaces
	// out is the outside: a bridge br0 with 10.77.0.1/24 and fd00:77::1/64.
	out        netns
	namespaces []*os.File
}

func newLab(t *testing.T) *lab {
	t.Helper()
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "rn")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, dir: dir}
	if l.scope, err = leak.New(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	l.must(errors.Join(os.Chmod(dir, 0o755), os.Mkdir(l.root(), 0o711)))
	l.out = l.netns()
	l.out.sh(`ip link set lo up
		ip link add br0 type bridge
		ip addr add 10.77.0.1/24 dev br0
		ip addr add fd00:77::1/64 dev br0 nodad
		ip link set br0 up`)
	return l
}

func (l *lab) root() string { return filepath.Join(l.dir, "root") }

// close removes the containers, and looks for what they left.
func (l *lab) close() {
	ids, err := leak.IDs(l.root())
	if err != nil {
		l.t.Error(err)
	}
	for _, id := range ids {
		if l.t.Failed() {
			log, _ := os.ReadFile(filepath.Join(l.root(), id, "log"))
			l.t.Logf("log of %s:\n%s", id, log)
		}
		if r := l.try("delete", "--force", id); r.err != nil {
			l.t.Errorf("delete --force %s: %v", id, r.err)
		}
	}
	for _, f := range l.namespaces {
		f.Close()
	}
	leak.Check(l.t, l.scope)
	if err := os.RemoveAll(l.dir); err != nil {
		l.t.Error(err)
	}
}

// must ends the test on an error.
func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// result is what a command came to; err is nil, or has what it printed.
type result struct {
	stdout string
	err    error
}

// command runs cmd to its end.
func (l *lab) command(cmd *exec.Cmd) result {
	l.t.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
	}
	cmd.WaitDelay = soon // a pipe that stays open is a fault
	l.must(cmd.Start())
	late := time.AfterFunc(commandTime, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !late.Stop() {
		l.t.Errorf("%q had not ended after %v", cmd.Args, commandTime)
	}
	if err != nil {
		err = fmt.Errorf("%q: %w: %s%s", cmd.Args, err, stderr.String(), stdout.String())
	}
	return result{stdout.String(), err}
}

// try runs the runtime.
func (l *lab) try(args ...string) result {
	l.t.Helper()
	return l.command(exec.Command(runm, append([]string{"--debug", "--root", l.root()}, args...)...))
}

// netns is a network namespace by its path.
type netns struct {
	l    *lab
	path string
}

// netns makes a network namespace that lasts as long as the test. Its path is a
// descriptor's and no mount, which would get into others' mount namespaces.
func (l *lab) netns() netns {
	l.t.Helper()
	made := make(chan error)
	var file *os.File
	go func() {
		// The thread is not given back: it ends with the namespace.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		made <- err
	}()
	l.must(<-made)
	l.namespaces = append(l.namespaces, file)
	return netns{l, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd())}
}

// try runs a shell script in the namespace.
func (n netns) try(script string) result {
	n.l.t.Helper()
	return n.l.command(exec.Command("nsenter", "--net="+n.path, "sh", "-ec", script))
}

// sh is try, and wants success. It returns what the script printed.
func (n netns) sh(script string) string {
	n.l.t.Helper()
	r := n.try(script)
	n.l.must(r.err)
	return r.stdout
}

// do calls f on a thread in the namespace, which ends with f.
func (n netns) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(n.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// plug puts an interface into n whose other end is a port of the bridge, with
// these addresses, and turns it on.
func (n netns) plug(name string, addresses ...string) {
	n.l.t.Helper()
	n.l.made++
	n.l.out.sh(fmt.Sprintf(`ip link add port%[1]d type veth peer name %[2]s netns %[3]s
		ip link set port%[1]d master br0 up`, n.l.made, name, n.path))
	for _, a := range addresses {
		nodad := ""
		if strings.Contains(a, ":") {
			nodad = "nodad"
		}
		n.sh(fmt.Sprintf("ip addr add %s dev %s %s", a, name, nodad))
	}
	n.sh(fmt.Sprintf("ip link set %s up", name))
}

// mac is an interface's.
func (n netns) mac(name string) string {
	n.l.t.Helper()
	return strings.Fields(n.sh("ip -br link show " + name))[2]
}

// A container is a bundle and an id in a lab.
type container struct {
	*lab
	id, bundle string
	spec       *specs.Spec // written by save
}

// container makes a bundle that does nothing until it is killed. ns "" is a new
// network namespace.
func (l *lab) container(ns string) *container {
	l.t.Helper()
	l.made++
	id := fmt.Sprintf("%s-%d", filepath.Base(l.dir), l.made)
	l.scope.Names = append(l.scope.Names, id)
	c := &container{lab: l, id: id, bundle: filepath.Join(l.dir, "bundle-"+id), spec: newSpec(ns)}
	l.must(makeRootfs(filepath.Join(c.bundle, "rootfs")))
	return c
}

func newSpec(ns string) *specs.Spec {
	caps := []string{"CAP_KILL", "CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", "trap exit TERM; while :; do sleep 1000 & wait; done"}, Cwd: "/",
			Env:          []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=1m"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.NetworkNamespace, Path: ns}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
			Resources: &specs.LinuxResources{},
		},
	}
}

// makeRootfs makes busybox, its applets and our program under dir.
func makeRootfs(dir string) error {
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{busybox: "busybox", guest: "guest"} {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "bin", to), data, 0o755); err != nil {
			return err
		}
	}
	for _, name := range strings.Fields("sh cat cmp dd echo grep hexdump head ip kill ls killall md5sum nc nslookup ping printf readlink sha256sum sleep test timeout true udhcpc wc") {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			return err
		}
	}
	return nil
}

// tryCreate writes config.json and creates the container.
func (c *container) tryCreate() result { c.t.Helper(); return c.tryCreateIn(c.root()) }

// tryCreateIn is tryCreate with another --root.
func (c *container) tryCreateIn(root string) result {
	c.t.Helper()
	config, err := json.Marshal(c.spec)
	c.must(err)
	c.must(os.WriteFile(filepath.Join(c.bundle, "config.json"), config, 0o644))
	cmd := exec.Command(runm, "--debug", "--root", root, "create", "--bundle", c.bundle, c.id)
	// They are the container's, for as long as it lives.
	out, err := os.Create(filepath.Join(c.bundle, "output"))
	c.must(err)
	defer out.Close()
	errs, err := os.Create(filepath.Join(c.bundle, "errors"))
	c.must(err)
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = out, errs
	r := c.command(cmd)
	if r.err != nil {
		r.err = fmt.Errorf("%w%s", r.err, c.read("errors"))
	}
	return r
}

// read is what a file of the bundle holds now.
func (c *container) read(name string) string {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.bundle, name))
	c.must(err)
	return string(data)
}

func (c *container) create() {
	c.t.Helper()
	c.must(c.tryCreate().err)
}

func (c *container) start() {
	c.t.Helper()
	c.must(c.try("start", c.id).err)
}

// run is create and start.
func (c *container) run() {
	c.t.Helper()
	c.create()
	c.start()
}

// netns is the container's namespace on the host.
func (c *container) netns() netns {
	c.t.Helper()
	r := c.try("state", c.id)
	c.must(r.err)
	var s specs.State
	c.must(json.Unmarshal([]byte(r.stdout), &s))
	return netns{c.lab, fmt.Sprintf("/proc/%d/ns/net", s.Pid)}
}

// sh runs a script in the container, wants success and returns its output.
func (c *container) sh(script string) string {
	c.t.Helper()
	r := c.try("exec", c.id, "sh", "-c", script)
	c.must(r.err)
	return r.stdout
}

// waitFor polls a fact that sends no event.
func (l *lab) waitFor(what string, fact func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(soon); !fact(); time.Sleep(again) {
		if time.Now().After(deadline) {
			l.t.Fatalf("%s: not after %v", what, soon)
		}
	}
}

// contains asserts that text says want.
func (l *lab) contains(text string, want ...string) {
	l.t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			l.t.Errorf("%q does not say %q", text, w)
		}
	}
}

// monitor is the pid of a container's monitor, as state.json has it.
func (l *lab) monitor(id string) int {
	l.t.Helper()
	data, err := os.ReadFile(filepath.Join(l.root(), id, "state.json"))
	l.must(err)
	var s struct {
		Monitor struct{ Pid int }
	}
	l.must(json.Unmarshal(data, &s))
	if s.Monitor.Pid == 0 {
		l.t.Fatalf("no monitor in %s", data)
	}
	return s.Monitor.Pid
}
