//go:build linux

package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/proc"
)

func TestLifeOfADirectory(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	d, err := Create(root, "c1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(root, "c1"); !errors.Is(err, ErrExist) {
		t.Errorf("second Create = %v, want ErrExist", err)
	}
	if err := d.Save(&State{ID: "c1", Bundle: "/b"}); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Load(); err != nil || s.Bundle != "/b" {
		t.Errorf("Load = %+v, %v", s, err)
	}
	if ids, err := List(root); err != nil || len(ids) != 1 || ids[0] != "c1" {
		t.Errorf("List = %v, %v", ids, err)
	}
	if err := os.Mkdir(ShareDir(root, proc.ID{Pid: 7, Start: 8}), 0o700); err != nil {
		t.Fatal(err)
	}
	if ids, err := List(root); err != nil || len(ids) != 1 {
		t.Errorf("List beside a staging directory = %v, %v", ids, err)
	}
	if err := d.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := Open(root, "c1"); !errors.Is(err, ErrNotExist) {
		t.Errorf("Open after Remove = %v, want ErrNotExist", err)
	}
	if err := d.Remove(); err != nil {
		t.Errorf("second Remove: %v", err)
	}
}

func TestCreateFollowsTheRoot(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := Create(filepath.Join(dir, "link", "root"), "c1")
	if want := filepath.Join(dir, "real", "root", "c1"); err != nil || string(d) != want {
		t.Errorf("Create = %s, %v, want %s", d, err, want)
	}
}

func TestIDsNeverLeaveTheRoot(t *testing.T) {
	for _, id := range []string{"", ".", "..", "../x", "a/b", "/etc"} {
		if _, err := Create(t.TempDir(), id); err == nil {
			t.Errorf("Create(%q) was accepted", id)
		}
	}
}

// Whatever is mounted below the directory is somebody's files.
func TestRemoveNeverDeletesWhatIsMountedBelow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	precious := t.TempDir()
	file := filepath.Join(precious, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Create(t.TempDir(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	share := filepath.Join(string(d), LogFile)
	if err := os.Mkdir(share, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(precious, share, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(share, unix.MNT_DETACH) })
	if err := d.Remove(); err == nil {
		t.Error("Remove of a directory with a mount succeeded")
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the mounted file is gone: %v", err)
	}
}

// A --root that was mistyped makes containers of directories that are none.
func TestRemoveLeavesForeignDirectoriesAlone(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "ssh")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"log", "sshd_config"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := Open(root, "ssh")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(); err == nil || !strings.Contains(err.Error(), `"sshd_config"`) {
		t.Errorf("Remove: %v, want an error that names what is not ours", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("left: %v, want both files", left)
	}
}

func TestLock(t *testing.T) {
	d, err := Create(t.TempDir(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	first, err := d.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if f, err := d.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock: %v, %v", f, err)
	}
	// Who has waited while the container was deleted, and another got its id.
	second := make(chan error)
	go func() {
		_, err := d.Lock(t.Context())
		second <- err
	}()
	for { // until the second has the directory open
		fds, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		open := 0
		for _, fd := range fds {
			if target, err := os.Readlink(fd); err == nil && target == string(d) {
				open++
			}
		}
		if open == 2 {
			break
		}
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(string(d), 0o700); err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := <-second; !errors.Is(err, ErrNotExist) {
		t.Errorf("the lock of what was deleted: %v, want %v", err, ErrNotExist)
	}
	if third, err := d.Lock(t.Context()); err != nil {
		t.Error(err)
	} else {
		third.Close()
	}
}
