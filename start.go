//go:build linux

package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func startCommand() *cli.Command {
	return &cli.Command{
		Name:      "start",
		Usage:     "run the process of a created container",
		ArgsUsage: "<container-id>",
		Action: func(c *cli.Context) error {
			id, err := containerID(c)
			if err != nil {
				return err
			}
			container, err := load(c)
			if err == nil {
				err = container.Start(c.Context)
			}
			if err != nil {
				return fmt.Errorf("start %q: %w", id, err)
			}
			return nil
		},
	}
}
