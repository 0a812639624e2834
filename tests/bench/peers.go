//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
)

// commander makes a runtime's command with its global flags.
type commander func(ctx context.Context, args ...string) *exec.Cmd

// peers measures the other runtimes that are installed, with the same bundle.
// What one cannot do here is a note, not an error.
func peers(ctx context.Context, b *bench, t *table) error {
	for _, p := range []struct {
		name  string
		flags []string
	}{
		{"runc", nil},
		{"crun", nil},
		{"runsc", []string{"--network=none", "--ignore-cgroups"}},
	} {
		path, err := exec.LookPath(p.name)
		if err != nil {
			continue
		}
		flags := append([]string{"--root", filepath.Join(b.dir, p.name)}, p.flags...)
		command := func(ctx context.Context, args ...string) *exec.Cmd {
			return exec.CommandContext(ctx, path, append(flags[:len(flags):len(flags)], args...)...)
		}
		if err := b.peer(ctx, p.name, command, t); err != nil {
			t.Notes = append(t.Notes, fmt.Sprintf("%s: %v", p.name, err))
		}
	}
	return ctx.Err()
}

func (b *bench) peer(ctx context.Context, name string, c commander, t *table) (err error) {
	dir, err := b.bundle("true", "/bin/true")
	if err != nil {
		return err
	}
	var runs, execs []float64
	for range b.rounds {
		took, err := timed(c(ctx, "run", "--bundle", dir, b.id()))
		if err != nil {
			return err
		}
		runs = append(runs, took)
	}
	t.Rows = append(t.Rows, newRow("`"+name+" run` /bin/true", "ms", runs, nil))
	id, err := b.sleeper(ctx, c)
	defer func() {
		_, derr := timed(c(context.WithoutCancel(ctx), "delete", "--force", id))
		err = errors.Join(err, derr)
	}()
	if err != nil {
		return err
	}
	for range b.rounds {
		took, err := timed(c(ctx, "exec", id, "/bin/true"))
		if err != nil {
			return err
		}
		execs = append(execs, took)
	}
	t.Rows = append(t.Rows, newRow("`"+name+" exec` /bin/true", "ms", execs, nil))
	return nil
}
