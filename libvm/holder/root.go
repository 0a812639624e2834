//go:build linux

package holder

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// changeRoot makes the working directory, the container's rootfs, the root of
// this process: clients read and write /proc/<pid>/root, which must never be
// the host's. The directory is the one that create opened; no path is followed.
// In a mount namespace that was joined only the calling thread's root changes.
func changeRoot(req Prepare) error {
	if !req.Pivot {
		if err := unix.Chroot("."); err != nil {
			return fmt.Errorf("chroot to the rootfs: %w", err)
		}
		return nil
	}
	// What the host unmounts goes here too, and nothing goes back.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts slaves: %w", err)
	}
	const clone = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH | unix.AT_RECURSIVE
	root, err := unix.OpenTree(unix.AT_FDCWD, "", clone)
	if err != nil {
		return fmt.Errorf("bind the rootfs: %w", err)
	}
	defer unix.Close(root)
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, ".", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount the rootfs: %w", err)
	}
	if err := unix.Fchdir(root); err != nil {
		return fmt.Errorf("enter the rootfs: %w", err)
	}
	if req.Proc {
		// Not every host lets every user namespace mount a proc, and not
		// every rootfs has the directory. The container's own is in the guest.
		_ = mountProc(root)
	}
	// The old root ends up on top of the new one (pivot_root(2), "pivot_root(".",
	// ".")"), from where it is unmounted.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir: %w", err)
	}
	return nil
}

func mountProc(root int) error {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	}
	dir, err := unix.Openat2(root, "proc", &how)
	if err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	defer unix.Close(dir)
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	defer unix.Close(mnt)
	err = unix.MoveMount(mnt, "", dir, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return errors.Join(errors.New("proc"), err)
	}
	return nil
}
