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

func TestAHookInheritsNoEnvironment(t *testing.T) {
	t.Setenv("RUNM_SECRET", "x")
	dir := t.TempDir()
	h := sh("/usr/bin/env > env")
	h.Env = []string{"A=b"}
	if err := Run(context.Background(), "poststop", []specs.Hook{h}, &specs.State{Bundle: dir}); err != nil {
		t.Fatal(err)
	}
	env, _ := os.ReadFile(filepath.Join(dir, "env"))
	if strings.Contains(string(env), "RUNM_SECRET") || !strings.Contains(string(env), "A=b") {
		t.Errorf("environment %q", env)
	}
}
