//go:build linux

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// VictimArg0 is the name under which runm is the process that OutOfMemory
// sacrifices.
const VictimArg0 = "runm-oom"

// victimLimit in bytes is what the cgroup is left with while the victim asks
// for twice as much. The holder, alone with it, has some 10 MiB.
const victimLimit = 64 << 20

// OutOfMemory makes the kernel count an out-of-memory kill in the cgroup. The
// guest's kernel has killed a process of the container, and clients watch the
// host's counters alone: v1's eventfd on memory.oom_control, v2's
// memory.events. Nobody may write those, and on v1 the watchers of a cgroup
// hear nothing of its children. So a process of ours is put into the cgroup
// and asks for more than there is.
//
// It is for a container whose machine is gone: the memory limit stays low.
// The kernel kills the victim and nobody else (oom_score_adj, proc(5)).
func (c *Cgroup) OutOfMemory(ctx context.Context) error {
	dir := c.m.Path("memory")
	if dir == "" {
		return nil // a host without the controller has no counters to watch
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{VictimArg0}
	cmd.Dir = "/"
	cmd.Env = []string{"GOMAXPROCS=1"}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("out of memory: %w", err)
	}
	err = sentence(dir, cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
	}
	stdin.Close()
	werr := cmd.Wait()
	if err == nil && !killed(cmd.ProcessState) {
		err = fmt.Errorf("the victim was not killed: %w", errors.Join(werr, context.Cause(ctx)))
	}
	if err != nil {
		return fmt.Errorf("out of memory: %w", err)
	}
	return nil
}

// sentence moves the victim into the memory cgroup dir and lowers the limit.
func sentence(dir string, pid int) error {
	limit := "memory.max"
	if !cgroups.IsCgroup2UnifiedMode() {
		limit = "memory.limit_in_bytes"
	}
	for _, w := range []struct{ file, text string }{
		// First, so that it is never another process that is chosen.
		{fmt.Sprintf("/proc/%d/oom_score_adj", pid), "1000"},
		{filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)},
		{filepath.Join(dir, limit), strconv.Itoa(victimLimit)},
	} {
		if err := os.WriteFile(w.file, []byte(w.text), 0); err != nil {
			return err
		}
	}
	return nil
}

func killed(s *os.ProcessState) bool {
	ws, ok := s.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == unix.SIGKILL
}

// VictimMain is the victim's life: it waits until it is in the cgroup, and
// asks for more memory than there is. It returns if that is not its end.
func VictimMain() int {
	_, _ = io.Copy(io.Discard, os.Stdin)
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_POPULATE
	// Locked, where that is allowed: swap would be a way out.
	mem, err := unix.Mmap(-1, 0, 2*victimLimit, prot, flags|unix.MAP_LOCKED)
	if err != nil {
		mem, err = unix.Mmap(-1, 0, 2*victimLimit, prot, flags)
	}
	if err != nil {
		return 1
	}
	// What could not be populated is asked for page by page.
	for i := 0; i < len(mem); i += os.Getpagesize() {
		mem[i] = 1
	}
	return 1
}
