//go:build linux

package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// smallDisk gives a box whose --root is a tmpfs of its own.
func smallDisk(t *testing.T, options string) *box {
	t.Helper()
	dir := tmpfs(t, options)
	b := newBox(t)
	b.state, b.scope.State = dir, []string{dir}
	return b
}

// tmpfs mounts one, beside the boxes that are made later: in them it would be a
// mount that was left.
func tmpfs(t *testing.T, options string) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "rf-disk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the box has been looked at
		if err := errors.Join(unix.Unmount(dir, 0), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("faults", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fill leaves so many bytes free, in whole pages.
func (b *box) fill(free int64) {
	b.t.Helper()
	var fs unix.Statfs_t
	b.must(unix.Statfs(b.state, &fs))
	f, err := os.Create(filepath.Join(b.state, filler))
	b.must(err)
	defer f.Close()
	b.must(unix.Fallocate(int(f.Fd()), 0, 0, int64(fs.Bavail)*fs.Bsize-free))
}

// useNames makes files until no more can be made.
func (b *box) useNames() {
	b.t.Helper()
	for i := 0; ; i++ {
		f, err := os.Create(filepath.Join(b.state, fmt.Sprintf("%s%d", filler, i)))
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		b.must(err)
		f.Close()
	}
}

// filler begins the names of files that take up room.
const filler = ".filler"

// wantEmpty asserts that nothing but fillers is in --root, hidden or not.
func (b *box) wantEmpty() {
	b.t.Helper()
	entries, err := os.ReadDir(b.state)
	b.must(err)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), filler) {
			b.t.Errorf("left behind: %s", filepath.Join(b.state, e.Name()))
		}
	}
}

// Where the state does not fit create fails, says why and leaves nothing; where
// it just fits, the container can do all it must and be deleted.
func TestDiskFull(t *testing.T) {
	const page = 4096
	t.Run("bytes", func(t *testing.T) {
		t.Parallel()
		for free := int64(0); ; free += page {
			if free > 16*page {
				t.Fatal("create never succeeded")
			}
			if createOnDisk(t, smallDisk(t, "size=1m,nr_inodes=64"), free) {
				return
			}
		}
	})
	t.Run("inodes", func(t *testing.T) {
		t.Parallel()
		for inodes := 2; ; inodes++ {
			if inodes > 16 {
				t.Fatal("create never succeeded")
			}
			// One is the filler's.
			if createOnDisk(t, smallDisk(t, fmt.Sprintf("size=1m,nr_inodes=%d", inodes)), 64*page) {
				return
			}
		}
	})
}

// createOnDisk takes a container through its life, if it fits.
func createOnDisk(t *testing.T, b *box, free int64) bool {
	t.Helper()
	b.fill(free)
	c := b.container("echo up; exec sleep 1000")
	if r := c.finish(c.creation()); r.code != 0 {
		contains(t, c.read("stderr"), "no space left on device")
		c.wantNothing()
		b.wantEmpty()
		return false
	}
	// Now there is no room at all, neither for bytes nor for names.
	b.must(os.Remove(filepath.Join(b.state, filler)))
	b.fill(0)
	b.useNames()
	c.runs("start", c.id)
	c.prints("stdout", "up\n")
	c.runs("exec", c.id, "true")
	c.runs("pause", c.id)
	c.runs("resume", c.id)
	c.runs("kill", c.id, "KILL")
	c.waitStopped(soon)
	c.runs("delete", c.id)
	c.wantNothing()
	b.wantEmpty()
	return true
}

// A disk that was full for a while costs a container the output of that while,
// and the log says so; the container goes on, and so does its output.
func TestOutputDiskFull(t *testing.T) {
	t.Parallel()
	disk := tmpfs(t, "size=1m")
	// Half a disk too much, so that its rest finds room wherever it is when
	// there is some again.
	c := newBox(t).container(`head -c 1572864 /dev/zero && echo written >&2
until test -e /tmp/gate; do sleep 0.1; done
echo late; exec sleep 1000`)
	stdout, err := os.Create(filepath.Join(disk, "stdout"))
	c.must(err)
	defer stdout.Close()
	cmd := c.creation()
	cmd.Stdout = stdout
	if r := c.finish(cmd); r.code != 0 {
		t.Fatalf("create: status %d: %s", r.code, c.read("stderr"))
	}
	c.runs("start", c.id)
	c.prints("stderr", "written\n")
	waitFor(t, "a warning", soon, func() bool {
		data, err := os.ReadFile(filepath.Join(c.state, c.id, "log"))
		c.must(err)
		return strings.Contains(string(data), "output is lost while it cannot be written: stdout: ") &&
			strings.Contains(string(data), unix.ENOSPC.Error())
	})
	c.must(stdout.Truncate(0)) // there is room
	c.runs("exec", c.id, "sh", "-c", "echo >/tmp/gate")
	waitFor(t, "late output", soon, func() bool {
		data, err := os.ReadFile(stdout.Name())
		c.must(err)
		return strings.HasSuffix(string(data), "late\n")
	})
	c.wantStatus(specs.StateRunning)
	c.runs("delete", "--force", c.id)
	c.wantNothing()
}
