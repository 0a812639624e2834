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

// A container's init that was only just executed has no signal handlers yet, or
// has not come to where it waits for signals: a shell between `trap` and `wait`
// sits out what it waits for. Emulated it needs some 100 ms for it where a host
// needs one, and seconds on a host that is busy.
//
// Init has settled when it has done nothing but sleep for some looks: few if it
// minds the signal, many and not before settlingLeast if it does not. At
// settlingBusy one that minds the signal gets it, sleeping or not; at
// settlingMost every one does.
const (
	settlingLeast = time.Second
	settlingBusy  = 2 * time.Second
	settlingMost  = 10 * time.Second
	fewLooks      = 4
	manyLooks     = 20
	lookEvery     = 5 * time.Millisecond
)

func settled(minds bool, quiet int, age time.Duration) bool {
	if minds {
		return quiet >= fewLooks || age > settlingBusy
	}
	return age > settlingMost || age > settlingLeast && quiet >= manyLooks
}

// awaitHandler waits until init has settled. Process 1 of a pid namespace loses
// a signal that it neither handles nor blocks (pid_namespaces(7)); clients that
// signal as soon as start returns would find it deaf. A program that never
// handles sig loses it, as under runc.
func awaitHandler(p *proc, sig syscall.Signal) {
	started := p.started.Load()
	if started == 0 || sig == 0 || sig == unix.SIGKILL || sig == unix.SIGSTOP {
		return
	}
	path := "/proc/" + strconv.Itoa(p.pid) + "/stat"
	var cpu uint64
	for quiet := 0; ; {
		age := time.Duration(monotonic() - started)
		if age > settlingMost {
			return
		}
		st, err := readStat(path)
		if err != nil {
			return // gone
		}
		if quiet++; st.state != 'S' || st.utime+st.stime != cpu {
			quiet, cpu = 0, st.utime+st.stime
		}
		if settled(minds(p.pid, sig), quiet, age) {
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
