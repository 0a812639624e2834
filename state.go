//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm"
)

func stateCommand() *cli.Command {
	return &cli.Command{
		Name:      "state",
		Usage:     "print the state of a container as JSON",
		ArgsUsage: "<container-id>",
		Action: func(c *cli.Context) error {
			id, err := containerID(c)
			if err != nil {
				return err
			}
			container, err := load(c)
			if err != nil {
				return fmt.Errorf("state %q: %w", id, err)
			}
			s, err := newState(container)
			if err != nil {
				return fmt.Errorf("state %q: %w", id, err)
			}
			out, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.App.Writer, string(out))
			return err
		},
	}
}

// containerState is what runc's `state` and `list --format json` print.
type containerState struct {
	// Version is that of the specification the state follows.
	Version string `json:"ociVersion"`
	ID      string `json:"id"`
	// InitProcessPid is the host process that stands in for init; 0 when
	// stopped.
	InitProcessPid int                  `json:"pid"`
	Status         specs.ContainerState `json:"status"`
	Bundle         string               `json:"bundle"`
	Rootfs         string               `json:"rootfs"`
	Created        time.Time            `json:"created"`
	Annotations    map[string]string    `json:"annotations,omitempty"`
	Owner          string               `json:"owner"`
}

func newState(c *libvm.Container) (*containerState, error) {
	s, err := c.OCIState()
	if err != nil {
		return nil, err
	}
	return &containerState{
		Version: s.Version, ID: s.ID, InitProcessPid: s.Pid, Status: s.Status, Bundle: s.Bundle,
		Rootfs: c.State.Rootfs, Created: c.State.Created, Annotations: s.Annotations, Owner: c.State.Owner,
	}, nil
}
