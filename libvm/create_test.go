//go:build linux

package libvm

import (
	"errors"
	"os/exec"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/proc"
)

// A create whose monitor does not answer ends: its own monitor it ends first, that
// of a pod it leaves alone.
func TestAbandonASilentMonitor(t *testing.T) {
	for _, own := range []bool{true, false} {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		id, err := proc.Find(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs, err := control.Pair()
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		conn, err := control.NewConn(ours)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			p := &Prepared{opts: CreateOpts{Root: t.TempDir(), ID: "c1"}}
			m := &monitorProcess{id: id, conn: conn, gone: make(chan struct{})}
			if own {
				m.cmd = cmd
			}
			began := time.Now()
			err := p.abandon(m, nil)
			if lasted := time.Since(began); lasted > askTimeout {
				t.Errorf("it takes %v", lasted)
			}
			if own && err != nil || !own && !errors.Is(err, errMonitorSilent) {
				t.Errorf("own %v: %v", own, err)
			}
		})
		if !own && !id.Alive() {
			t.Error("a pod's monitor is ended")
		}
		if own {
			if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != unix.SIGKILL {
				t.Errorf("its own monitor has ended with %v", cmd.ProcessState)
			}
		}
		if _, err := theirs.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is open")
		}
	}
}
