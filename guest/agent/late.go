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

// settling is how long after its execve a container's init may take to set its
// signal handlers. Emulated it needs some 50 ms where a host needs one.
const settling = time.Second

// awaitHandler waits until init does something about sig, if it was only just
// executed. Process 1 of a pid namespace loses a signal that it neither handles
// nor blocks (pid_namespaces(7)); clients that signal as soon as start returns
// would find it deaf. A program that never handles sig loses it, as under runc.
func awaitHandler(p *proc, sig syscall.Signal) {
	started := p.started.Load()
	if started == 0 || sig == unix.SIGKILL || sig == unix.SIGSTOP {
		return
	}
	end := time.Unix(0, started).Add(settling)
	for time.Now().Before(end) && !minds(p.pid, sig) {
		select {
		case <-p.exited:
			return
		// The kernel has no event for sigaction(2).
		case <-time.After(5 * time.Millisecond):
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
