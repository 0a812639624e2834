//go:build linux

package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// raise lets the box's commands have an oom_score_adj.
func (b *box) raise(score int) {
	b.runm = append([]string{"sh", "-c", `echo "$0" >/proc/self/oom_score_adj && exec "$@"`, strconv.Itoa(score)}, b.runm...)
}

// scores are those of the processes in the container's cgroup, of which there
// are at least n.
func (c *container) scores(n int) map[string]int {
	c.t.Helper()
	var pids []int
	c.must(json.Unmarshal([]byte(c.runs("ps", "--format", "json", c.id)), &pids))
	if len(pids) < n {
		c.t.Fatalf("processes %v, want at least %d", pids, n)
	}
	scores := map[string]int{}
	for _, pid := range pids {
		scores[fmt.Sprintf("%d %.40s", pid, commandLine(pid))] = oomScoreAdj(c.t, pid)
	}
	return scores
}

func oomScoreAdj(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err != nil {
		t.Fatal(err)
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return score
}

// mayLower says whether this process may set any score.
func mayLower(t *testing.T) bool {
	t.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// The host treats a container's machine as config.json wants its process to be
// treated, and never as a daemon that must not be killed.
func TestOOMScoreAdj(t *testing.T) {
	const script = "cat /proc/self/oom_score_adj; echo up; exec sleep 1000"
	ptr := func(n int) *int { return &n }
	for name, test := range map[string]struct {
		caller int
		set    *int
		want   int
	}{
		"as config.json says":               {0, ptr(500), 500},
		"less than the caller's":            {300, ptr(0), 0},
		"none: the caller's, if it is more": {300, nil, 300},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newBox(t).container(script)
			c.raise(test.caller)
			c.spec.Process.OOMScoreAdj = test.set
			c.up()
			for process, got := range c.scores(3) {
				if got != test.want {
					t.Errorf("%s has %d, want %d", process, got, test.want)
				}
			}
			guest := 0
			if test.set != nil {
				guest = *test.set
			}
			contains(t, c.read("stdout"), fmt.Sprintf("%d\nup\n", guest))
			if got := oomScoreAdj(t, c.hostPids()["monitor"]); got != test.caller {
				t.Errorf("the monitor has %d, want its caller's, %d", got, test.caller)
			}
			c.runs("delete", "--force", c.id)
			c.wantNothing()
		})
	}
	t.Run("without the privilege", func(t *testing.T) {
		t.Parallel()
		c := newBox(t).container(script)
		c.spec.Process.OOMScoreAdj = ptr(-500)
		c.up()
		log, err := os.ReadFile(filepath.Join(c.state, c.id, "log"))
		c.must(err)
		want, warned := -500, strings.Contains(string(log), "process.oomScoreAdj: -500 for process ")
		if !mayLower(t) {
			want = oomScoreAdj(t, os.Getpid())
		}
		if warned == mayLower(t) {
			t.Errorf("warned: %v; log: %s", warned, log)
		}
		for process, got := range c.scores(3) {
			if got != want {
				t.Errorf("%s has %d, want %d", process, got, want)
			}
		}
	})
	t.Run("pod", func(t *testing.T) {
		t.Parallel()
		sandbox := newBox(t).sandbox()
		sandbox.spec.Process.OOMScoreAdj = ptr(100)
		sandbox.up()
		member := sandbox.member("echo up; exec sleep 1000")
		member.spec.Process.OOMScoreAdj = ptr(700)
		member.up()
		pids := sandbox.processes()
		want := func(holder, machine int) {
			t.Helper()
			for name, want := range map[string]int{"holder": holder, "qemu": machine, "virtiofsd": machine} {
				if got := oomScoreAdj(t, pids[name]); got != want {
					t.Errorf("%s has %d, want %d", name, got, want)
				}
			}
		}
		want(100, 700)
		for process, got := range member.scores(1) {
			if got != 700 {
				t.Errorf("%s has %d, want 700", process, got)
			}
		}
		member.runs("delete", "--force", member.id)
		want(100, 100)
	})
}
