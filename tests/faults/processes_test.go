//go:build linux

package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// hostPids are the processes that the container's state names.
func (c *container) hostPids() map[string]int {
	c.t.Helper()
	var state struct{ Holder, Monitor struct{ Pid int } }
	data, err := os.ReadFile(filepath.Join(c.state, c.id, "state.json"))
	c.must(err)
	c.must(json.Unmarshal(data, &state))
	return map[string]int{"holder": state.Holder.Pid, "monitor": state.Monitor.Pid}
}

// processes are all of the container's on the host.
func (c *container) processes() map[string]int {
	c.t.Helper()
	pids := c.hostPids()
	for _, pid := range children(pids["monitor"]) {
		switch line := commandLine(pid); {
		case strings.Contains(line, "qemu-system"):
			pids["qemu"] = pid
		case strings.Contains(line, "virtiofsd"):
			pids["virtiofsd"] = pid
		}
	}
	for _, name := range processNames() {
		if pids[name] == 0 {
			c.t.Fatalf("there is no %s: %v", name, pids)
		}
	}
	return pids
}

func processNames() []string { return []string{"holder", "monitor", "qemu", "virtiofsd"} }

// children lists the children of all threads of pid.
func children(pid int) []int {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, f := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(f); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// commandLine of a process, "" if it is gone.
func commandLine(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(string(data), "\x00", " ")
}

// When one of the container's processes is killed, the container is over:
// whoever waits is told 137, and what is left goes with delete.
func TestKillOurProcesses(t *testing.T) {
	for _, victim := range processNames() {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			c := newBox(t).container("echo up; exec sleep 1000")
			c.save()
			run := c.spawn("run", "run", "--keep", "--bundle", c.bundle, c.id)
			c.prints("run.stdout", "up\n")
			exec := c.spawn("exec", "exec", c.id, "sh", "-c", "echo in; exec sleep 1000")
			c.prints("exec.stdout", "in\n")

			c.must(unix.Kill(c.processes()[victim], unix.SIGKILL))
			if code := c.end(run, soon); code != 137 {
				t.Errorf("run: status %d, want 137: %s", code, c.read("run.stderr"))
			}
			if code := c.end(exec, soon); code != 137 {
				t.Errorf("exec: status %d, want 137: %s", code, c.read("exec.stderr"))
			}
			c.waitStopped(soon)
			if r := c.try("exec", c.id, "true"); r.code != 255 {
				t.Errorf("exec in what is stopped: status %d: %s", r.code, r.stderr)
			}
			c.runs("delete", "--force", c.id)
			c.wantNothing()
		})
	}
}

// All at once, and nobody waits: delete ends in nothing.
func TestKillAllOurProcesses(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("echo up; exec sleep 1000")
	c.up()
	for _, pid := range c.processes() {
		// The end of one may have been that of the next.
		if err := unix.Kill(pid, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
			c.must(err)
		}
	}
	c.waitStopped(soon)
	c.runs("delete", c.id)
	c.wantNothing()
}
