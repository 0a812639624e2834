//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm"
)

// Values of --format.
const (
	formatTable = "table"
	formatJSON  = "json"
)

var errFormat = errors.New("invalid format option")

// formatFlag is that of the commands with two formats.
func formatFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: formatTable, Usage: "table or json"}
}

func listCommand() *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "list the containers below --root",
		Flags: []cli.Flag{
			formatFlag(),
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print ids only"},
		},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0, "none"); err != nil {
				return err
			}
			states, err := listStates(c)
			if err != nil {
				return err
			}
			if c.Bool("quiet") {
				for _, s := range states {
					fmt.Fprintln(c.App.Writer, s.ID)
				}
				return nil
			}
			return printStates(c.App.Writer, c.String("format"), states)
		},
	}
}

// listStates is the state of each container. One that cannot be read is named
// on stderr and left out, so that it does not hide the others.
func listStates(c *cli.Context) ([]*containerState, error) {
	root, err := filepath.Abs(c.String("root"))
	if err != nil {
		return nil, err
	}
	var states []*containerState
	err = libvm.Each(root, func(id string, container *libvm.Container, err error) {
		var s *containerState
		if err == nil {
			s, err = newState(container)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "runm: list: container %q: %v\n", id, err)
			return
		}
		states = append(states, s)
	})
	return states, err
}

// printStates prints what runc prints; no containers are null in JSON.
func printStates(w io.Writer, format string, states []*containerState) error {
	switch format {
	case formatTable:
		t := tabwriter.NewWriter(w, 12, 1, 3, ' ', 0)
		fmt.Fprint(t, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
		for _, s := range states {
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\n",
				s.ID, s.InitProcessPid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
		}
		return t.Flush()
	case formatJSON:
		return json.NewEncoder(w).Encode(states)
	default:
		return errFormat
	}
}
