package agent

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// deferLimits takes the limits of memory out of what libcontainer applies and
// returns them: its init, a Go program, sets them on itself and then has its
// own work to do, which an RLIMIT_AS of 1 GiB does not allow.
func deferLimits(lp *libcontainer.Process, config *configs.Config) (late []configs.Rlimit) {
	limits := lp.Rlimits
	if limits == nil {
		limits = config.Rlimits
	}
	early := []configs.Rlimit{}
	for _, l := range limits {
		if l.Type == unix.RLIMIT_AS || l.Type == unix.RLIMIT_DATA {
			late = append(late, l)
		} else {
			early = append(early, l)
		}
	}
	lp.Rlimits = early
	return late
}

func setLimits(pid int, limits []configs.Rlimit) error {
	for _, l := range limits {
		if err := unix.Prlimit(pid, l.Type, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("rlimit %d: %w", l.Type, err)
		}
	}
	return nil
}

// A container's init that was only just executed has no signal handlers yet:
// emulated it needs some 50 ms for them where a host needs one, and seconds on
// a host that is busy. It counts as settled when it is settlingLeast old and has
// done nothing but sleep for quietLooks looks, and in any case at settlingMost.
const (
	settlingLeast = time.Second
	settlingMost  = 10 * time.Second
	quietLooks    = 20
	lookEvery     = 5 * time.Millisecond
)

// awaitHandler waits until init does something about sig, or has settled.
// Process 1 of a pid namespace loses a signal that it neither handles nor blocks
// (pid_namespaces(7)); clients that signal as soon as start returns would find
// it deaf. A program that never handles sig loses it, as under runc.
func awaitHandler(p *proc, sig syscall.Signal) {
	started := p.started.Load()
	if started == 0 || sig == unix.SIGKILL || sig == unix.SIGSTOP {
		return
	}
	path := "/proc/" + strconv.Itoa(p.pid) + "/stat"
	var cpu uint64
	quiet := 0
	for !minds(p.pid, sig) {
		st, err := readStat(path)
		if err != nil {
			return // gone
		}
		if quiet++; st.state != 'S' || st.utime+st.stime != cpu {
			quiet, cpu = 0, st.utime+st.stime
		}
		age := time.Since(time.Unix(0, started))
		if age > settlingMost || age > settlingLeast && quiet >= quietLooks {
			return
		}
		select {
		case <-p.exited:
			return
		// The kernel has no event for sigaction(2).
		case <-time.After(lookEvery):
		}
	}
}

// minds reports whether the process catches, ignores or blocks sig, by
// /proc/<pid>/status (proc(5)).
func minds(pid int, sig syscall.Signal) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return true // gone
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":\t")
		switch name {
		case "SigBlk", "SigIgn", "SigCgt":
			mask, err := strconv.ParseUint(value, 16, 64)
			if err == nil && mask&(1<<(sig-1)) != 0 {
				return true
			}
		}
	}
	return false
}
