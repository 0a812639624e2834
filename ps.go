//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm"
	"github.com/runm/runm/libvm/monitor"
)

func psCommand() *cli.Command {
	return &cli.Command{
		Name:      "ps",
		Usage:     "list the processes of a container",
		ArgsUsage: "<container-id> [-ef]",
		Description: "The table is the guest's own: its pids mean nothing on the host. --format json\n" +
			"lists host pids instead: the processes that the container is made of there.\n" +
			"ps(1) runs on the host and cannot see into a machine, so its options are\n" +
			"refused, apart from -ef, which is what is shown.",
		Flags: []cli.Flag{formatFlag()},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 1, -1, "the container ID"); err != nil {
				return err
			}
			container, err := load(c)
			if err == nil {
				err = printProcesses(c, container)
			}
			if err != nil {
				return fmt.Errorf("ps %q: %w", c.Args().First(), err)
			}
			return nil
		},
	}
}

func printProcesses(c *cli.Context, container *libvm.Container) error {
	switch c.String("format") {
	case formatJSON:
		pids, err := container.Pids()
		if err != nil {
			return err
		}
		return json.NewEncoder(c.App.Writer).Encode(pids)
	case formatTable:
	default:
		return errFormat
	}
	if o := c.Args().Tail(); len(o) > 0 && (len(o) > 1 || o[0] != "-ef") {
		return fmt.Errorf("option %q of ps(1) is not supported: ps cannot see into the machine; only -ef is", o[0])
	}
	list, err := container.Processes()
	if err != nil && !errors.Is(err, libvm.ErrNotRunning) {
		return err // of a stopped container the header alone, as runc has it
	}
	return printTable(c.App.Writer, list, time.Now())
}

// printTable prints what `ps -ef` of procps prints.
func printTable(w io.Writer, list []monitor.Process, now time.Time) error {
	if _, err := fmt.Fprintln(w, "UID          PID    PPID  C STIME TTY          TIME CMD"); err != nil {
		return err
	}
	for _, p := range list {
		started := time.Unix(p.Started, 0)
		_, err := fmt.Fprintf(w, "%-8s %7d %7d %2d %5s %-8s %s %s\n",
			userName(p.UID), p.PID, p.PPID, cpuPercent(p.CPUMillis, now.Sub(started)),
			startTime(started, now), p.TTY, cpuTime(p.CPUMillis), p.Command)
		if err != nil {
			return err
		}
	}
	return nil
}

// userName is root or the number: the host's names are not the container's.
func userName(uid uint32) string {
	if uid == 0 {
		return "root"
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// cpuPercent is CPU time over the process's age, as ps(1) defines C.
func cpuPercent(cpuMillis uint64, age time.Duration) uint64 {
	ms := age.Milliseconds()
	if ms < 1000 {
		ms = 1000
	}
	return min(cpuMillis*100/uint64(ms), 99)
}

// startTime is the hour on the first day, then the date.
func startTime(started, now time.Time) string {
	if now.Sub(started) < 24*time.Hour {
		return started.Format("15:04")
	}
	return started.Format("Jan02")
}

// cpuTime is [days-]hours:minutes:seconds.
func cpuTime(ms uint64) string {
	s := ms / 1000
	text := fmt.Sprintf("%02d:%02d:%02d", s/3600%24, s/60%60, s%60)
	if days := s / 86400; days > 0 {
		return fmt.Sprintf("%d-%s", days, text)
	}
	return text
}
