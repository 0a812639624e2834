//go:build linux

package faults

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// setsClock gives the container what setting a clock takes, and a process that
// tells its clocks.
func (c *container) setsClock() {
	for _, set := range []*[]string{
		&c.spec.Process.Capabilities.Bounding, &c.spec.Process.Capabilities.Effective, &c.spec.Process.Capabilities.Permitted,
	} {
		*set = append(*set, "CAP_SYS_TIME")
	}
	c.spec.Process.Args = []string{"/bin/guest", "clocks"}
}

// talk is a container whose clocks can be asked for.
type talk struct {
	*container
	in    io.WriteCloser
	out   *bufio.Reader
	begun reading // its clocks at its first instruction
}

// clocks creates the container, calls created, and starts it.
func (c *container) clocks(created func()) *talk {
	c.t.Helper()
	var files [4]*os.File // both ends of stdin and stdout
	for i := 0; i < len(files); i += 2 {
		var err error
		files[i], files[i+1], err = os.Pipe()
		c.must(err)
	}
	c.t.Cleanup(func() { files[1].Close(); files[2].Close() })
	cmd := c.creation()
	cmd.Stdin, cmd.Stdout = files[0], files[3]
	r := c.finish(cmd)
	c.must(errors.Join(files[0].Close(), files[3].Close()))
	if r.code != 0 {
		c.t.Fatalf("create: status %d: %s", r.code, c.read("stderr"))
	}
	created()
	k := &talk{container: c, in: files[1], out: bufio.NewReader(files[2])}
	k.begun.before = time.Now()
	c.runs("start", c.id)
	line, err := k.out.ReadString('\n')
	k.begun.after = time.Now()
	c.must(err)
	_, err = fmt.Sscan(line, &k.begun.wall, &k.begun.mono)
	c.must(err)
	return k
}

// wrong is why the clock is not right.
func (k *talk) wrong() error {
	k.t.Helper()
	r, err := ask(k.in, k.out, 0)
	k.must(err)
	return r.right()
}

// stepHost sets the host's clock by a nanosecond and back: for whoever waits for
// it to be set, that is as an hour is.
func stepHost(t *testing.T) {
	t.Helper()
	const setOffset, nano = 0x0100, 0x2000 // ADJ_SETOFFSET, ADJ_NANO of linux/timex.h
	for _, by := range []int64{1, -1} {
		step := unix.NsecToTimespec(by)
		if step.Nsec < 0 { // adjtimex(2): the fraction is added
			step.Sec, step.Nsec = step.Sec-1, step.Nsec+1e9
		}
		x := unix.Timex{Modes: setOffset | nano, Time: unix.Timeval{Sec: step.Sec, Usec: step.Nsec}}
		if _, err := unix.Adjtimex(&x); err != nil {
			t.Fatalf("step the host's clock by %d ns (this takes CAP_SYS_TIME): %v", by, err)
		}
	}
}

// Whoever has set the guest's clock, when the host's is set it is right again:
// in a container that runs, in one that was not started, in one that is paused.
func TestClockFollowsTheHosts(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("")
	c.setsClock()
	k := c.clocks(func() {
		c.runs("exec", c.id, "/bin/guest", "set", "-1h")
		stepHost(t)
		waitFor(t, "right time before the start", soon, func() bool {
			return time.Since(c.guestTime()) < time.Minute
		})
	})
	if err := k.begun.right(); err != nil {
		t.Errorf("started: %v", err)
	}

	for _, by := range []string{"-1h", "1h"} {
		c.runs("exec", c.id, "/bin/guest", "set", by)
		if k.wrong() == nil {
			t.Fatalf("set by %s: the guest's clock is right", by)
		}
		stepHost(t)
		waitFor(t, "the host's time, after "+by, soon, func() bool { return k.wrong() == nil })
	}

	// While it is paused nobody asks the guest; its clock falls behind.
	c.runs("pause", c.id)
	stepHost(t)
	paused := time.Now()
	waitFor(t, "a second", soon, func() bool { return time.Since(paused) > time.Second })
	c.runs("resume", c.id)
	if err := k.wrong(); err != nil {
		t.Errorf("resumed: %v", err)
	}
	c.runs("delete", "--force", c.id)
	c.wantNothing()
}

// A clone has the host's time also where the template's is years off, as after
// the host has slept, or its clock was set, since the template was made.
func TestCloneOfAnotherTime(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	_, qemu, found := strings.Cut(s.runs("check"), "  qemu         ")
	if !found {
		t.Fatal("check does not name QEMU")
	}
	qemu, _, _ = strings.Cut(qemu, ": ")
	s.replace(s.path("qemu"), fmt.Appendf(nil, "#!/bin/sh\nexec '%s' \"$@\" -rtc base=2001-09-09T01:46:40\n", qemu))
	config := fmt.Sprintf("qemu = %q\n", s.path("qemu"))
	// That is the time at which its guests boot.
	s.replace(s.path("initrd"), s.initramfs("now"))
	s.configure(config + fmt.Sprintf("initrd = %q\n", s.path("initrd")))
	contains(t, s.container("").createFails(), "the guest's console ends with: 10000000") // and what the boot took

	s.configure(config)
	s.make()
	c := s.container("")
	c.setsClock()
	k := c.clocks(func() {})
	if err := errors.Join(k.begun.right(), k.wrong()); err != nil {
		t.Error(err)
	}
	contains(t, c.runs("exec", c.id, "cat", "/proc/cmdline"), "runm.template")
	c.runs("delete", "--force", c.id)
	s.wantNothing()
}
