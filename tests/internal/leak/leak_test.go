//go:build linux

package leak

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// one makes a Scope of a short scratch directory.
func one(t *testing.T, names ...string) *Scope {
	t.Helper()
	root, err := os.MkdirTemp("/tmp", "leak")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	s, err := New(root, names...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// found asserts that exactly one thing is left, and that it begins with want.
func found(t *testing.T, s *Scope, want string) {
	t.Helper()
	left, err := s.Left()
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || !strings.HasPrefix(left[0], want) {
		t.Errorf("left %q, want one that begins with %q", left, want)
	}
}

// gone asserts that everything goes away in time.
func gone(t *testing.T, s *Scope) {
	t.Helper()
	left, err := s.Wait(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("left %q, want nothing", left)
	}
}

func TestProcess(t *testing.T) {
	s := one(t)
	starts := map[string]func() *exec.Cmd{
		"command line": func() *exec.Cmd { return exec.Command("sh", "-c", "read x # "+s.Root) },
		"environment": func() *exec.Cmd {
			c := exec.Command("cat")
			c.Env = []string{"X=" + s.Root + "/t"}
			return c
		},
		"directory": func() *exec.Cmd {
			c := exec.Command("cat")
			c.Dir = s.Root
			return c
		},
	}
	for name, start := range starts {
		t.Run(name, func(t *testing.T) {
			cmd := start()
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			found(t, s, "process ")
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			// Not waited for yet: a zombie counts as gone.
			gone(t, s)
			_ = cmd.Wait() // "read" at the end of its input fails, as it should
		})
	}
}

func TestOtherRootIsNotOurs(t *testing.T) {
	s := one(t, "c1")
	for text, want := range map[string]bool{
		s.Root: true, s.Root + "/x": true, "a=" + s.Root + ":b": true,
		s.Root + "2": false, s.Root + "-b": false, s.Root + "2 " + s.Root: true, "/tmp": false, "": false,
	} {
		if s.below(text) != want {
			t.Errorf("below(%q) = %v, want %v", text, !want, want)
		}
	}
	if !s.owns("/x/c1/y") {
		t.Error("a container id is not recognised")
	}
}

func TestState(t *testing.T) {
	s := one(t)
	for _, name := range []string{"c1", ".templates"} {
		if err := os.MkdirAll(filepath.Join(s.Root, "root", name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	found(t, s, "state "+s.Root+"/root/c1")
}

func TestSocket(t *testing.T) {
	s := one(t)
	l, err := net.Listen("unix", filepath.Join(s.Root, "s"))
	if err != nil {
		t.Fatal(err)
	}
	found(t, s, "socket "+s.Root+"/s")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	gone(t, s)
}

func TestMount(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	s := one(t)
	if err := unix.Mount("leak", s.Root, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	left, err := s.Left()
	if err != nil {
		t.Error(err)
	}
	if !slices.Contains(left, "mount "+s.Root) {
		t.Errorf("left %q: the mount is missing", left)
	}
	if err := unix.Unmount(s.Root, 0); err != nil {
		t.Fatal(err)
	}
	gone(t, s)
}

func TestCgroup(t *testing.T) {
	const name = "leak-test-cgroup"
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(dirs) == 0 || os.Getuid() != 0 {
		t.Skip("needs root and a cgroup hierarchy")
	}
	s := one(t, name)
	dir := filepath.Join(filepath.Dir(dirs[0]), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	found(t, s, "cgroup "+dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	gone(t, s)
}

func TestTap(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("making a tap device needs root")
	}
	s := one(t)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no tun driver: %v", err)
	}
	req, err := unix.NewIfreq("leaktap0")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		t.Fatal(err)
	}
	gone(t, s) // held by a process
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	found(t, s, "tap device leaktap0")
	remove, err := exec.Command("ip", "link", "delete", "leaktap0").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, remove)
	}
	gone(t, s)
}

func TestNewRefusesRelativeRoot(t *testing.T) {
	for _, root := range []string{"", "x", "/", "/.."} {
		if _, err := New(root); err == nil {
			t.Errorf("New(%q) took it", root)
		}
	}
}
