//go:build linux

package monitor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// The guest's clock is asked for until an answer comes within clockTrip: it was
// right at some time in between. On a host that is busy the quickest of
// clockTries must do.
const (
	clockTrip  = 10 * time.Millisecond
	clockTries = 10
)

const (
	// clockEvery is how often the guest's clock is compared with the host's. An
	// oscillator may be 50 ppm off: NTP takes that from the host's clock and not
	// from the counter that the guest reads. It is 3 ms in a minute.
	clockEvery = time.Minute
	// clockError is how wrong the clock may be: what is more is stepped, what is
	// less is slewed, within 20 s.
	clockError = 10 * time.Millisecond
)

// clock orders those who set the guest's.
type clock struct {
	mu sync.Mutex
	// base is wallBase when the guest's clock was last compared with the host's, 0
	// before.
	base time.Duration
}

// wallBase is the host's wall clock less its monotonic one, exact to what may
// come between two readings. NTP changes the rate of both: only a clock that is
// set, or a host that sleeps, changes this.
func wallBase() time.Duration {
	var mono, wall unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) // these two are always there
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &wall)
	return time.Duration(wall.Nano() - mono.Nano())
}

// setClock sets the guest's clock to the host's.
func (g *guest) setClock(ctx context.Context) error {
	g.clock.mu.Lock()
	defer g.clock.mu.Unlock()
	return g.correctClock(ctx, true)
}

// keepClock corrects a clock that is certainly wrong. One that may be right is
// left: half of a slow answer's trip would only disturb it.
func (g *guest) keepClock(ctx context.Context) error {
	g.clock.mu.Lock()
	defer g.clock.mu.Unlock()
	return g.correctClock(ctx, false)
}

// followClock is setClock the first time. Later it is keepClock, where the host's
// clock was set, or the host has slept, since the guest's was last compared with
// it: it waits for nobody to tell of it.
func (g *guest) followClock(ctx context.Context) error {
	g.clock.mu.Lock()
	defer g.clock.mu.Unlock()
	if g.clock.base == 0 {
		return g.correctClock(ctx, true)
	}
	if (wallBase() - g.clock.base).Abs() < time.Millisecond {
		return nil
	}
	return g.correctClock(ctx, false)
}

// correctClock moves the guest's clock to the host's. It leaves one that may be
// right, and slews one that is nearly right, unless it must be moved at once.
// g.clock is locked.
func (g *guest) correctClock(ctx context.Context, must bool) error {
	base := wallBase()
	behind, within, err := g.compareClock(ctx)
	if err != nil {
		return err
	}
	if must || behind.Abs() > within {
		step := &api.SetClockRequest{StepNano: behind.Nanoseconds(), Slew: !must && behind.Abs() <= clockError}
		if _, err := g.agent.SetClock(ctx, step); err != nil {
			return err
		}
	}
	g.clock.base = base
	return nil
}

// compareClock is how far the guest's clock is behind the host's, exact to half
// of the quickest trip.
func (g *guest) compareClock(ctx context.Context) (behind, within time.Duration, err error) {
	quickest := time.Duration(math.MaxInt64)
	for range clockTries {
		// Twice: time.Now reads the wall clock, then the monotonic one, and on a
		// busy host something may come between. So the trip begins before the wall
		// clock is read.
		began := time.Now()
		asked := time.Now()
		r, err := g.agent.SetClock(ctx, &api.SetClockRequest{})
		if err != nil {
			return 0, 0, err
		}
		trip := time.Since(began)
		if trip < quickest {
			quickest, behind = trip, asked.Add(trip/2).Sub(time.Unix(0, r.UnixNano))
		}
		if trip <= clockTrip {
			break
		}
	}
	return behind, quickest / 2, nil
}

// alarm wakes whoever waits for the host's wall clock to be set.
type alarm struct{ timer *os.File }

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd: %w", err)
	}
	a := &alarm{os.NewFile(uintptr(fd), "timerfd")}
	// It never expires, and is cancelled when the clock changes in other ways than
	// by the passing of time: timerfd_create(2), TFD_TIMER_CANCEL_ON_SET.
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt64}}
	err = unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil)
	// Cancelled in that moment: it is armed all the same.
	if err != nil && !errors.Is(err, unix.ECANCELED) {
		a.close()
		return nil, fmt.Errorf("timerfd: %w", err)
	}
	return a, nil
}

// wait returns when the clock was set, or after limit. set says which. After
// close it is os.ErrClosed.
func (a *alarm) wait(limit time.Duration) (set bool, err error) {
	_ = a.timer.SetReadDeadline(time.Now().Add(limit)) // of a closed file Read tells
	_, err = a.timer.Read(make([]byte, 8))
	switch {
	case errors.Is(err, unix.ECANCELED):
		return true, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false, nil
	default:
		return false, err
	}
}

// close ends wait. No alarm is fine.
func (a *alarm) close() {
	if a != nil {
		_ = a.timer.Close() // nothing is written
	}
}

// keepTime makes the guest's clock the host's, and keeps it so until the alarm is
// closed. Whenever it looks, a machine that has done nothing gives memory back:
// what it stood still for that is in what the clock is then behind.
func (m *monitor) keepTime(a *alarm) {
	m.checkClock(m.guest.followClock)
	idle := m.newIdleness()
	for {
		set, err := a.wait(clockEvery)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			m.log.Warn("the guest's clock no longer follows the host's: ", err)
			return
		case set:
			m.log.Debug("the host's clock was set")
		default:
			idle.trim()
		}
		m.checkClock(m.guest.keepClock)
	}
}

// checkClock calls a method of the guest's, if the machine runs: resume sets the
// clock of one that does not.
func (m *monitor) checkClock(correct func(context.Context) error) {
	err := m.vcpus.running(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
		defer cancel()
		return correct(ctx)
	})
	if err != nil && !errors.Is(err, errStands) && !errors.Is(err, ttrpc.ErrClosed) {
		m.log.Warn("correct the guest's clock: ", rpcError(err))
	}
}
