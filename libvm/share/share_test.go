//go:build linux

package share

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/plan"
)

func TestNeeded(t *testing.T) {
	paths, trees := []string{"/tmp/x"}, []string{"/proc", "/run/runm/c1/share"}
	for mountpoint, want := range map[string]bool{
		"/":                        true,
		"/proc":                    true,
		"/proc/sys/fs/binfmt_misc": true,
		"/run":                     true, // on the way
		"/run/runm/c1/share/binds": true,
		"/run/runm/c2":             false,
		"/procession":              false,
		"/mnt/data":                false,
		"/tmp":                     true,
		"/tmp/x/below":             false,
	} {
		if got := needed(mountpoint, paths, trees); got != want {
			t.Errorf("needed(%q) = %v, want %v", mountpoint, got, want)
		}
	}
}

// inNamespace runs f on a thread with a mount namespace of its own.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

func TestStaging(t *testing.T) {
	host, dir := t.TempDir(), t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(host, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("secrets/wanted", "w")
	write("secrets/sibling", "s")
	tree := filepath.Dir(write("tree/a", "a"))
	socket := filepath.Join(host, "socket")
	if err := unix.Mknod(socket, unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}

	inNamespace(t, func() {
		s, err := New(dir)
		if err != nil {
			t.Error(err)
			return
		}
		for _, b := range []plan.Bind{
			{Source: file, Target: "binds/c1/0/wanted"},
			{Source: tree, Target: "binds/c1/1/tree", Dir: true, ReadOnly: true},
			{Source: socket, Target: "binds/c1/3/socket"},
		} {
			if err := s.Add(b); err != nil {
				t.Error(err)
			}
		}
		entries, err := os.ReadDir(filepath.Join(dir, "binds/c1/0"))
		if err != nil || len(entries) != 1 || entries[0].Name() != "wanted" {
			t.Errorf("beside the file: %v, %v; want it alone", entries, err)
		}
		if st, err := os.Lstat(filepath.Join(dir, "binds/c1/3/socket")); err != nil || st.Mode() != os.ModeSocket|0o666 {
			t.Errorf("the socket: %v, %v", st, err)
		}
		// The guest's server of the share has this way to it and no other.
		if err := os.Symlink("/etc", filepath.Join(dir, "binds/c2")); !errors.Is(err, unix.EROFS) {
			t.Errorf("a symbolic link in the staging directory: %v, want %v", err, unix.EROFS)
		}
		late := plan.Bind{Source: tree, Target: "binds/c2/0/tree", Dir: true}
		if err := s.Add(late); err != nil {
			t.Errorf("one that comes later: %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "binds/c2/0/tree/a")); err != nil {
			t.Error(err)
		}
		if err := s.Detach(late); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(filepath.Join(dir, "binds")); err != nil || len(left) != 1 {
			t.Errorf("after Detach: %v, %v; want c1 alone", left, err)
		}
		err = os.WriteFile(filepath.Join(dir, "binds/c1/1/tree/new"), nil, 0o600)
		if err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("write to a read-only bind: %v", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "binds/c1/0/wanted"), []byte("new"), 0o600); err != nil {
			t.Errorf("write to a file's bind: %v", err)
		}
		if err := s.Add(plan.Bind{Source: filepath.Join(host, "none"), Target: "binds/c1/2/none"}); !os.IsNotExist(err) {
			t.Errorf("Add of a missing source = %v, want a not-exist error", err)
		}
	})
	if text, _ := os.ReadFile(file); string(text) != "new" {
		t.Errorf("the host's file has %q, want what was written through the share", text)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the staging shows outside its namespace: %v", left)
	}
}

func TestAloneUnmountsOthers(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	inNamespace(t, func() {
		s, err := New(dir)
		if err == nil {
			err = unix.Mount("runm-test", other, "tmpfs", 0, "")
		}
		if err == nil {
			err = s.Alone(nil, []string{"/proc", "/sys", "/dev"})
		}
		if err != nil {
			t.Error(err)
			return
		}
		info, err := exec.Command("cat", "/proc/thread-self/mountinfo").Output()
		if err != nil {
			t.Error(err)
			return
		}
		if strings.Contains(string(info), other) {
			t.Errorf("%s is still mounted", other)
		}
		if !strings.Contains(string(info), dir) {
			t.Error("the staging directory is gone")
		}
	})
}
