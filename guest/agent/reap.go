//go:build linux

package agent

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// reapDelay is how long orphans may stay zombies: one sweep serves all that died
// meanwhile, and none is done while a process of ours is being started.
const reapDelay = time.Second

// A reaper collects what process 1 inherits, and leaves alone what libcontainer
// waits for. The rule: a zombie child is an orphan if it is nobody's own and no
// start is under way. libcontainer's helper processes exist only during a start,
// and end(pid) makes a pid somebody's own before the start counts as over.
type reaper struct {
	mu       sync.Mutex
	starting int
	own      map[int]bool
}

func newReaper() *reaper { return &reaper{own: map[int]bool{}} }

// begin announces a start; no orphan is reaped until end.
func (r *reaper) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting++
}

// end ends a start. pid is the process that came out of it and that its starter
// waits for, or 0 if it failed.
func (r *reaper) end(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting--
	if pid > 0 {
		r.own[pid] = true
	}
}

// waited says that the starter of pid has collected it.
func (r *reaper) waited(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.own, pid)
}

// run sweeps some time after children died, for ever.
func (r *reaper) run() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	for range died {
		<-time.After(reapDelay)
		for !r.sweep() {
			<-time.After(reapDelay)
		}
	}
}

// sweep reaps the orphans there are. It reports false when it must be tried
// again because a start is under way.
func (r *reaper) sweep() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.starting > 0 {
		return false
	}
	for _, pid := range zombies("/proc", os.Getpid()) {
		if r.own[pid] {
			continue
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil && err != unix.ECHILD {
			logf("reap %d: %v", pid, err)
		}
	}
	return true
}

// zombies lists the zombie children of parent; proc is /proc.
func zombies(proc string, parent int) []int {
	var pids []int
	for _, pid := range allPids(proc) {
		st, err := readStat(fmt.Sprintf("%s/%d/stat", proc, pid))
		if err == nil && st.state == 'Z' && st.ppid == parent {
			pids = append(pids, pid)
		}
	}
	return pids
}

// allPids lists the processes in proc; none if it cannot be read.
func allPids(proc string) []int {
	dir, err := os.Open(proc)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
