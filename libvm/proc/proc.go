//go:build linux

// Package proc names host processes so that a recycled pid is never mistaken
// for one of ours, and tells how much memory the host has left.
package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ID is a process: its pid and when it started, in clock ticks since boot
// (proc(5), /proc/pid/stat field 22). The zero ID names no process.
type ID struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// Self is the calling process.
func Self() (ID, error) { return Find(os.Getpid()) }

// tick is that of /proc's times (USER_HZ; the kernel's own may be shorter).
const tick = time.Second / 100

// Began is when the calling process was forked. /proc tells it by the tick of
// 10 ms; of that what can be is returned the middle.
func Began() (time.Time, error) {
	self, err := Self()
	if err != nil {
		return time.Time{}, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}, fmt.Errorf("time since boot: %w", err)
	}
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &used); err != nil {
		return time.Time{}, fmt.Errorf("processor time: %w", err)
	}
	age := time.Duration(now.Nano()) - time.Duration(self.Start)*tick
	least := max(age-tick, time.Duration(used.Utime.Nano()+used.Stime.Nano()))
	return time.Now().Add(-(age + least) / 2), nil
}

// Find names the process that has pid now. The error is os.ErrNotExist when
// there is none.
func Find(pid int) (ID, error) {
	st, err := readStat(pid)
	if err != nil {
		return ID{}, err
	}
	return ID{Pid: pid, Start: st.start}, nil
}

// Child names the calling process's child that has pid now. The error is
// os.ErrNotExist when there is none: one that was waited for may have left its
// pid to a stranger.
func Child(pid int) (ID, error) {
	st, err := readStat(pid)
	if err != nil {
		return ID{}, err
	}
	if st.parent != os.Getpid() {
		return ID{}, fmt.Errorf("child %d: %w", pid, os.ErrNotExist)
	}
	return ID{Pid: pid, Start: st.start}, nil
}

// Alive reports whether the process runs. A zombie does not: it has ended and
// only waits for its parent, which on some machines takes seconds.
func (p ID) Alive() bool {
	if p.Pid <= 0 {
		return false
	}
	st, err := readStat(p.Pid)
	return err == nil && st.start == p.Start && st.state != 'Z' && st.state != 'X'
}

// Signal sends sig to the process if it is still the one named.
func (p ID) Signal(sig unix.Signal) error {
	fd, err := p.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return os.ErrProcessDone
		}
		return fmt.Errorf("signal process %d: %w", p.Pid, err)
	}
	return nil
}

// Wait returns nil when the process has ended, at once if it is gone already,
// and ctx's error when that comes first. It need not be a child.
func (p ID) Wait(ctx context.Context) error {
	fd, err := p.open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		// A pidfd becomes readable when the process turns into a zombie
		// (pidfd_open(2)). The slice of 100 ms only bounds how late a
		// cancelled ctx is noticed.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", p.Pid, err)
		}
		if n > 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// Kill sends SIGKILL and waits at most grace for the end.
func (p ID) Kill(grace time.Duration) error {
	if err := p.Signal(unix.SIGKILL); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		return fmt.Errorf("process %d has not ended %v after SIGKILL: %w", p.Pid, grace, err)
	}
	return nil
}

// open returns a pidfd of the process that p names, or os.ErrProcessDone.
func (p ID) open() (int, error) {
	if p.Pid <= 0 {
		return -1, os.ErrProcessDone
	}
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, os.ErrProcessDone
	}
	if err != nil {
		return -1, fmt.Errorf("pidfd of %d: %w", p.Pid, err)
	}
	// Compared after opening: from here on the pid cannot change hands.
	if !p.Alive() {
		unix.Close(fd)
		return -1, os.ErrProcessDone
	}
	return fd, nil
}

// Used is the processor time that the process has used, in all of its threads, by
// the tick of 10 ms.
func (p ID) Used() (time.Duration, error) {
	st, err := readStat(p.Pid)
	if err != nil {
		return 0, err
	}
	if st.start != p.Start {
		return 0, fmt.Errorf("process %d: %w", p.Pid, os.ErrNotExist)
	}
	return st.used, nil
}

type stat struct {
	state  byte
	parent int
	start  uint64
	used   time.Duration
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return stat{}, fmt.Errorf("process %d: %w", pid, os.ErrNotExist)
		}
		return stat{}, err
	}
	// The second field is the name in parentheses and may hold anything.
	_, rest, ok := strings.Cut(string(b[strings.LastIndexByte(string(b), ')'):]), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return stat{}, fmt.Errorf("/proc/%d/stat: not in the form of proc(5)", pid)
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("/proc/%d/stat: start time: %w", pid, err)
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return stat{}, fmt.Errorf("/proc/%d/stat: parent: %w", pid, err)
	}
	var used uint64
	for _, field := range f[11:13] { // utime, stime
		ticks, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("/proc/%d/stat: processor time: %w", pid, err)
		}
		used += ticks
	}
	return stat{state: f[0][0], parent: parent, start: start, used: time.Duration(used) * tick}, nil
}

// SetName names the calling process in tools that show /proc/<pid>/comm, which
// would show how it was executed: "exe". At most 15 bytes are kept.
func SetName(name string) {
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
}

// shownBytes bounds what Arguments shows of a program's arguments.
const shownBytes = 4096

// Arguments are those of a process that stands for program in the container
// id: for ps, and for clients that run it (docker top, podman top).
func Arguments(name, id string, program []string) []string {
	args := []string{name, id}
	left := shownBytes
	for _, a := range program {
		if left -= len(a); left < 0 {
			break
		}
		args = append(args, a)
	}
	return args
}

// CloseLeaked closes the descriptors from first on that this process was given
// by mistake: clients leak sockets and pipes, which must not live as long as a
// container. The Go runtime's own files are told apart by close-on-exec, so
// call it before other files are opened without.
func CloseLeaked(first int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("close inherited files: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < first {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}
