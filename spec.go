//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
)

// specConfig is the file's name in a bundle (config.md of the runtime-spec).
const specConfig = "config.json"

func specCommand() *cli.Command {
	return &cli.Command{
		Name:        "spec",
		Usage:       "write a config.json to begin with",
		Description: "It runs sh in ./rootfs with a terminal; edit it to run something else.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Usage: "the bundle's directory (default: the working directory)"},
			&cli.BoolFlag{Name: "rootless", Usage: "map the current user to root in a user namespace, as runc does"},
		},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0, "none"); err != nil {
				return err
			}
			return writeSpec(c.String("bundle"), c.Bool("rootless"))
		},
	}
}

func writeSpec(dir string, rootless bool) error {
	spec := exampleSpec()
	if rootless {
		makeRootless(spec)
	}
	data, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, specConfig), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("File %s exists. Remove it first", specConfig) //nolint:staticcheck // runc's words
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
