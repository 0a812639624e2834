//go:build linux

package validation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	busybox = "/bin/busybox" // Debian's busybox-static
	// commandTime bounds one command of the runtime; create boots a machine.
	commandTime = time.Minute
)

// A container is a bundle in a box of its own, and the commands on it.
type container struct {
	t      *testing.T
	box    *box
	id     string
	bundle string
	spec   *specs.Spec // written by create
}

// newContainer makes a bundle with a busybox rootfs whose process is script,
// for sh. It and everything of it is gone at the end of the test.
func newContainer(t *testing.T, script string) *container {
	t.Helper()
	runtimePath(t) // skips before anything is made
	if _, err := os.Stat(busybox); err != nil {
		t.Skipf("no busybox-static: %v", err)
	}
	b := newBox(t)
	c := &container{t: t, box: b, id: filepath.Base(b.dir) + "-c", bundle: filepath.Join(b.dir, "bundle"), spec: newSpec(script)}
	b.scope.Names = append(b.scope.Names, c.id)
	if err := makeRootfs(c.rootfs()); err != nil {
		t.Fatal(err)
	}
	return c
}

// newSpec is the smallest configuration that a shell is at home in.
func newSpec(script string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID"}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args:         []string{"/bin/sh", "-c", script},
			Cwd:          "/",
			Env:          []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=1m"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
			Resources: &specs.LinuxResources{},
		},
	}
}

// namespace replaces the entry of a type; path "" is a new one.
func (c *container) namespace(kind specs.LinuxNamespaceType, path string) {
	c.without(kind)
	c.spec.Linux.Namespaces = append(c.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
}

// without removes the entries of some types.
func (c *container) without(kinds ...specs.LinuxNamespaceType) {
	var rest []specs.LinuxNamespace
	for _, ns := range c.spec.Linux.Namespaces {
		keep := true
		for _, kind := range kinds {
			keep = keep && ns.Type != kind
		}
		if keep {
			rest = append(rest, ns)
		}
	}
	c.spec.Linux.Namespaces = rest
}

// makeRootfs makes busybox and its applets under dir.
func makeRootfs(dir string) error {
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		return err
	}
	names, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox --list: %w", err)
	}
	for _, name := range strings.Fields(string(names)) {
		if name == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) rootfs() string { return filepath.Join(c.bundle, "rootfs") }

// out is what the container's process wrote to stdout and stderr so far. They
// are files, as the suite has them: create's fds are the container's.
func (c *container) out() (stdout, stderr string) {
	c.t.Helper()
	var text [2]string
	for i, name := range []string{"stdout", "stderr"} {
		data, err := os.ReadFile(filepath.Join(c.box.dir, name))
		if err != nil {
			c.t.Fatal(err)
		}
		text[i] = string(data)
	}
	return text[0], text[1]
}

// create writes config.json and creates the container. The error has what
// create wrote to stderr.
func (c *container) create() error {
	c.t.Helper()
	config, err := json.MarshalIndent(c.spec, "", "  ")
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.bundle, "config.json"), config, 0o644); err != nil {
		c.t.Fatal(err)
	}
	var files [2]*os.File
	for i, name := range []string{"stdout", "stderr"} {
		if files[i], err = os.Create(filepath.Join(c.box.dir, name)); err != nil {
			c.t.Fatal(err)
		}
		defer files[i].Close()
	}
	cmd := c.command("create", "--bundle", c.bundle, c.id)
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	if err := bounded(cmd); err != nil {
		_, stderr := c.out()
		return fmt.Errorf("create: %w: %s", err, stderr)
	}
	return nil
}

// call runs another command on the container, as clients do: with pipes that
// it reads to their end. The error has stderr, which is returned as well.
func (c *container) call(name string, args ...string) (stdout, stderr string, err error) {
	var o, e bytes.Buffer
	cmd := c.command(append([]string{name}, args...)...)
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := bounded(cmd); err != nil {
		return o.String(), e.String(), fmt.Errorf("%s: %w: %s", name, err, e.String())
	}
	return o.String(), e.String(), nil
}

func (c *container) start() error {
	_, _, err := c.call("start", c.id)
	return err
}

func (c *container) delete() error {
	_, _, err := c.call("delete", c.id)
	return err
}

// state asks the runtime.
func (c *container) state() (specs.State, error) {
	var s specs.State
	text, _, err := c.call("state", c.id)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("state: %w: %s", err, text)
	}
	return s, nil
}

// must ends the test on an error.
func (c *container) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// wantStatus asserts the status, and returns the state.
func (c *container) wantStatus(want specs.ContainerState) specs.State {
	c.t.Helper()
	s, err := c.state()
	c.must(err)
	if s.Status != want {
		c.t.Fatalf("status %s, want %s", s.Status, want)
	}
	return s
}

// wantNoContainer asserts that the runtime does not know the container.
func (c *container) wantNoContainer() {
	c.t.Helper()
	if s, err := c.state(); err == nil {
		c.t.Errorf("the container is still there: %+v", s)
	}
}

// wait waits until the process pid, state.pid of a running container, has
// ended, and asserts that the container is stopped then.
func (c *container) wait(pid int) {
	c.t.Helper()
	waitPid(c.t, pid, commandTime)
	c.wantStatus(specs.StateStopped)
}

// run takes the container through its whole life, and returns its output.
func (c *container) run() (stdout string) {
	c.t.Helper()
	c.must(c.create())
	pid := c.wantStatus(specs.StateCreated).Pid
	c.must(c.start())
	c.wait(pid)
	stdout, stderr := c.out()
	if stderr != "" {
		c.t.Logf("stderr: %s", stderr)
	}
	c.must(c.delete())
	c.wantNoContainer()
	return stdout
}

// command is the runtime, in the test's scratch directory.
func (c *container) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.box.runtime, args...)
	cmd.Env = c.box.env()
	cmd.Dir = c.box.dir
	cmd.WaitDelay = 10 * time.Second // a pipe that a long-lived process kept
	return cmd
}

// bounded runs cmd, at most for commandTime.
func bounded(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	late := time.AfterFunc(commandTime, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !late.Stop() {
		return errors.Join(fmt.Errorf("killed after %v", commandTime), err)
	}
	return err
}

// waitPid waits until a process that need not be our child has ended.
func waitPid(t *testing.T, pid int, limit time.Duration) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatalf("pidfd of %d: %v", pid, err)
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(limit)
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("poll pidfd of %d: %v", pid, err)
		}
		if n == 0 {
			t.Fatalf("process %d is still there after %v", pid, limit)
		}
		return
	}
}

// sh runs a script on the host.
func (c *container) sh(script string) {
	c.t.Helper()
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
}
