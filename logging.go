//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/console"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm"
	"github.com/runm/runm/libvm/vmm"
)

// defaultRoot is where state is kept, as runc keeps its own in /run/runc.
const defaultRoot = "/run/runm"

// logging is where messages go.
type logging struct {
	file *os.File // --log, or nil
}

// open sets logrus up from the global flags. Without --log, warnings go to a
// terminal and nowhere else: what create and exec print is the container's
// output. The container's own log has them in any case.
func (l *logging) open(c *cli.Context) error {
	if c.Bool("debug") {
		logrus.SetLevel(logrus.DebugLevel)
	}
	switch format := c.String("log-format"); format {
	case "", "text":
	case "json":
		logrus.SetFormatter(&logrus.JSONFormatter{})
	default:
		return fmt.Errorf("invalid --log-format %q, want text or json", format)
	}
	switch c.String("rootless") {
	case "auto", "true", "false":
	default:
		return fmt.Errorf("invalid --rootless %q, want true, false or auto", c.String("rootless"))
	}
	if printsForContainers(c.Args().First()) && !isTerminal(os.Stderr) {
		logrus.SetOutput(io.Discard)
	}
	path := c.String("log")
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
	if err != nil {
		return fmt.Errorf("--log: %w", err)
	}
	l.file = f
	logrus.SetOutput(f)
	return nil
}

// printsForContainers names the commands whose stdout and stderr are a
// container's.
func printsForContainers(command string) bool {
	return command == "create" || command == "run" || command == "exec"
}

// report shows an error on stderr, where podman and Docker look for it, and in
// the log, where containerd does.
func (l *logging) report(err error) {
	fmt.Fprintf(os.Stderr, "runm: %v\n", err)
	if h := hint(err); h != "" && isTerminal(os.Stderr) {
		fmt.Fprintf(os.Stderr, "runm: hint: %s\n", h)
	}
	if l.file != nil {
		logrus.Error(err)
	}
}

// hint says what to do about an error that has one known cure.
func hint(err error) string {
	switch {
	case errors.Is(err, libvm.ErrExist):
		return "choose another id, or remove the container with `runm delete`"
	case errors.Is(err, libvm.ErrNotExist):
		return "`runm list` shows the containers, --root says where to look"
	case errors.Is(err, vmm.ErrNotInstalled):
		return "`runm check` says what is missing and how to get it"
	default:
		return ""
	}
}

func isTerminal(f *os.File) bool {
	_, err := console.ConsoleFromFile(f)
	return err == nil
}
