//go:build linux

package proc

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestLifeOfAProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !id.Alive() {
		t.Error("a sleeping process is not alive")
	}
	if (ID{Pid: id.Pid, Start: id.Start + 1}).Alive() {
		t.Error("another process with the same pid counts as alive")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := id.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait on a sleeping process = %v, want a timeout", err)
	}
	if err := id.Kill(5 * time.Second); err != nil {
		t.Error(err)
	}
	// Not reaped yet: a zombie has ended.
	if id.Alive() {
		t.Error("a zombie counts as alive")
	}
	if err := id.Wait(context.Background()); err != nil {
		t.Errorf("Wait on a zombie: %v", err)
	}
	_ = cmd.Wait()
	if _, err := Find(id.Pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Find after the end = %v, want os.ErrNotExist", err)
	}
	if err := id.Kill(time.Second); err != nil {
		t.Errorf("Kill after the end: %v", err)
	}
}

func TestArguments(t *testing.T) {
	long := strings.Repeat("x", shownBytes)
	for want, program := range map[string][]string{
		"runm-holder c1":            nil,
		"runm-holder c1 sh -c true": {"sh", "-c", "true"},
		"runm-holder c1 a":          {"a", long, "b"},
	} {
		if got := strings.Join(Arguments("runm-holder", "c1", program), " "); got != want {
			t.Errorf("%.100q, want %q", got, want)
		}
	}
}

func TestUsed(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	before, err := self.Used()
	if err != nil {
		t.Fatal(err)
	}
	for now := before; now-before < 50*time.Millisecond; {
		if now, err = self.Used(); err != nil {
			t.Fatal(err)
		}
		if now < before || now > before+time.Minute {
			t.Fatalf("%v after %v", now, before)
		}
	}
	self.Start++
	if used, err := self.Used(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("another process used %v, %v", used, err)
	}
}
