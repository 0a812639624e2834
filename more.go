//go:build linux

package main

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
)

// moreCommands are the commands beyond the specification's.
func moreCommands() []*cli.Command { return nil }

func printVersion(c *cli.Context) {
	fmt.Fprintf(c.App.Writer, "runm version %s\nspec: %s\n", version, specs.Version)
}
