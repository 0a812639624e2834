//go:build linux

package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A guest whose kernel panics ends the container like a kill, and its last
// words are in the container's log.
func TestGuestPanics(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("echo up; until test -e /go; do sleep 0.1; done; echo c >/proc/sysrq-trigger; exec sleep 1000")
	c.save()
	run := c.spawn("run", "run", "--keep", "--bundle", c.bundle, c.id)
	c.prints("run.stdout", "up\n") // what is still in the guest is lost with it
	c.must(os.WriteFile(c.path("rootfs/go"), nil, 0o644))
	if code := c.end(run, commandTime); code != 137 {
		t.Errorf("run: status %d, want 137: %s", code, c.read("run.stderr"))
	}
	if out := c.read("run.stdout"); out != "up\n" {
		t.Errorf("stdout %q", out)
	}
	c.wantStatus(specs.StateStopped)
	log, err := os.ReadFile(filepath.Join(c.state, c.id, "log"))
	c.must(err)
	contains(t, string(log), "the machine has ended", "Kernel panic", "sysrq triggered crash")
	c.runs("delete", c.id)
	c.wantNothing()
}

// memoryLimit is the containers' that run out of memory, in bytes.
const memoryLimit = 64 << 20

func (c *container) limitMemory() {
	limit := int64(memoryLimit)
	c.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
}

// A container that uses more than its limit is killed in the guest, and events
// tells of it.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("")
	c.spec.Process.Args = []string{"/bin/guest", "eat", "100"}
	c.limitMemory()
	c.create()
	events := c.spawn("events", "events", "--interval", "100ms", c.id)
	c.prints("events.stdout", `"type":"stats"`)
	holder := c.processes()["holder"]
	counter := c.oomCounter(holder)
	c.runs("start", c.id)
	if code := c.end(events, commandTime); code != 0 {
		t.Errorf("events: status %d: %s", code, c.read("events.stderr"))
	}
	if n := strings.Count(c.read("events.stdout"), `{"type":"oom","id":"`+c.id+`"}`); n != 1 {
		t.Errorf("%d oom events, want 1: %s", n, c.read("events.stdout"))
	}
	if out := c.read("stdout"); out != "" {
		t.Errorf("the process got its memory: %s", out)
	}
	c.waitStopped(soon)
	if line := commandLine(holder); line != "" {
		t.Errorf("the holder is still there: %s", line)
	}
	// What Docker and others watch.
	text, err := os.ReadFile(counter)
	c.must(err)
	if !strings.Contains(string(text), "oom_kill 1\n") {
		t.Errorf("%s: %s", counter, text)
	}
	c.runs("delete", c.id)

	c = c.container("")
	c.spec.Process.Args = []string{"/bin/guest", "eat", "100"}
	c.limitMemory()
	c.save()
	if r := c.try("run", "--bundle", c.bundle, c.id); r.code != 137 {
		t.Errorf("run: status %d, want 137: %s", r.code, r.stderr)
	}
	c.wantNothing()
}

// oomCounter is the file of the host's memory cgroup that pid is in which
// counts out-of-memory kills.
func (c *container) oomCounter(pid int) string {
	c.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	c.must(err)
	v2 := ""
	for line := range strings.Lines(string(text)) {
		// HIERARCHY:CONTROLLERS:PATH, cgroups(7)
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if f[1] == "memory" {
			return filepath.Join("/sys/fs/cgroup/memory", f[2], "memory.oom_control")
		}
		if f[1] == "" {
			v2 = filepath.Join("/sys/fs/cgroup", f[2], "memory.events")
		}
	}
	return v2
}

// An exec that uses too much dies alone, and who watches is told while the
// container goes on. Who wants the counters gets them alone.
func TestExecOutOfMemory(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("echo up; exec sleep 1000")
	c.limitMemory()
	c.up()
	events := c.spawn("events", "events", "--interval", "100ms", c.id)
	c.prints("events.stdout", `"type":"stats"`)
	if r := c.try("exec", c.id, "/bin/guest", "eat", "100"); r.code != 137 || r.stdout != "" {
		t.Errorf("exec: status %d, want 137: %s%s", r.code, r.stdout, r.stderr)
	}
	c.wantStatus(specs.StateRunning)
	if out := c.runs("exec", c.id, "echo", "alive"); out != "alive\n" {
		t.Errorf("exec after it: %q", out)
	}
	c.prints("events.stdout", `{"type":"oom","id":"`+c.id+`"}`)
	// As go-runc's Stats has it: the first line is the counters.
	stats := c.runs("events", "--stats", c.id)
	if !strings.HasPrefix(stats, `{"type":"stats","id":"`+c.id+`","data":{`) || strings.Count(stats, "\n") != 1 {
		t.Errorf("events --stats after a kill: %q, want one line of counters", stats)
	}
	c.runs("delete", "--force", c.id)
	if code := c.end(events, commandTime); code != 0 {
		t.Errorf("events: status %d: %s", code, c.read("events.stderr"))
	}
	c.wantNothing()
}

// What a process wrote through a shared mapping, and never synced, is in the
// host's file when the container has stopped.
func TestMappedFileIsWritten(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	c := newBox(t).container("")
	c.bound()
	file := filepath.Join(c.path("source"), "mapped")
	c.must(os.WriteFile(file, make([]byte, size), 0o644))
	c.spec.Process.Args = []string{"/bin/guest", "map", "/mnt/dir/mapped"}
	c.create()
	c.runs("start", c.id)
	c.waitStopped(commandTime)
	data, err := os.ReadFile(file)
	c.must(err)
	wrong := 0
	for i, b := range data {
		if b != byte(i>>12+i) {
			wrong++
		}
	}
	if len(data) != size || wrong > 0 {
		t.Errorf("%d bytes, want %d; %d are not what was written: %s", len(data), size, wrong, c.read("stderr"))
	}
	c.runs("delete", c.id)
	c.wantNothing()
}

// A machine that stands still, as one whose guest answers nothing, holds up nobody:
// state answers, exec gives up, delete --force ends it at once, and SIGKILL within
// the time that the monitor gives an honest one.
func TestStoppedMachine(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	c, deleted := b.container("echo up; exec sleep 1000"), b.container("echo up; exec sleep 1000")
	for _, one := range []*container{c, deleted} {
		one.up()
		one.must(unix.Kill(one.processes()["qemu"], unix.SIGSTOP))
		one.wantStatus(specs.StateRunning)
	}
	deleted.runs("delete", "--force", deleted.id)
	const limit = time.Minute // monitor.killLimit
	kill := c.spawn("kill", "kill", c.id, "KILL")
	if r := c.try("exec", c.id, "true"); r.code != 255 {
		t.Errorf("exec: status %d: %s", r.code, r.stderr)
	}
	if code := c.end(kill, commandTime); code == 0 {
		t.Error("kill succeeded")
	}
	contains(t, c.read("kill.stderr"), "has not answered", "machine is ended")
	c.waitStopped(limit + soon)
	c.runs("delete", c.id)
	c.wantNothing()
}
