//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/tests/bench/report"
)

// contender takes part in a measurement: one value in each round.
type contender struct {
	name string
	take func() (float64, error)
	// optional: what it cannot do on this machine is a note, not an error.
	optional bool
}

// taken is what a contender answered and the processor time that it took, in
// seconds; of one that failed, nothing.
type taken struct{ values, cpu []float64 }

// turns lets all take turns, so that each is measured in the same minutes. A
// round that does not count comes first: it reads programs from the disk, and
// makes translate what later ones find translated. Each round begins with
// another contender, so that none always follows the same.
func (b *bench) turns(s *report.Section, list []contender) ([]taken, error) {
	all := make([]taken, len(list))
	failed := make([]bool, len(list))
	for round := range b.rounds + 1 {
		for turn := range list {
			i := (round + turn) % len(list)
			if failed[i] {
				continue
			}
			var v float64
			c, err := cpu(func() (err error) { v, err = list[i].take(); return err })
			switch {
			case err != nil && list[i].optional:
				s.Notes = append(s.Notes, fmt.Sprintf("%s: %v", list[i].name, err))
				all[i], failed[i] = taken{}, true
			case err != nil:
				return nil, fmt.Errorf("%s: %w", list[i].name, err)
			case round > 0:
				all[i].values, all[i].cpu = append(all[i].values, v), append(all[i].cpu, c)
			}
		}
	}
	return all, nil
}

// adoptOrphans makes this process the parent of runm's monitors when runm has
// ended, so that their processor time is known.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	return nil
}

// cpu calls f and returns the seconds of processor time that the processes took
// which it started, with their children. They must all end by themselves: those
// that live on when f returns, as monitors do that have only their own end to
// see to, are waited for. Other load on the machine disturbs it much less than the
// clock. Nothing else may start or wait for processes meanwhile.
func cpu(f func() error) (float64, error) {
	reap() // what an earlier measure left counts as its own
	there, err := children(os.Getpid())
	if err != nil {
		return 0, err
	}
	before, err := childrenTime()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	if err := awaitOthers(there); err != nil {
		return 0, err
	}
	after, err := childrenTime()
	return (after - before).Seconds(), err
}

// endTime bounds the end of what f of cpu started.
const endTime = time.Minute

// awaitOthers returns when there are no children but those that were there, and
// reaps the others.
func awaitOthers(there []int) error {
	for deadline := time.Now().Add(endTime); ; time.Sleep(time.Millisecond) {
		reap()
		now, err := children(os.Getpid())
		if err != nil {
			return err
		}
		now = slices.DeleteFunc(now, func(pid int) bool { return slices.Contains(there, pid) })
		if len(now) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v still run %v after the command", now, endTime)
		}
	}
}

// reap waits for the orphans that have ended.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid == 0 {
			return // none is left, or none that has ended
		}
	}
}

// childrenTime is the time of all children that were waited for.
func childrenTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
