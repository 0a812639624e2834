//go:build linux

package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/runm/runm/libvm/vmm"
)

// trimmed is a machine that counts its trims.
type trimmed struct {
	vmm.Machine
	pid   int
	err   error
	trims int
}

func (m *trimmed) Pids() []int { return []int{m.pid} }

func (m *trimmed) Trim(context.Context) error {
	m.trims++
	return m.err
}

// idleOver watches a machine that program carries.
func idleOver(t *testing.T, program ...string) (*idleness, *trimmed, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command(program[0], program[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	machine := &trimmed{pid: cmd.Process.Pid}
	log := logrus.New()
	log.SetOutput(io.Discard)
	m := &monitor{log: log, guest: &guest{machine: machine}}
	return m.newIdleness(), machine, cmd
}

func TestTrimOfAnIdleMachine(t *testing.T) {
	i, machine, _ := idleOver(t, "sleep", "1000")
	for want := range 3 {
		if machine.trims != want {
			t.Fatalf("%d trims, want %d", machine.trims, want)
		}
		i.trim()
	}
	i.m.execs.Add(1)
	for range execRest {
		i.trim()
	}
	if machine.trims != 3 {
		t.Error("a machine was trimmed that had an exec")
	}
	i.m.vcpus.stopped = true
	i.trim()
	if machine.trims != 3 {
		t.Error("a machine was trimmed that stands still")
	}
	i.m.vcpus.stopped = false
	// A guest that was too slow is tried again, what cannot be is not.
	for _, c := range []struct {
		err  error
		want int
	}{
		{fmt.Errorf("slow: %w", context.DeadlineExceeded), 4},
		{errors.New("broken"), 5},
		{nil, 5},
	} {
		machine.err = c.err
		if i.trim(); machine.trims != c.want {
			t.Errorf("%v: %d trims, want %d", c.err, machine.trims, c.want)
		}
	}
}

func TestNoTrimOfABusyMachine(t *testing.T) {
	i, machine, cmd := idleOver(t, "sh", "-c", "while :; do :; done")
	before := i.used
	for used := before; used-before <= idleMost; { // however busy the host is
		var err error
		if used, err = i.vmm.Used(); err != nil {
			t.Fatal(err)
		}
	}
	if i.trim(); machine.trims != 0 {
		t.Error("a machine was trimmed that is at work")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if i.trim(); machine.trims != 0 {
		t.Error("a machine was trimmed that has ended")
	}
}

// What has nothing to give back is left alone.
func TestTrimOfNothing(t *testing.T) {
	m := &monitor{guest: &guest{machine: struct{ vmm.Machine }{}}}
	m.newIdleness().trim()
	m.guest.machine = &trimmed{pid: os.Getpid()} // no child: it has ended
	m.newIdleness().trim()
	if n := m.guest.machine.(*trimmed).trims; n != 0 {
		t.Errorf("%d trims", n)
	}
}
