//go:build linux

package faults

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// digest is a checksum of everything in a tree: names, types, modes, content.
func digest(t *testing.T, dir string) string {
	t.Helper()
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(sum, path, info.Mode())
		var data []byte
		switch {
		case info.Mode().IsRegular():
			data, err = os.ReadFile(path)
		case info.Mode()&fs.ModeSymlink != 0:
			var target string
			target, err = os.Readlink(path)
			data = []byte(target)
		}
		sum.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// bound gives the container two bind mounts of the user's files: a directory,
// and a file in it. It returns the directory.
func (c *container) bound() string {
	c.t.Helper()
	dir := c.path("source")
	c.must(os.MkdirAll(filepath.Join(dir, "below"), 0o755))
	file := filepath.Join(dir, "below", "file")
	c.must(os.WriteFile(file, []byte("precious"), 0o600))
	c.must(os.WriteFile(filepath.Join(c.path("rootfs"), "mnt", "file"), nil, 0o600))
	c.must(os.MkdirAll(filepath.Join(c.path("rootfs"), "mnt", "dir"), 0o755))
	c.spec.Mounts = append(c.spec.Mounts,
		specs.Mount{Destination: "/mnt/dir", Type: "bind", Source: dir, Options: []string{"rbind", "rw"}},
		specs.Mount{Destination: "/mnt/file", Type: "bind", Source: file, Options: []string{"bind", "ro"}},
	)
	return dir
}

// A create that is killed, at whatever moment, leaves nothing, and the user's
// files as they were.
func TestKilledCreate(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	for _, ms := range []int{0, 5, 10, 20, 30, 45, 60, 90, 130, 200, 300, 450, 600, 800, 1000, 1200, 1500, 2000} {
		c := b.container("exec sleep 1000")
		source := c.bound()
		files, rootfs := digest(t, source), digest(t, c.path("rootfs"))
		cmd := c.creation()
		c.must(cmd.Start())
		// The moment is the input of this test, not a wait for something.
		time.Sleep(time.Duration(ms) * time.Millisecond)
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err == nil {
			// It was quicker, and the container is there.
			c.wantStatus(specs.StateCreated)
			c.runs("delete", c.id)
		}
		b.wantNothing()
		if t.Failed() {
			t.Fatalf("create killed after %d ms", ms)
		}
		if digest(t, source) != files || digest(t, c.path("rootfs")) != rootfs {
			t.Fatalf("create killed after %d ms: the user's files were changed", ms)
		}
	}
}

// hookKinds are the hooks that run during create.
func hookKinds() map[string]func(*specs.Hooks, []specs.Hook) {
	return map[string]func(*specs.Hooks, []specs.Hook){
		"prestart":        func(h *specs.Hooks, l []specs.Hook) { h.Prestart = l }, //nolint:staticcheck // Docker uses it
		"createRuntime":   func(h *specs.Hooks, l []specs.Hook) { h.CreateRuntime = l },
		"createContainer": func(h *specs.Hooks, l []specs.Hook) { h.CreateContainer = l },
	}
}

// hook makes a hook of a script for the host's shell. Its command line names
// the box, so that the check of what is left finds it. It is no file of its
// own: while other tests fork, one just written is busy (ETXTBSY).
func (c *container) hook(script string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script, c.dir}, Env: []string{"PATH=" + os.Getenv("PATH")}}
}

// A signal to create while it runs a hook ends hook and create, and undoes
// everything.
func TestCreateEndsInHook(t *testing.T) {
	for kind, set := range hookKinds() {
		for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGINT} {
			t.Run(kind+"-"+unix.SignalName(sig), func(t *testing.T) {
				t.Parallel()
				c := newBox(t).container("exec sleep 1000")
				source := c.bound()
				c.spec.Hooks = &specs.Hooks{}
				set(c.spec.Hooks, []specs.Hook{c.hook("echo in >" + c.path("in") + "\nexec sleep 1000")})
				cmd := c.creation()
				c.must(cmd.Start())
				c.waitFile("in")
				files := digest(t, source)
				c.must(cmd.Process.Signal(sig))
				if code := c.end(cmd, soon); code == 0 {
					t.Error("create succeeded")
				}
				c.wantNothing()
				if digest(t, source) != files {
					t.Error("the user's files were changed")
				}
			})
		}
	}
}

