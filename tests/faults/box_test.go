//go:build linux

package faults

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

	"github.com/runm/runm/tests/internal/leak"
)

const (
	busybox = "/bin/busybox" // Debian's busybox-static
	// commandTime bounds one command of the runtime; create boots a machine,
	// with others beside it.
	commandTime = time.Minute
	// soon bounds what must follow at once, on a machine that is busy.
	soon = 15 * time.Second
	// again is the pause between two looks at a fact that sends no event.
	again = 10 * time.Millisecond
)

// A box is one test's scratch directory: state, bundles and files.
type box struct {
	t     *testing.T
	dir   string
	runm  []string // the runtime's command line, without --root
	state string   // its --root
	scope *leak.Scope
	made  int // counts containers
}

// newBox makes a box. At the end of the test its containers are removed, and
// nothing may be left.
func newBox(t *testing.T) *box {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "rf")
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, dir: dir, runm: []string{tools.runm}, state: filepath.Join(dir, "root")}
	if b.scope, err = leak.New(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(b.state, 0o711)); err != nil {
		t.Fatal(err)
	}
	return b
}

// path is a file in the box.
func (b *box) path(name string) string { return filepath.Join(b.dir, name) }

// close removes what a test that failed did not, and looks for what is left.
func (b *box) close() {
	ids, err := leak.IDs(b.state)
	if err != nil {
		b.t.Error(err)
	}
	for _, id := range ids {
		if r := b.try("delete", "--force", id); r.code != 0 {
			b.t.Errorf("delete --force %s: %s", id, r.stderr)
		}
	}
	leak.Check(b.t, b.scope)
	// RemoveAll would go through a mount to files that are not the test's.
	if mounts, err := b.scope.Mounts(); err != nil || len(mounts) > 0 {
		b.t.Errorf("%s stays: %q, %v", b.dir, mounts, err)
		return
	}
	if err := os.RemoveAll(b.dir); err != nil {
		b.t.Error(err)
	}
}

// wantNothing asserts, before the end of the test, that nothing is left.
func (b *box) wantNothing() {
	b.t.Helper()
	leak.Check(b.t, b.scope)
}

// must ends the test on an error.
func (b *box) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// command is the runtime with the box's --root.
func (b *box) command(args ...string) *exec.Cmd {
	line := append(append(append([]string{}, b.runm...), "--root", b.state), args...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Dir = b.dir
	// A pipe that is open when the command has ended is a fault: see result.
	cmd.WaitDelay = soon
	return cmd
}

// result is what a command came to.
type result struct {
	code           int
	stdout, stderr string
}

// try runs a command to its end, its output through pipes.
func (b *box) try(args ...string) result {
	b.t.Helper()
	return b.finish(b.command(args...))
}

// finish runs cmd to its end and to that of its output.
func (b *box) finish(cmd *exec.Cmd) result {
	b.t.Helper()
	return b.finishIn(commandTime, cmd)
}

func (b *box) finishIn(limit time.Duration, cmd *exec.Cmd) result {
	b.t.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	b.must(cmd.Start())
	code := b.end(cmd, limit)
	return result{code, stdout.String(), stderr.String()}
}

// end waits for a started command and returns its status. One that lasts
// longer than limit is killed and fails the test.
func (b *box) end(cmd *exec.Cmd, limit time.Duration) int {
	b.t.Helper()
	late := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !late.Stop() {
		b.t.Fatalf("%q had not ended after %v", cmd.Args, limit)
	}
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrWaitDelay):
		b.t.Errorf("%q has ended, but somebody holds its output open", cmd.Args)
	case err != nil && !errors.As(err, &exit):
		b.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// runs asserts that a command succeeds and returns what it printed.
func (b *box) runs(args ...string) string {
	b.t.Helper()
	r := b.try(args...)
	if r.code != 0 {
		b.t.Fatalf("%q: status %d: %s", args, r.code, r.stderr)
	}
	return r.stdout
}

// waitFor polls a fact that sends no event.
func waitFor(t *testing.T, what string, limit time.Duration, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !fact(); time.Sleep(again) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v", what, limit)
		}
	}
}

// contains asserts that text says want.
func contains(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q does not say %q", text, w)
		}
	}
}

// A container is a bundle and an id in a box.
type container struct {
	*box
	id, bundle string
	spec       *specs.Spec // written by save
}

