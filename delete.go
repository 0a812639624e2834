//go:build linux

package main

import (
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm"
)

func deleteCommand() *cli.Command {
	return &cli.Command{
		Name:      "delete",
		Usage:     "remove a container that is stopped or created, or any with --force",
		ArgsUsage: "<container-id>",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill it first; an unknown container is no error"},
		},
		Action: func(c *cli.Context) error {
			id, err := containerID(c)
			if err != nil {
				return err
			}
			root, err := filepath.Abs(c.String("root"))
			if err != nil {
				return err
			}
			if err := libvm.Delete(c.Context, root, id, c.Bool("force")); err != nil {
				return fmt.Errorf("delete %q: %w", id, err)
			}
			return nil
		},
	}
}
