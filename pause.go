//go:build linux

package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm"
)

func pauseCommand() *cli.Command {
	return &cli.Command{
		Name:      "pause",
		Usage:     "freeze all processes of a container, and its machine",
		ArgsUsage: "<container-id>",
		Action:    onContainer((*libvm.Container).Pause),
	}
}

func resumeCommand() *cli.Command {
	return &cli.Command{
		Name:      "resume",
		Usage:     "let a paused container go on",
		ArgsUsage: "<container-id>",
		Action:    onContainer((*libvm.Container).Resume),
	}
}

// onContainer is a command that does one thing to one container.
func onContainer(f func(*libvm.Container) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		id, err := containerID(c)
		if err != nil {
			return err
		}
		container, err := load(c)
		if err == nil {
			err = f(container)
		}
		if err != nil {
			return fmt.Errorf("%s %q: %w", c.Command.Name, id, err)
		}
		return nil
	}
}
