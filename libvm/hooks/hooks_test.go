//go:build linux

package hooks

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func sh(script string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}}
}

func TestHooksRunInOrderWithTheState(t *testing.T) {
	dir := t.TempDir()
	state := &specs.State{ID: "c1", Bundle: dir, Pid: 7}
	err := Run(context.Background(), "prestart", []specs.Hook{
		sh("/bin/cat > state; echo one >> log"), sh("echo two >> log"),
	}, state)
	if err != nil {
		t.Fatal(err)
	}
	if log, _ := os.ReadFile(filepath.Join(dir, "log")); string(log) != "one\ntwo\n" {
		t.Errorf("log %q", log)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "state")); !strings.Contains(string(got), `"id":"c1"`) {
		t.Errorf("state on stdin: %q", got)
	}
}

func TestAFailingHookStopsTheRest(t *testing.T) {
	dir := t.TempDir()
	err := Run(context.Background(), "prestart", []specs.Hook{
		sh("echo why >&2; exit 3"), sh("echo ran > second"),
	}, &specs.State{Bundle: dir})
	if err == nil || !strings.Contains(err.Error(), "why") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error %v, want status and output", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "second")); err == nil {
		t.Error("the second hook ran")
	}
}

func TestAHookIsKilledAtItsTimeout(t *testing.T) {
	second := 1
	h := sh("/bin/sleep 60 & /bin/sleep 60")
	h.Timeout = &second
	began := time.Now()
	err := Run(context.Background(), "prestart", []specs.Hook{h}, &specs.State{Bundle: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "timed out after 1 s") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestAHooksEnvironment(t *testing.T) {
	t.Setenv("RUNM_TEST", "x")
	type runner func(context.Context, string, []specs.Hook, *specs.State) error
	for name, c := range map[string]struct {
		run       runner
		env       []string
		inherited bool
	}{
		"none":                  {Run, nil, true},
		"its own":               {Run, []string{"A=b"}, false},
		"an empty one":          {Run, []string{}, false},
		"none, in container":    {RunInContainer, nil, false},
		"its own, in container": {RunInContainer, []string{"A=b"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "env")
			h := sh("/usr/bin/env >" + out)
			h.Env = c.env
			if err := c.run(context.Background(), "poststop", []specs.Hook{h}, &specs.State{Bundle: t.TempDir()}); err != nil {
				t.Fatal(err)
			}
			env, _ := os.ReadFile(out)
			if got := strings.Contains(string(env), "RUNM_TEST=x"); got != c.inherited {
				t.Errorf("inherited: %v, environment %q", got, env)
			}
			if got := strings.Contains(string(env), "A=b"); got != (len(c.env) > 0) {
				t.Errorf("environment %q, want %q in it", env, c.env)
			}
		})
	}
}

// As with runc, the one is in the bundle and the other where its caller is, which
// is the container's root file system.
func TestAHooksDirectory(t *testing.T) {
	bundle, root := t.TempDir(), t.TempDir()
	t.Chdir(root)
	state := &specs.State{Bundle: bundle}
	if err := Run(context.Background(), "createRuntime", []specs.Hook{sh("echo >here")}, state); err != nil {
		t.Fatal(err)
	}
	if err := RunInContainer(context.Background(), "createContainer", []specs.Hook{sh("echo >here")}, state); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{bundle, root} {
		if _, err := os.Stat(filepath.Join(dir, "here")); err != nil {
			t.Error(err)
		}
	}
}
