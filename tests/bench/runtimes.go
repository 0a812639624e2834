//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// oci is an OCI runtime: runm, or one that stands beside it.
type oci struct {
	name  string
	path  string
	flags []string // before the command
	// unmount is mounted where the runtime must not see it, or "".
	unmount string
}

// unifiedCgroups is where a hybrid machine has cgroup v2.
const unifiedCgroups = "/sys/fs/cgroup/unified"

// peers are the other runtimes that are installed.
func (b *bench) peers() []oci {
	var list []oci
	for _, p := range []oci{
		{name: "runc"},
		// "cgroups in hybrid mode not supported" (crun 1.8), unless it cannot
		// see that the machine has both.
		{name: "crun", unmount: unifiedCgroups},
		{name: "runsc", flags: []string{"--network=none", "--ignore-cgroups"}},
	} {
		path, err := exec.LookPath(p.name)
		if err != nil {
			continue
		}
		p.path = path
		p.flags = append([]string{"--root", filepath.Join(b.dir, p.name)}, p.flags...)
		list = append(list, p)
	}
	return list
}

// tidyPeers unmounts what other runtimes leave mounted below our directory
// (runsc: a network namespace).
func (b *bench) tidyPeers() error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(b.dir))
	if err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	for _, m := range slices.Backward(mounts) {
		if strings.HasPrefix(m.Mountpoint, b.root+"/") {
			continue // runm's, which would be a mistake to be seen
		}
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

func (r oci) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, r.path, append(r.flags[:len(r.flags):len(r.flags)], args...)...)
}

// version is the first line of what it says of itself.
func (r oci) version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, r.path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", r.path, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line, nil
}

// run runs the command to its end; in milliseconds.
func (r oci) run(ctx context.Context, args ...string) (took float64, err error) {
	cmd := r.command(ctx, args...)
	if r.unmount == "" {
		return timed(cmd)
	}
	err = without(r.unmount, func() (err error) { took, err = timed(cmd); return err })
	return took, err
}

// runBundle is `run` of a bundle.
func (r oci) runBundle(ctx context.Context, dir, id string) (float64, error) {
	return r.run(ctx, "run", "--bundle", dir, id)
}

// sleeper starts a container of the bundle in dir, which is removed by remove.
func (r oci) sleeper(ctx context.Context, dir, id string) (remove func() error, err error) {
	remove = func() error {
		_, err := r.run(context.WithoutCancel(ctx), "delete", "--force", id)
		return err
	}
	if _, err := r.run(ctx, "run", "--detach", "--bundle", dir, id); err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

// without calls f on a thread in whose mount namespace path is not mounted: what
// f starts does not see it.
func without(path string, f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread is not given back: it ends with the namespace.
		runtime.LockOSThread()
		if err = unix.Unshare(unix.CLONE_NEWNS); err != nil {
			err = fmt.Errorf("mount namespace: %w", err)
			return
		}
		if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			err = fmt.Errorf("private mounts: %w", err)
			return
		}
		// EINVAL: nothing is mounted there.
		if err = unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("unmount %s: %w", path, err)
			return
		}
		err = f()
	}()
	<-done
	return err
}

// timed runs cmd and returns how long it took, in milliseconds. It fails when
// the command does.
func timed(cmd *exec.Cmd) (float64, error) {
	// A file, because a detached container would hold a pipe open.
	said, err := os.CreateTemp("", "runm-bench-stderr-")
	if err != nil {
		return 0, err
	}
	defer said.Close()
	if err := os.Remove(said.Name()); err != nil {
		return 0, err
	}
	cmd.Stderr = said
	began := time.Now()
	err = cmd.Run()
	took := ms(time.Since(began))
	if err != nil {
		text := make([]byte, 4<<10)
		n, _ := said.ReadAt(text, 0) // all of a short text, and io.EOF
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(text[:n]))
	}
	return took, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