// waitFile waits for a file in the bundle.
func (c *container) waitFile(name string) {
	c.t.Helper()
	waitFor(c.t, name, commandTime, func() bool { _, err := os.Stat(c.path(name)); return err == nil })
}

// A hook that does not succeed fails create, which says what happened.
func TestHookFails(t *testing.T) {
	second := 1
	scripts := map[string]struct {
		script  string
		timeout *int
		want    []string
	}{
		"fails":  {"echo words of the hook >&2; exit 3", nil, []string{"exit status 3", "words of the hook"}},
		"hangs":  {"sleep 1000", &second, []string{"timed out after 1 s"}},
		"killed": {"kill -9 $$", nil, []string{"signal: killed"}},
	}
	for kind, set := range hookKinds() {
		for how, s := range scripts {
			t.Run(kind+"-"+how, func(t *testing.T) {
				t.Parallel()
				c := newBox(t).container("exec sleep 1000")
				c.spec.Hooks = &specs.Hooks{}
				h := c.hook(s.script)
				h.Timeout = s.timeout
				set(c.spec.Hooks, []specs.Hook{h})
				contains(t, c.createFails(), append(s.want, kind+" hook #0", h.Path)...)
			})
		}
	}
}

// A poststart hook that hangs holds up who called start, and nobody else.
func TestPoststartHangs(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("echo up; exec sleep 1000")
	c.spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{c.hook(
		"echo >" + c.path("in") + "; until [ -e " + c.path("go") + " ]; do sleep 0.1; done; exit 3")}}
	c.create()
	start := c.spawn("start", "start", c.id)
	c.waitFile("in")
	c.wantStatus(specs.StateRunning)
	c.runs("pause", c.id)
	c.runs("resume", c.id)
	if r := c.finishIn(soon, c.command("delete", "--force", c.id)); r.code != 0 {
		t.Errorf("delete: status %d: %s", r.code, r.stderr)
	}
	c.must(os.WriteFile(c.path("go"), nil, 0o644))
	if code := c.end(start, soon); code != 1 {
		t.Errorf("start: status %d, want 1", code)
	}
	stderr := c.read("start.stderr")
	contains(t, stderr, "poststart hook #0", "exit status 3")
	if strings.Contains(stderr, "does not exist") {
		t.Errorf("start blames the container that was deleted: %s", stderr)
	}
	c.wantNothing()
}

// Who deletes a container that is being created, or kills one of its processes
// then, makes create fail, and nothing is left.
func TestEndWhileCreating(t *testing.T) {
	for how, test := range map[string]struct {
		end  func(c *container)
		want string
	}{
		"delete":  {func(c *container) { c.runs("delete", "--force", c.id) }, "deleted while it was being created"},
		"holder":  {func(c *container) { c.must(unix.Kill(c.hostPids()["holder"], unix.SIGKILL)) }, "host process was killed"},
		"monitor": {func(c *container) { c.must(unix.Kill(c.hostPids()["monitor"], unix.SIGKILL)) }, "monitor has ended"},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			c := newBox(t).container("exec sleep 1000")
			c.spec.Hooks = &specs.Hooks{
				CreateRuntime: []specs.Hook{c.hook("echo in >" + c.path("in") + "\nexec sleep 1000")},
				Poststop:      []specs.Hook{c.hook("echo out >" + c.path("out"))},
			}
			cmd := c.creation()
			c.must(cmd.Start())
			c.waitFile("in")
			test.end(c)
			if code := c.end(cmd, soon); code != 1 {
				t.Errorf("create: status %d, want 1", code)
			}
			c.wantNothing()
			contains(t, c.read("stderr"), test.want)
			// "continue the lifecycle at step 12" (runtime.md, "Lifecycle").
			if out := c.read("out"); out != "out\n" {
				t.Errorf("the poststop hook has written %q", out)
			}
		})
	}
}
