//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm"
	"github.com/runm/runm/libvm/console"
	"github.com/runm/runm/libvm/trace"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "create a container, start it, wait for its end and delete it",
		ArgsUsage: "<container-id>",
		Flags: append(createFlags(),
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait"},
			&cli.BoolFlag{Name: "keep", Usage: "do not delete the container at its end"},
			&cli.BoolFlag{Name: "no-subreaper", Usage: "accepted for runc's sake: runm makes no subreaper"},
		),
		Action: func(c *cli.Context) error {
			p, err := prepare(c)
			if err != nil {
				return err
			}
			if c.Bool("detach") {
				return runDetached(c, p)
			}
			if c.String("console-socket") != "" {
				return errors.New("cannot use console socket if runm will not detach or allocate tty")
			}
			status, err := runAttached(c, p)
			if err != nil {
				return err
			}
			if status != 0 {
				return exitStatus{code: status}
			}
			return nil
		},
	}
}

func runDetached(c *cli.Context, p *libvm.Prepared) error {
	created, err := createDetached(c.Context, c, p)
	if err != nil {
		return err
	}
	if err := created.Start(c.Context); err != nil {
		return errors.Join(fmt.Errorf("start %q: %w", created.ID(), err), discard(c, created))
	}
	return nil
}

// runAttached runs the container to its end and returns its status.
func runAttached(c *cli.Context, p *libvm.Prepared) (status int, err error) {
	if !p.Terminal() {
		p.SetStdio([]*os.File{os.Stdin, os.Stdout, os.Stderr})
		return runToEnd(c, p, nil)
	}
	pty, err := console.New(p.ConsoleSize())
	if err != nil {
		return 0, err
	}
	defer pty.Close()
	relay, err := console.NewRelay(pty)
	if err != nil {
		return 0, err
	}
	p.SetStdio([]*os.File{pty.Slave})
	return runToEnd(c, p, relay)
}

func runToEnd(c *cli.Context, p *libvm.Prepared, relay *console.Relay) (status int, err error) {
	if relay != nil {
		defer relay.Abort()
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	created, err := p.Create(ctx)
	if err != nil {
		return 0, err
	}
	// From here on signals are the container's, not ours.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	signals <- unix.SIGWINCH // the window may have changed while the machine booted
	if ctx.Err() != nil {
		signals <- unix.SIGTERM // it came when the container was just there
	}
	stop()
	go forward(signals, created, relay)
	span := trace.Begin(ctx, "start")
	if err := created.Start(c.Context); err != nil {
		derr := discard(c, created)
		_, _ = created.Holder.Wait()
		return 0, errors.Join(fmt.Errorf("start %q: %w", created.ID(), err), derr)
	}
	span.End()
	span = trace.Begin(ctx, "wait: holder ends")
	status, err = created.Holder.Wait()
	span.End()
	if err != nil {
		return 0, err
	}
	// Whatever cannot be cleaned up, the status is the container's, as runc has it.
	if relay != nil {
		if err := relay.Close(); err != nil {
			logrus.Error(err)
		}
	}
	if c.Bool("keep") {
		return status, nil
	}
	if err := discard(c, created); err != nil {
		logrus.Errorf("delete %q: %v", created.ID(), err)
	}
	return status, nil
}

// discard deletes the container, if nobody else has done so.
func discard(c *cli.Context, created *libvm.Created) error {
	err := created.Delete(context.WithoutCancel(c.Context), true)
	if errors.Is(err, libvm.ErrNotExist) {
		return nil
	}
	return err
}

// forward passes runm's signals on to the container.
func forward(signals <-chan os.Signal, created *libvm.Created, relay *console.Relay) {
	for s := range signals {
		switch s {
		case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE:
			// The Go runtime's and our child's.
		case unix.SIGWINCH:
			if relay != nil {
				_ = relay.Resize() // the holder, in its session, hears of it
			}
		default:
			if sig, ok := s.(unix.Signal); ok {
				_ = created.Holder.Signal(sig)
			}
		}
	}
}
