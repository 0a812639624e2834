//go:build linux

package validation

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The eight programs that assert nothing (hooks, prestart, prestart_fail,
// poststart, poststart_fail, poststop, poststop_fail, process_rlimits_fail),
// as tests that do. Sentences in quotes are those of runtime-spec 1.3.0,
// runtime.md and config.md. What runc does too is tested with runc as well.

// poststartInCreate is why runc cannot show the poststart tests: release 1.1
// runs these hooks at the end of create.
const poststartInCreate = "runc 1.1 runs poststart hooks before start"

// hook is a hook on the host that runs script.
func hook(script string) specs.Hook {
	return specs.Hook{
		Path: "/bin/sh", Args: []string{"sh", "-c", script},
		Env:     []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Timeout: new(30), // seconds; one that waits in vain must end
	}
}

// guestHook is a hook that runs in the container.
func guestHook(script string) specs.Hook {
	h := hook(script)
	h.Env = []string{"PATH=/bin"}
	return h
}

// events is the file in the rootfs that hooks and the process append to.
func (c *container) events() string { return filepath.Join(c.rootfs(), "events") }

// note is a script for a hook on the host that appends an event.
func (c *container) note(event string) string {
	return fmt.Sprintf("echo %s >>'%s'", event, c.events())
}

// wantEvents asserts what hooks and process wrote, in order.
func (c *container) wantEvents(want ...string) {
	c.t.Helper()
	data, err := os.ReadFile(c.events())
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	if got := strings.Fields(string(data)); !slices.Equal(got, want) {
		c.t.Fatalf("events %q, want %q", got, want)
	}
}

// "Hooks MUST be called in the listed order", and each at its time. prestart
// before createRuntime before createContainer, during create; startContainer
// during start before the process; poststart before start returns; poststop
// before delete returns.
func TestHooksInOrder(t *testing.T) {
	t.Parallel()
	onlyRunm(t, poststartInCreate)
	c := newContainer(t, "echo process >>/events")
	c.spec.Hooks = &specs.Hooks{
		Prestart:        []specs.Hook{hook(c.note("prestart1")), hook(c.note("prestart2"))}, //nolint:staticcheck // deprecated, and used by Docker
		CreateRuntime:   []specs.Hook{hook(c.note("createRuntime1")), hook(c.note("createRuntime2"))},
		CreateContainer: []specs.Hook{hook(c.note("createContainer1")), hook(c.note("createContainer2"))},
		StartContainer:  []specs.Hook{guestHook("echo startContainer1 >>/events"), guestHook("echo startContainer2 >>/events")},
		Poststart:       []specs.Hook{hook(c.note("poststart1")), hook(c.note("poststart2"))},
		Poststop:        []specs.Hook{hook(c.note("poststop1")), hook(c.note("poststop2"))},
	}
	// The process waits for the first poststart hook to have run, so that
	// the order of the two is decided: it must have begun, but not ended.
	c.spec.Process.Args[2] = "echo process >>/events; until grep -q poststart2 /events; do sleep 0.1; done"
	c.spec.Hooks.Poststart[0] = hook(fmt.Sprintf("until grep -q process '%s'; do sleep 0.1; done; %s", c.events(), c.note("poststart1")))

	c.must(c.create())
	created := []string{"prestart1", "prestart2", "createRuntime1", "createRuntime2", "createContainer1", "createContainer2"}
	c.wantEvents(created...)
	pid := c.wantStatus(specs.StateCreated).Pid
	c.must(c.start())
	started := append(created, "startContainer1", "startContainer2", "process", "poststart1", "poststart2")
	c.wantEvents(started...)
	c.wait(pid)
	c.wantEvents(started...)
	c.must(c.delete())
	c.wantEvents(append(started, "poststop1", "poststop2")...)
	c.wantNoContainer()
}

// "The state of the container MUST be passed to hooks over stdin". hooks_stdin
// of the suite has three kinds; here are those that run on the host, all with
// the id, bundle, annotations, and the pid that state reports.
func TestHooksState(t *testing.T) {
	t.Parallel()
	c := newContainer(t, "true")
	c.spec.Annotations = map[string]string{"org.example.a": "1", "org.example.b": "two words"}
	save := func(kind string) []specs.Hook {
		return []specs.Hook{hook(fmt.Sprintf("cat >'%s'", filepath.Join(c.box.dir, kind)))}
	}
	c.spec.Hooks = &specs.Hooks{
		Prestart:        save("prestart"), //nolint:staticcheck // deprecated, and used by Docker
		CreateRuntime:   save("createRuntime"),
		CreateContainer: save("createContainer"),
		Poststart:       save("poststart"),
		Poststop:        save("poststop"),
	}
	c.must(c.create())
	pid := c.wantStatus(specs.StateCreated).Pid
	c.must(c.start())
	c.wait(pid)
	c.must(c.delete())

	creating := []specs.ContainerState{specs.StateCreating, specs.StateCreated} // runc says creating, crun and the suite created
	want := map[string][]specs.ContainerState{
		"prestart": creating, "createRuntime": creating, "createContainer": creating,
		"poststart": {specs.StateRunning}, "poststop": {specs.StateStopped},
	}
	if !isRunm(runtimePath(t)) {
		want["poststart"] = creating // poststartInCreate
	}
	for kind, statuses := range want {
		data, err := os.ReadFile(filepath.Join(c.box.dir, kind))
		c.must(err)
		var s specs.State
		if err := json.Unmarshal(data, &s); err != nil {
			t.Errorf("%s: %v: %s", kind, err, data)
			continue
		}
		if s.ID != c.id || s.Bundle != c.bundle || s.Version == "" {
			t.Errorf("%s: %+v, want id %s and bundle %s", kind, s, c.id, c.bundle)
		}
		if len(s.Annotations) != 2 || s.Annotations["org.example.b"] != "two words" {
			t.Errorf("%s: annotations %q", kind, s.Annotations)
		}
		if !slices.Contains(statuses, s.Status) {
			t.Errorf("%s: status %s, want one of %s", kind, s.Status, statuses)
		}
		wantPid := pid
		switch kind {
		case "createContainer":
			// "For hooks executed in the container namespace, it is the pid
			// as seen by the container" (runtime.md, "State").
			wantPid = 1
		case "poststop":
			wantPid = 0
		}
		if s.Pid != wantPid {
			t.Errorf("%s: pid %d, want %d", kind, s.Pid, wantPid)
		}
	}
}

// "If any [prestart, createRuntime, createContainer] hook fails, the runtime
// MUST generate an error, stop the container, and continue the lifecycle at
// step 12": destroy it.
func TestHookFailsCreate(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"prestart", "createRuntime", "createContainer"} {
		t.Run(kind, func(t *testing.T) {
			c := newContainer(t, "echo process >>/events")
			hooks := []specs.Hook{hook(c.note("first")), hook("echo no such luck >&2; exit 3"), hook(c.note("third"))}
			c.spec.Hooks = &specs.Hooks{}
			switch kind {
			case "prestart":
				c.spec.Hooks.Prestart = hooks //nolint:staticcheck // deprecated, and used by Docker
			case "createRuntime":
				c.spec.Hooks.CreateRuntime = hooks
			case "createContainer":
				c.spec.Hooks.CreateContainer = hooks
			}
			err := c.create()
			if err == nil {
				t.Fatal("create succeeded")
			}
			if kind != "createContainer" || isRunm(runtimePath(t)) { // runc 1.1 says nothing of the hook
				wantText(t, err, "no such luck")
			}
			c.wantNoContainer()
			c.wantEvents("first")
		})
	}
}

