//go:build linux

package faults

import (
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// guestTime is the clock of the container's guest.
func (c *container) guestTime() time.Time {
	c.t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(c.runs("exec", c.id, "/bin/guest", "now")), 10, 64)
	c.must(err)
	return time.Unix(0, n)
}

// wantClock asserts that guest and host agree on the time to a second.
func (c *container) wantClock() {
	c.t.Helper()
	before := time.Now()
	now := c.guestTime()
	if now.Before(before.Add(-time.Second)) || now.After(time.Now().Add(time.Second)) {
		c.t.Errorf("the guest's clock says %v, the host's %v", now, before)
	}
}

// A paused container stands still, and when it goes on its clock is right and
// the signals that came meanwhile are delivered.
func TestPause(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("trap 'echo signal >&2' USR1; echo up; while true; do echo tick; sleep 0.01; done")
	c.up()
	c.prints("stdout", "tick\n")
	c.wantClock()

	c.runs("pause", c.id)
	c.wantStatus("paused")
	paused := time.Now()
	size := len(c.read("stdout"))
	if r := c.try("pause", c.id); r.code == 0 {
		t.Error("paused twice")
	}
	if r := c.try("exec", c.id, "true"); r.code != 255 || !strings.Contains(r.stderr, "paused container") {
		t.Errorf("exec while paused: status %d: %s", r.code, r.stderr)
	}
	c.runs("kill", c.id, "USR1")
	if r := c.try("delete", c.id); r.code == 0 {
		t.Error("delete of a paused container succeeded")
	}
	// Long enough for a clock that stood still to be seen.
	waitFor(t, "two seconds", soon, func() bool { return time.Since(paused) > 2*time.Second })
	if now := len(c.read("stdout")); now != size {
		t.Errorf("%d bytes were printed while paused", now-size)
	}
	if err := c.read("stderr"); err != "" {
		t.Errorf("a paused process printed %q", err)
	}

	c.runs("resume", c.id)
	c.wantStatus(specs.StateRunning)
	c.wantClock()
	c.prints("stderr", "signal\n")
	waitFor(t, "progress", soon, func() bool { return len(c.read("stdout")) > size })
	if r := c.try("resume", c.id); r.code == 0 || !strings.Contains(r.stderr, "not paused") {
		t.Errorf("resumed twice: status %d: %s", r.code, r.stderr)
	}

	// SIGKILL does not wait.
	c.runs("pause", c.id)
	c.runs("kill", c.id, "KILL")
	c.waitStopped(soon)
	c.runs("delete", c.id)
	c.wantNothing()
}

// delete --force ends what is paused.
func TestDeletePaused(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("echo up; exec sleep 1000")
	c.save()
	run := c.spawn("run", "run", "--keep", "--bundle", c.bundle, c.id)
	c.prints("run.stdout", "up\n")
	c.runs("pause", c.id)
	c.runs("delete", "--force", c.id)
	if code := c.end(run, soon); code != 137 {
		t.Errorf("run: status %d, want 137: %s", code, c.read("run.stderr"))
	}
	c.wantNothing()
}
