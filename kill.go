//go:build linux

package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

func killCommand() *cli.Command {
	return &cli.Command{
		Name:      "kill",
		Usage:     "send a signal (default TERM) to the container's init",
		ArgsUsage: "<container-id> [signal]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "send it to every process of the container"},
		},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 1, 2, "the container ID and a signal"); err != nil {
				return err
			}
			sig := unix.SIGTERM
			if name := c.Args().Get(1); name != "" {
				var err error
				if sig, err = parseSignal(name); err != nil {
					return err
				}
			}
			container, err := load(c)
			if err == nil {
				err = container.Kill(sig, c.Bool("all"))
			}
			if err != nil {
				return fmt.Errorf("kill %q: %w", c.Args().First(), err)
			}
			return nil
		},
	}
}

// parseSignal takes a number, or a name with or without SIG, in any case.
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 { // 0 sends nothing, and tells whether the container runs: kill(2)
			return 0, fmt.Errorf("invalid signal %q: want 0 to 64 or a name", s)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	if sig, ok := realtime(name); ok {
		return sig, nil
	}
	return 0, fmt.Errorf("invalid signal %q: want 0 to 64 or a name", s)
}

// realtime knows SIGRTMIN+n and SIGRTMAX-n as libc counts them (signal(7)).
func realtime(name string) (unix.Signal, bool) {
	const rtmin, rtmax = 34, 64
	base, sign := rtmin, 1
	rest, ok := strings.CutPrefix(name, "SIGRTMIN")
	if !ok {
		if rest, ok = strings.CutPrefix(name, "SIGRTMAX"); !ok {
			return 0, false
		}
		base, sign = rtmax, -1
	}
	if rest == "" {
		return unix.Signal(base), true
	}
	want := byte('+')
	if sign < 0 {
		want = '-'
	}
	n, err := strconv.Atoi(rest[1:])
	if rest[0] != want || err != nil || n < 0 || n > rtmax-rtmin {
		return 0, false
	}
	return unix.Signal(base + sign*n), true
}