// The same of startContainer: start fails, and the process never runs.
func TestHookFailsStartContainer(t *testing.T) {
	t.Parallel()
	c := newContainer(t, "echo process >>/events")
	c.spec.Hooks = &specs.Hooks{
		StartContainer: []specs.Hook{guestHook("echo first >>/events"), guestHook("echo no such luck >&2; exit 3")},
	}
	if isRunm(runtimePath(t)) { // poststartInCreate
		c.spec.Hooks.Poststart = []specs.Hook{hook(c.note("poststart"))}
	}
	c.must(c.create())
	pid := c.wantStatus(specs.StateCreated).Pid
	err := c.start()
	if isRunm(runtimePath(t)) && err == nil { // runc 1.1's start does not wait for these
		t.Error("start succeeded")
	}
	waitPid(t, pid, commandTime)
	c.wantEvents("first")
	if s, err := c.state(); err == nil && s.Status != specs.StateStopped {
		t.Errorf("status %s, want stopped or no container", s.Status)
	}
	if out, _, err := c.call("delete", "--force", c.id); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// "If any poststart hook fails, the runtime MUST generate an error, stop the
// container, and continue the lifecycle at step 12", which destroys it and
// runs the poststop hooks. (Older specifications wanted a warning only: the
// suite's poststart_fail is of that age.)
func TestHookFailsPoststart(t *testing.T) {
	t.Parallel()
	onlyRunm(t, poststartInCreate)
	c := newContainer(t, "echo process >>/events; sleep 1000")
	seen := fmt.Sprintf("until grep -q process '%s'; do sleep 0.1; done", c.events())
	c.spec.Hooks = &specs.Hooks{
		Poststart: []specs.Hook{hook(seen), hook("echo no such luck >&2; exit 3"), hook(c.note("third"))},
		Poststop:  []specs.Hook{hook(c.note("poststop"))},
	}
	c.must(c.create())
	pid := c.wantStatus(specs.StateCreated).Pid
	err := c.start()
	if err == nil {
		t.Fatal("start succeeded")
	}
	wantText(t, err, "no such luck")
	waitPid(t, pid, commandTime) // "stop the container"
	c.wantNoContainer()
	c.wantEvents("process", "poststop")
}

// "If any poststop hook fails, the runtime MUST log a warning, but the
// remaining hooks and lifecycle continue as if the hook had succeeded."
func TestHookFailsPoststop(t *testing.T) {
	t.Parallel()
	onlyRunm(t, "runc 1.1 runs no poststop hook after one that failed")
	c := newContainer(t, "true")
	c.spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{
		hook(c.note("first")), hook("echo no such luck >&2; exit 3"), hook(c.note("third")),
	}}
	c.must(c.create())
	pid := c.wantStatus(specs.StateCreated).Pid
	c.must(c.start())
	c.wait(pid)
	c.wantEvents()
	_, stderr, err := c.call("delete", c.id)
	if err != nil {
		t.Error(err)
	}
	if !strings.Contains(stderr, "no such luck") && !strings.Contains(stderr, "exit status 3") {
		t.Errorf("delete warned %q, want a warning about the hook", stderr)
	}
	c.wantEvents("first", "third")
	c.wantNoContainer()
}

