//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// adoptOrphans makes this process the parent of runm's monitors when runm has
// ended, so that their processor time is known.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	return nil
}

// cpu calls f, which must end all processes that it starts, and returns the
// seconds of processor time that they took, with their children. Other load on
// the machine disturbs it much less than the clock. Nothing else may start or
// wait for processes meanwhile.
func cpu(f func() error) (float64, error) {
	reap() // what an earlier measure left counts as its own
	before, err := childrenTime()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	reap()
	after, err := childrenTime()
	return (after - before).Seconds(), err
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

// turns lets the floor and runm take turns and returns what each answered and
// how much processor time it took.
func (b *bench) turns(floor, runm func() (float64, error)) (values, cpus [2][]float64, err error) {
	for range b.rounds {
		for i, f := range []func() (float64, error){floor, runm} {
			var v float64
			c, err := cpu(func() (err error) { v, err = f(); return err })
			if err != nil {
				return values, cpus, err
			}
			values[i], cpus[i] = append(values[i], v), append(cpus[i], c)
		}
	}
	return values, cpus, nil
}
