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
	"os/exec"
	"runtime"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// grace is how long a killed hook's children may keep its output open.
const grace = time.Second

// Run runs hooks one after another ("Hooks MUST be called in the listed
// order") with state on their standard input, in the directory of the bundle.
// It stops at the first that fails. Its error has the hook's stderr, and the
// hook is killed at its timeout or when ctx ends.
func Run(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	input, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("%s hook: %w", kind, err)
	}
	for i, h := range hooks {
		if err := run(ctx, h, state.Bundle, input); err != nil {
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
	// "env" has the same semantics as POSIX's environ: nothing is inherited.
	cmd.Env = append([]string{}, h.Env...)
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
