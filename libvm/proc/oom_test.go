//go:build linux

package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOOMScoreAdj(t *testing.T) {
	own, err := OOMScoreAdj()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			ended = true
		}
	}
	defer end()
	child, err := Child(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Child(os.Getppid()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the parent is a child: %v", err)
	}
	if err := child.SetOOMScoreAdj(1000); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", child.Pid))
	if err != nil || strings.TrimSpace(string(data)) != "1000" {
		t.Errorf("it has %q, %v", data, err)
	}
	if now, err := OOMScoreAdj(); err != nil || now != own {
		t.Errorf("this process has %d, %v; it had %d", now, err, own)
	}
	if err := child.SetOOMScoreAdj(1001); !errors.Is(err, unix.EINVAL) {
		t.Errorf("1001: %v, want %v", err, unix.EINVAL)
	}
	stranger := ID{Pid: child.Pid, Start: child.Start + 1}
	if err := stranger.SetOOMScoreAdj(0); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("of one that had the pid before: %v, want %v", err, os.ErrProcessDone)
	}
	end()
	if err := child.SetOOMScoreAdj(1000); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("of one that has ended: %v, want %v", err, os.ErrProcessDone)
	}
}
