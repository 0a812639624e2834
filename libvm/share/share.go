//go:build linux

// Package share builds the directory that a machine is given: the rootfs and
// each bind source at a place of its own, and nothing else of the host.
//
// The mounts are made in the mount namespace of the caller, which must be a
// private one: when its last process ends they are gone, however it ended.
package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/plan"
)

// Staging is the directory to be exported. The guest may write to what is shown
// in it and not to the directory itself: it would make symbolic links there, and
// whoever mounts something later would follow them on the host.
type Staging struct {
	Dir string
	// own is the directory again, writable, at a place without a path.
	own *os.File
}

// New mounts an empty staging directory on dir, which must exist. The host's
// mounts are made slaves first: what the host unmounts later goes here too,
// and nothing mounted here shows on the host (mount_namespaces(7)).
func New(dir string) (*Staging, error) {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("make the host's mounts slaves: %w", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("runm", dir, "tmpfs", flags, "mode=0755,size=1m"); err != nil {
		return nil, fmt.Errorf("mount staging directory %s: %w", dir, err)
	}
	own, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open staging directory %s: %w", dir, err)
	}
	s := &Staging{Dir: dir, own: os.NewFile(uintptr(own), dir)}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &attr); err != nil {
		s.own.Close()
		return nil, fmt.Errorf("make staging directory %s read-only: %w", dir, err)
	}
	return s, nil
}

// writable is where target can be made.
func (s *Staging) writable(target string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(s.own.Fd())), target)
}

// Add shows b's source, in the caller's mount namespace, at b's target.
func (s *Staging) Add(b plan.Bind) error {
	tree, err := Open(b)
	if err != nil {
		return err
	}
	defer tree.Close()
	return s.Attach(b, tree)
}

// Open returns a copy of the mounts at b's source in the caller's mount
// namespace, attached nowhere: a monitor's namespace does not have what was
// mounted after the monitor was started. The source is named for good; later
// renames change nothing.
func Open(b plan.Bind) (*os.File, error) {
	src, err := unix.Open(b.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "mount source", Path: b.Source, Err: err}
	}
	defer unix.Close(src)
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if b.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(src, "", flags)
	if err != nil {
		return nil, fmt.Errorf("copy the mount of %s: %w", b.Source, err)
	}
	return os.NewFile(uintptr(tree), b.Source), nil
}

// Attach shows tree, which Open returned for b, at b's target.
func (s *Staging) Attach(b plan.Bind, tree *os.File) error {
	target := filepath.Join(s.Dir, b.Target)
	var st unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
		return fmt.Errorf("stage %s: %w", b.Source, err)
	}
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFSOCK || kind == unix.S_IFIFO {
		return standIn(s.writable(b.Target), &st)
	}
	if err := makeMountpoint(s.writable(b.Target), b.Dir); err != nil {
		return fmt.Errorf("stage %s: %w", b.Source, err)
	}
	fd := int(tree.Fd())
	// What the host unmounts goes here too, and nothing goes the other way.
	slave := unix.MountAttr{Propagation: unix.MS_SLAVE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &slave); err != nil {
		return fmt.Errorf("stage %s: %w", b.Source, err)
	}
	if b.ReadOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fmt.Errorf("stage %s read-only: %w", b.Source, err)
		}
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("stage %s: %w", b.Source, err)
	}
	return nil
}

// Detach takes b's target away again. A guest that has files of it open keeps
// those.
func (s *Staging) Detach(b plan.Bind) error {
	target := filepath.Join(s.Dir, b.Target)
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil // not attached
	}
	if err != nil && !errors.Is(err, unix.EINVAL) { // a stand-in is no mount
		return fmt.Errorf("unmount %s from the staging directory: %w", b.Source, err)
	}
	// The empty mount point, in our own tmpfs, and what was made for it alone; not
	// what all have, where another one may just be attached.
	for dir := b.Target; filepath.Dir(dir) != "." && os.Remove(s.writable(dir)) == nil; dir = filepath.Dir(dir) {
	}
	return nil
}

// Alone unmounts, in this mount namespace only, every mount that is neither on
// the way to one of paths or trees nor below one of trees. Where the host's mounts are not
// shared, what the host unmounts does not go from here by itself, and a machine
// would hold other containers' file systems for as long as it lives.
func (s *Staging) Alone(paths, trees []string) error {
	trees = append(slices.Clone(trees), s.Dir)
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	// The newest first: it is on top of, or below, an older one.
	for _, m := range slices.Backward(mounts) {
		if needed(m.Mountpoint, paths, trees) {
			continue
		}
		err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		// Gone with one that it was below, or out of reach.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("unmount %s from the monitor's namespace: %w", m.Mountpoint, err)
		}
	}
	return nil
}

func needed(mountpoint string, paths, trees []string) bool {
	onTheWay := func(k string) bool { return within(k, mountpoint) }
	below := func(k string) bool { return within(mountpoint, k) }
	return slices.ContainsFunc(paths, onTheWay) || slices.ContainsFunc(trees, onTheWay) || slices.ContainsFunc(trees, below)
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}

// makeMountpoint makes an empty directory or file, in our own tmpfs.
func makeMountpoint(path string, dir bool) error {
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o444)
}

// standIn makes a socket or named pipe like the one that st describes, in our
// own tmpfs. virtiofsd cannot look up a mount whose root is neither directory
// nor regular file, and the host's end of it cannot be reached anyway.
func standIn(path string, st *unix.Stat_t) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := unix.Mknod(path, st.Mode, 0); err != nil {
		return &os.PathError{Op: "stage", Path: path, Err: err}
	}
	if err := os.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return os.Chmod(path, os.FileMode(st.Mode&0o777)) // mknod heeds the umask
}

// Remove unmounts a staging directory and what is mounted below it, if it is
// mounted. The mount namespace's end does the same.
func Remove(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount staging directory %s: %w", dir, err)
	}
	return nil
}
