//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm"
	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/network"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/vmm/qemu"
)

// gatherFacts looks at this machine and changes nothing.
func gatherFacts(ctx context.Context, cfg config.Config, root string) facts {
	f := facts{UID: os.Geteuid(), Share: cfg.Share, Root: root, NeedMiB: cfg.MemoryMiB}
	f.Accel, f.AccelReason, f.AccelErr = qemu.Accelerator(cfg.Accel)
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	f.Assets = cfg.FindAssets(exe)
	f.QEMU = versionOf(ctx, f.Assets.QEMU)
	f.Virtiofsd = versionOf(ctx, f.Assets.Virtiofsd)
	f.Cgroups, f.Controllers = cgroupFacts()
	f.NetworkErr, f.LoopbackErr = network.Probe(), network.ProbeLoopback()
	f.RootFS, f.RootErr = stateRoot(root)
	if available, err := proc.AvailableMemory(); err == nil { // 0 when unknown
		f.MemoryMiB = int(available >> 20)
	}
	f.Templates = templateFacts(cfg)
	return f
}

// templateFacts looks into the store.
func templateFacts(cfg config.Config) templates {
	s := libvm.TemplateStore(cfg)
	t := templates{Off: cfg.Template == config.TemplateOff, Dir: s.Dir, Most: s.Count, MostBytes: s.Bytes}
	all, err := s.List()
	if err == nil {
		t.Failure, err = s.LastFailure()
	}
	if err == nil {
		// The store itself is made when it is first needed.
		t.FS, err = stateRoot(filepath.Dir(s.Dir))
	}
	t.Err = err
	for _, a := range all {
		t.Count++
		t.Bytes += a.Bytes
	}
	return t
}

// versionTimeout bounds how long a program may take to say its version.
const versionTimeout = 10 * time.Second

// versionOf asks a program for its version; "" is no program.
func versionOf(ctx context.Context, path string) programVersion {
	if path == "" {
		return programVersion{}
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	line, _, _ := bytes.Cut(out, []byte("\n"))
	if ctx.Err() != nil {
		err = fmt.Errorf("no answer for %v", versionTimeout)
	} else if err != nil && len(line) > 0 {
		err = fmt.Errorf("%w: %s", err, line)
	}
	return programVersion{Line: string(line), Err: err}
}

// cgroupFacts says which cgroups there are and which controllers they have.
func cgroupFacts() (mode string, controllers []string) {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return "", nil
	}
	switch st.Type {
	case unix.CGROUP2_SUPER_MAGIC:
		mode = "v2"
		data, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		controllers = strings.Fields(string(data))
	case unix.TMPFS_MAGIC:
		mode = "v1"
		if cgroups.IsCgroup2HybridMode() {
			mode = "hybrid"
		}
		controllers, _ = cgroups.GetAllSubsystems()
		controllers = slices.DeleteFunc(controllers, func(name string) bool {
			_, err := os.Stat(filepath.Join("/sys/fs/cgroup", name))
			return err != nil
		})
	default:
		return "", nil
	}
	slices.Sort(controllers)
	return mode, controllers
}

// stateRoot names the file system that root is or would be on, and why nothing
// can be made there.
func stateRoot(root string) (name string, err error) {
	dir := root
	for {
		_, err = os.Stat(dir)
		if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	if err != nil {
		return "", err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return "", &os.PathError{Op: "write to", Path: dir, Err: err}
	}
	return fsName(int64(st.Type)), nil
}

func fsName(magic int64) string {
	switch magic {
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	default:
		return fmt.Sprintf("a file system of type %#x", magic)
	}
}
