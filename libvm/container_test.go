//go:build linux

package libvm

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/monitor"
	"github.com/runm/runm/libvm/store"
)

// containerd takes "container not running" for a process that has ended, and
// no other text that a kill could fail with.
func TestKillOfAProcessThatHasJustEnded(t *testing.T) {
	dir, err := store.Create(t.TempDir(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := control.Listen(string(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan error, 2)
	go func() {
		for range 2 {
			asked <- answer(l.AcceptUnix, monitor.Reply{Error: "process already finished", Code: monitor.CodeGone})
		}
	}()
	c := &Container{dir: dir, State: store.State{ID: "c1"}}
	for all, want := range map[bool]error{false: ErrNotRunning, true: nil} {
		if err := c.Kill(unix.SIGKILL, all); !errors.Is(err, want) {
			t.Errorf("all %v: %v, want %v", all, err, want)
		}
		if err := <-asked; err != nil {
			t.Fatal(err)
		}
	}
}

// What is done to a container is not done to one that was made under its id since.
func TestDeleteOfAnother(t *testing.T) {
	root := t.TempDir()
	dir, err := store.Create(root, "c1")
	if err != nil {
		t.Fatal(err)
	}
	s := &store.State{ID: "c1", Created: time.Now()}
	if err := dir.Save(s); err != nil {
		t.Fatal(err)
	}
	c, err := Load(root, "c1")
	if err != nil {
		t.Fatal(err)
	}
	s.Created = s.Created.Add(time.Second)
	if err := dir.Save(s); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), true); !errors.Is(err, ErrNotExist) {
		t.Errorf("%v, want %v", err, ErrNotExist)
	}
	if _, err := Load(root, "c1"); err != nil {
		t.Errorf("the other: %v", err)
	}
}

// answer takes one request, as a monitor does.
func answer(accept func() (*net.UnixConn, error), a monitor.Reply) error {
	c, err := accept()
	if err != nil {
		return err
	}
	conn := control.Accept(c)
	defer conn.Close()
	var r monitor.Request
	if _, err := conn.Recv(&r); err != nil {
		return err
	}
	return conn.Send(a)
}
