//go:build linux

// Package hooks runs the hooks of config.json on the host (config.md, "POSIX-
// platform Hooks").
package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// grace is how long a killed hook's children may keep its output open.
const grace = time.Second

// Run runs hooks of the runtime's namespaces: in the directory of the bundle, and
// one without an environment in config.json has this process's, as with runc.
func Run(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State) error {
	return runAll(ctx, kind, hooks, state, state.Bundle, os.Environ())
}

// RunInContainer runs hooks of the container's namespaces, which the caller is in:
// in its working directory, and one without an environment has an empty one, as
// with runc from 1.3 on. The container's would be an image's to choose, and could
// name libraries to be loaded into a program of the host's.
func RunInContainer(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State) error {
	return runAll(ctx, kind, hooks, state, "", []string{})
}

// runAll runs hooks one after another ("Hooks MUST be called in the listed order")
// with state on their standard input. It stops at the first that fails. Its error
// has the hook's stderr, and the hook is killed at its timeout or when ctx ends.
func runAll(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State, dir string, env []string) error {
	if len(hooks) == 0 {
		return nil
	}
	input, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("%s hook: %w", kind, err)
	}
	for i, h := range hooks {
		if h.Env == nil {
			h.Env = env
		}
		if err := run(ctx, h, dir, input); err != nil {
			return fmt.Errorf("error running %s hook #%d: %w", kind, i, err)
		}
	}
	return nil
}

func run(ctx context.Context, h specs.Hook, dir string, input []byte) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...) // never nil, which os/exec takes for ours
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout = &out
	cmd.Stderr = &out
	cmd.WaitDelay = grace
	// A hook's own children are killed with it. It dies with us, too: when
	// create is killed nothing of it may stay. The kernel sends that signal
	// when the thread that forked ends (prctl(2)), so the thread is kept.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && h.Timeout != nil:
		return fmt.Errorf("%s: timed out after %d s", h.Path, *h.Timeout)
	case errors.Is(err, exec.ErrWaitDelay):
		// The hook itself succeeded; what it left behind is its own.
		return nil
	case err != nil && out.Len() > 0:
		return fmt.Errorf("%s: %w, output: %s", h.Path, err, bytes.TrimSpace(tail(out.Bytes())))
	case err != nil:
		return fmt.Errorf("%s: %w", h.Path, err)
	}
	return nil
}

// tail keeps an error readable.
func tail(b []byte) []byte {
	const most = 4 << 10
	return b[max(0, len(b)-most):]
}
