//go:build linux

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// userHZ is the kernel's unit of time in /proc, per second (USER_HZ).
const userHZ = 100

// stat is what we need of /proc/<pid>/stat, described in proc_pid_stat(5).
type stat struct {
	comm         string
	state        byte
	ppid         int
	tty          uint64 // device number
	utime, stime uint64 // in 1/userHZ s
	start        uint64 // in 1/userHZ s since boot
}

var errStat = errors.New("malformed stat")

func readStat(path string) (stat, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(content))
}

func parseStat(line string) (stat, error) {
	// The command may hold blanks and parentheses; the last ")" ends it.
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return stat{}, errStat
	}
	f := strings.Fields(line[end+1:]) // f[0] is field 3, the state
	if len(f) < 20 {
		return stat{}, errStat
	}
	st := stat{comm: line[open+1 : end], state: f[0][0]}
	var err error
	number := func(field int) uint64 {
		n, e := strconv.ParseUint(f[field-3], 10, 64)
		err = errors.Join(err, e)
		return n
	}
	st.ppid = int(number(4))
	st.tty = number(7)
	st.utime, st.stime, st.start = number(14), number(15), number(22)
	if err != nil {
		return stat{}, fmt.Errorf("%w: %w", errStat, err)
	}
	return st, nil
}

// processes describes those of pids that still exist.
func processes(pids []int) []*api.Process {
	booted := bootTime()
	var out []*api.Process
	for _, pid := range pids {
		if p, err := process(pid, booted); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func process(pid int, booted time.Time) (*api.Process, error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	st, err := readStat(dir + "/stat")
	if err != nil {
		return nil, err
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return nil, err
	}
	uid, err := effectiveUID(string(status))
	if err != nil {
		return nil, err
	}
	cmdline, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return nil, err
	}
	return &api.Process{
		Pid:       uint32(pid),
		Ppid:      uint32(st.ppid),
		Uid:       uid,
		StartUnix: booted.Add(time.Duration(st.start) * time.Second / userHZ).Unix(),
		CpuMs:     (st.utime + st.stime) * 1000 / userHZ,
		Tty:       ttyName(st.tty),
		Command:   commandLine(cmdline, st.comm),
	}, nil
}

// effectiveUID finds the second number of status's line "Uid:", as ps shows it.
func effectiveUID(status string) (uint32, error) {
	for line := range strings.Lines(status) {
		rest, ok := strings.CutPrefix(line, "Uid:")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			break
		}
		uid, err := strconv.ParseUint(f[1], 10, 32)
		if err != nil {
			return 0, fmt.Errorf("status: %w", err)
		}
		return uint32(uid), nil
	}
	return 0, fmt.Errorf("status: %w", errStat)
}

// commandLine is the arguments with blanks between, or [comm] where there are
// none, as ps shows them.
func commandLine(cmdline []byte, comm string) string {
	cmdline = bytes.TrimRight(cmdline, "\x00")
	if len(cmdline) == 0 {
		return "[" + comm + "]"
	}
	return strings.ToValidUTF8(strings.ReplaceAll(string(cmdline), "\x00", " "), "?")
}

// ttyName names a terminal by its device number; only ptys can be one here.
func ttyName(dev uint64) string {
	const firstSlave, lastSlave = 136, 143 // Documentation/admin-guide/devices.txt
	major := unix.Major(dev)
	switch {
	case dev == 0:
		return "?"
	case major >= firstSlave && major <= lastSlave:
		return fmt.Sprintf("pts/%d", uint32(major-firstSlave)<<8|unix.Minor(dev))
	default:
		return fmt.Sprintf("%d:%d", major, unix.Minor(dev))
	}
}

// bootTime is when the guest's CLOCK_BOOTTIME was 0, by its present wall clock.
func bootTime() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Now()
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}
