//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
)

// Targets of an exec: a factor, and milliseconds for runm's own processes.
const (
	execFactor = 2
	execExtra  = 50
)

func sleepArgs() []string { return []string{"/bin/sleep", "1000000"} }

// execs compares `runm exec` with the agent asked directly, in a container
// that sleeps, and weighs that container's processes at the end.
func execs(ctx context.Context, b *bench, t *table) (err error) {
	id, err := b.sleeper(ctx, b.command)
	if err != nil {
		return err
	}
	defer func() {
		_, derr := timed(b.command(context.WithoutCancel(ctx), "delete", "--force", id))
		err = errors.Join(err, derr)
	}()
	direct, err := b.bootAgent(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, direct.close()) }()

	process := *b.plan.Guest.Process
	process.Args = []string{"/bin/true"}
	var floor, runm []float64
	for i := range b.rounds + 1 {
		bare, err := direct.exec(ctx, &process)
		if err != nil {
			return err
		}
		took, err := timed(b.command(ctx, "exec", id, "/bin/true"))
		if err != nil {
			return err
		}
		if i == 0 {
			continue // translating the code, which no later exec pays
		}
		floor, runm = append(floor, bare), append(runm, took)
	}
	r := newRow("`runm exec` /bin/true; floor: the agent alone", "ms", runm, floor)
	t.Rows = append(t.Rows, r.aim(fmt.Sprintf("<= %d + %d ms", execFactor, execExtra), r.Value <= execFactor*r.Floor+execExtra))
	return b.memory(id, t)
}

// sleeper starts a container that sleeps, with runm or a peer.
func (b *bench) sleeper(ctx context.Context, c commander) (id string, err error) {
	dir, err := b.bundle("sleep", sleepArgs()...)
	if err != nil {
		return "", err
	}
	id = b.id()
	_, err = timed(c(ctx, "run", "--detach", "--bundle", dir, id))
	return id, err
}
