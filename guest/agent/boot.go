//go:build linux

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// newRoot is where the real root is mounted before it is moved over the
// initramfs; guest/image makes the directory.
const newRoot = "/root"

// cgroupRoot is where the guest's cgroups are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// A mount is one line of mountpoints.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// mountpoints are the guest's own file systems, parents first. Containers get
// theirs from libcontainer. proc, sysfs and devtmpfs come first: os/exec and Go's
// runtime open things in them.
func mountpoints() []mount {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mount{
		{"proc", "/proc", "proc", safe, ""},
		{"sysfs", "/sys", "sysfs", safe, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		// To move a process waits for no grace period of RCU.
		{"cgroup2", cgroupRoot, "cgroup2", safe, "favordynmods"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"},
		{"mqueue", "/dev/mqueue", "mqueue", safe, ""},
		{"tmpfs", "/dev/shm", "tmpfs", safe, "mode=1777"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	}
}

// boot makes the initramfs into a system that can run containers.
func boot() error {
	if err := moveRoot(); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	for _, m := range mountpoints() {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := os.MkdirAll(api.ShareMountpoint, 0o755); err != nil {
		return fmt.Errorf("share: %w", err)
	}
	if err := enableControllers(cgroupRoot); err != nil {
		return fmt.Errorf("cgroup controllers: %w", err)
	}
	if err := rest("/proc/sys"); err != nil {
		return fmt.Errorf("sysctl: %w", err)
	}
	if err := linkDevices(); err != nil {
		return fmt.Errorf("links in /dev: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("interface lo: %w", err)
	}
	return protectSelf()
}

// moveRoot leaves the initramfs: pivot_root, which libcontainer uses, does not
// work on it. The agent's binary stays behind, on a mount that no container can
// reach but through /proc/<pid>/exe, and is read-only so that none can write it
// there (CVE-2019-5736; guest/patches/runc-exeseal.patch relies on it).
func moveRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("initramfs read-only: %w", err)
	}
	if err := unix.Mount("tmpfs", newRoot, "tmpfs", 0, "mode=0755,size=16m"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	if err := os.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter: %w", err)
	}
	return nil
}

// enableControllers offers every controller the kernel has to the cgroups below
// root.
func enableControllers(root string) error {
	names, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	enable := strings.ReplaceAll(" "+strings.TrimSpace(string(names)), " ", " +")
	return os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte(enable), 0)
}

// rest lets an idle guest sleep (Linux, Documentation/admin-guide/sysctl/vm.rst).
// kcompactd would look twice a second whether there is something to do before
// anybody asks for it, and each CPU would add up its counters every second: 40
// wakeups and 3 ms of processor time in each second of each container under TCG.
// root is /proc/sys.
func rest(root string) error {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, set := range []struct{ path, value string }{
		{"vm/compaction_proactiveness", "0"},
		{"vm/stat_interval", "10"}, // seconds
	} {
		err := writeSysctl(dir, set.path, set.value)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without it
			return err
		}
	}
	return nil
}

// linkDevices makes the links that programs expect and devtmpfs lacks.
func linkDevices() error {
	for name, target := range map[string]string{
		"fd":     "/proc/self/fd",
		"stdin":  "/proc/self/fd/0",
		"stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join("/dev", name)); err != nil {
			return err
		}
	}
	return nil
}

// loopbackUp brings up lo of the guest's own network namespace; libcontainer
// does it in those it makes.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	return nil
}

// protectSelf keeps the OOM killer and core dumps away from the agent, and lets
// it open files. What it
// starts would inherit both: see container config (oom_score_adj) for the first;
// the second is a flag of this memory image and ends with execve.
func protectSelf() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("oom_score_adj: %w", err)
	}
	// The agent holds many pipes; the kernel gives process 1 at most 4096.
	nofile := unix.Rlimit{Cur: 1048576, Max: 1048576}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &nofile); err != nil {
		return fmt.Errorf("rlimit: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("dumpable: %w", err)
	}
	return nil
}

// powerOff ends the machine. QEMU runs with -no-reboot, and a reset is the one
// way out that every machine type has without ACPI. Nothing is synced: shares
// write through, and a file server that is gone would hang us here.
func powerOff() {
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	logf("power off: %v", err)
	select {}
}