// poststop hooks of a container that was never started run at delete too, and
// those of a delete --force.
func TestPoststopAlways(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"created": nil, "forced": {"--force"}} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "echo process >>/events; sleep 1000")
			c.spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{hook(c.note("poststop"))}}
			c.must(c.create())
			c.wantEvents()
			if _, _, err := c.call("delete", append(args, c.id)...); err != nil {
				t.Error(err)
			}
			c.wantEvents("poststop")
			c.wantNoContainer()
		})
	}
}

// "timeout is the number of seconds before aborting the hook": the hook is
// killed, which is a failure. Its own children count as what it left behind.
func TestHookTimeout(t *testing.T) {
	t.Parallel()
	c := newContainer(t, "true")
	second := 1
	// exec: no child that a runtime which kills the hook alone would leave.
	slow := hook(fmt.Sprintf("%s; exec sleep 1000", c.note("begun")))
	slow.Timeout = &second
	c.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{slow, hook(c.note("second"))}}
	if err := c.create(); err == nil {
		t.Fatal("create succeeded")
	}
	c.wantEvents("begun")
	c.wantNoContainer()
}

// "The runtime MUST generate an error for any values which cannot be mapped to
// a relevant kernel interface", and for two entries of one type.
func TestRlimitsRefused(t *testing.T) {
	t.Parallel()
	tests := map[string][]specs.POSIXRlimit{
		"RLIMIT_TEST": {{Type: "RLIMIT_TEST", Soft: 1024, Hard: 1024}},
		"twice":       {{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 10}, {Type: "RLIMIT_NOFILE", Soft: 20, Hard: 20}},
	}
	for name, rlimits := range tests {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "true")
			if name == "twice" {
				onlyRunm(t, "takes the last of two entries")
			}
			c.spec.Process.Rlimits = rlimits
			err := c.create()
			if err == nil {
				t.Fatal("create succeeded")
			}
			wantText(t, err, rlimits[0].Type)
			c.wantNoContainer()
		})
	}
}

// wantText asserts that an error names what went wrong.
func wantText(t *testing.T, err error, text string) {
	t.Helper()
	if !strings.Contains(err.Error(), text) {
		t.Errorf("error %q does not say %q", err, text)
	}
}