// container makes a bundle whose process is script, for busybox's sh. The
// program of guest/ is its /bin/guest.
func (b *box) container(script string) *container {
	b.t.Helper()
	b.made++
	id := fmt.Sprintf("%s-%d", filepath.Base(b.dir), b.made)
	b.scope.Names = append(b.scope.Names, id)
	c := &container{box: b, id: id, bundle: b.path("bundle-" + id), spec: newSpec(script)}
	b.must(makeRootfs(c.path("rootfs")))
	return c
}

// path is a file in the bundle.
func (c *container) path(name string) string { return filepath.Join(c.bundle, name) }

// newSpec is the smallest configuration that a shell is at home in.
func newSpec(script string) *specs.Spec {
	caps := []string{"CAP_KILL", "CAP_SETUID", "CAP_SETGID"}
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
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
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

// makeRootfs makes busybox, its applets and our program under dir.
func makeRootfs(dir string) error {
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "mnt"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{busybox: "busybox", tools.guest: "guest"} {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "bin", to), data, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"sh", "cat", "date", "dd", "echo", "head", "kill", "mkdir", "sleep", "tail", "test", "true", "wc", "yes"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			return err
		}
	}
	return nil
}

// save writes config.json.
func (c *container) save() {
	c.t.Helper()
	config, err := json.Marshal(c.spec)
	c.must(err)
	c.must(os.WriteFile(c.path("config.json"), config, 0o644))
}

// output opens a new file in the bundle for a command's output.
func (c *container) output(name string) *os.File {
	c.t.Helper()
	f, err := os.Create(c.path(name))
	c.must(err)
	c.t.Cleanup(func() { f.Close() })
	return f
}

// read is what a file of the bundle holds now.
func (c *container) read(name string) string {
	c.t.Helper()
	data, err := os.ReadFile(c.path(name))
	c.must(err)
	return string(data)
}

// creation is create, with files for the container's output: they are what
// the container writes to.
func (c *container) creation(args ...string) *exec.Cmd {
	c.t.Helper()
	c.save()
	cmd := c.command(append(append([]string{"create", "--bundle", c.bundle}, args...), c.id)...)
	cmd.Stdout, cmd.Stderr = c.output("stdout"), c.output("stderr")
	return cmd
}

// create asserts that the container can be created.
func (c *container) create() {
	c.t.Helper()
	if r := c.finish(c.creation()); r.code != 0 {
		c.t.Fatalf("create: status %d: %s", r.code, c.read("stderr"))
	}
}

// createFails asserts that it cannot, that nothing is left, and returns why.
func (c *container) createFails() string {
	c.t.Helper()
	if r := c.finish(c.creation()); r.code == 0 {
		c.t.Fatal("create succeeded")
	}
	c.wantNothing()
	return c.read("stderr")
}

// up creates and starts the container and waits until it has printed "up".
func (c *container) up() {
	c.t.Helper()
	c.create()
	c.runs("start", c.id)
	c.prints("stdout", "up\n")
}

// prints waits until a file of the bundle holds text.
func (c *container) prints(name, text string) {
	c.t.Helper()
	waitFor(c.t, fmt.Sprintf("%q in %s", text, name), commandTime, func() bool {
		return strings.Contains(c.read(name), text)
	})
}

// spawn starts a command in the background, its output in files of the bundle.
func (c *container) spawn(name string, args ...string) *exec.Cmd {
	c.t.Helper()
	cmd := c.command(args...)
	cmd.Stdout, cmd.Stderr = c.output(name+".stdout"), c.output(name+".stderr")
	c.must(cmd.Start())
	c.t.Cleanup(func() { // of a test that failed; else it has been waited for
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// status asks the runtime.
func (c *container) status() specs.ContainerState {
	c.t.Helper()
	var s specs.State
	c.must(json.Unmarshal([]byte(c.runs("state", c.id)), &s))
	return s.Status
}

// waitStopped waits until the runtime says so.
func (c *container) waitStopped(limit time.Duration) {
	c.t.Helper()
	waitFor(c.t, "stopped", limit, func() bool { return c.status() == specs.StateStopped })
}

// wantStatus asserts the status.
func (c *container) wantStatus(want specs.ContainerState) {
	c.t.Helper()
	if got := c.status(); got != want {
		c.t.Errorf("status %s, want %s", got, want)
	}
}
