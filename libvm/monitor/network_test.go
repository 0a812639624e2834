//go:build linux

package monitor

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestSettling: one change, or several, are carried over when it is quiet; where
// it is never, in time all the same, and again.
func TestSettling(t *testing.T) {
	for _, c := range []struct {
		changes, every, want time.Duration // until, and how often; when it fires first
	}{
		{0, time.Millisecond, settleTime},
		{30 * time.Millisecond, 10 * time.Millisecond, 30*time.Millisecond + settleTime},
		{2 * settleLimit, settleTime - 1, settleLimit},
		{2 * settleLimit, 100 * time.Microsecond, settleLimit},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSettling()
			defer s.Stop()
			var fired []time.Duration
			start := time.Now()
			change := time.NewTimer(0)
			for end := time.After(4 * settleLimit); end != nil; {
				select {
				case <-change.C:
					s.changed()
					if time.Since(start)+c.every <= c.changes {
						change.Reset(c.every)
					}
				case <-s.C:
					s.carried()
					fired = append(fired, time.Since(start))
				case <-end:
					end = nil
				}
			}
			if len(fired) == 0 || fired[0] != c.want {
				t.Errorf("changes every %s for %s: carried over after %s, want %s", c.every, c.changes, fired, c.want)
			}
			// The last change is carried over too.
			if last := fired[len(fired)-1]; last < c.changes || last > c.changes+settleTime {
				t.Errorf("changes every %s for %s: carried over after %s", c.every, c.changes, fired)
			}
		})
	}
}
