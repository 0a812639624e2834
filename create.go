//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm"
	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/console"
	"github.com/runm/runm/libvm/monitor"
)

func createCommand() *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "create a container: boot its machine, do not run its process yet",
		ArgsUsage: "<container-id>",
		Flags:     createFlags(),
		Action: func(c *cli.Context) error {
			p, err := prepare(c)
			if err != nil {
				return err
			}
			_, err = createDetached(c.Context, c, p)
			return err
		},
	}
}

// createFlags are those of create and run.
func createFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Value: ".", Usage: "the bundle's directory"},
		&cli.StringFlag{Name: "console-socket", Usage: "unix socket that gets the terminal's master"},
		&cli.StringFlag{Name: "pid-file", Usage: "file to write the container's pid to"},
		&cli.StringFlag{Name: "pidfd-socket", Usage: "not supported: refused"},
		&cli.BoolFlag{Name: "no-pivot", Usage: "do not use pivot_root in the guest"},
		&cli.BoolFlag{Name: "no-new-keyring", Usage: "do not make a new session keyring in the guest"},
		&cli.IntFlag{Name: "preserve-fds", Usage: "descriptors cannot enter a machine: only 0 is supported"},
	}
}

// prepare reads flags and bundle; nothing is changed.
func prepare(c *cli.Context) (*libvm.Prepared, error) {
	id, err := containerID(c)
	if err != nil {
		return nil, err
	}
	if c.Int("preserve-fds") != 0 {
		return nil, errors.New("--preserve-fds: a descriptor of the host cannot enter a machine")
	}
	if c.String("pidfd-socket") != "" {
		return nil, errors.New("--pidfd-socket is not supported: use --pid-file")
	}
	warnings, err := systemdService(os.Getenv, os.Getpid())
	if err != nil {
		return nil, err
	}
	root, err := filepath.Abs(c.String("root"))
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load(config.DefaultPath)
	if err != nil {
		return nil, err
	}
	return libvm.Prepare(c.Context, libvm.CreateOpts{
		Root: root, ID: id, Bundle: c.String("bundle"), Systemd: c.Bool("systemd-cgroup"),
		Debug: c.Bool("debug"), PidFile: c.String("pid-file"), Config: cfg,
		Run:      c.Command.Name == "run" && !c.Bool("detach"),
		Warnings: warnings,
		Flags:    monitor.GuestFlags{NoPivot: c.Bool("no-pivot"), NoNewKeyring: c.Bool("no-new-keyring")},
	})
}

// systemdService says what of what systemd hands to a service the container does
// not get, and runc passes on to it: sockets that are open (sd_listen_fds(3)), and
// the one that it says it is ready on (sd_notify(3)).
func systemdService(env func(string) string, pid int) (warnings []string, err error) {
	if n := env("LISTEN_FDS"); n != "" && n != "0" && env("LISTEN_PID") == strconv.Itoa(pid) {
		return nil, errors.New("LISTEN_FDS: a socket of the host cannot enter a machine; let the container listen itself and publish its port")
	}
	if env("NOTIFY_SOCKET") != "" {
		warnings = append(warnings, "NOTIFY_SOCKET: what the container tells systemd does not leave its machine; a service of Type=notify would wait in vain.")
	}
	return warnings, nil
}

// createDetached creates a container whose terminal, if it wants one, goes to
// --console-socket, and whose stdio is runm's own otherwise.
func createDetached(ctx context.Context, c *cli.Context, p *libvm.Prepared) (*libvm.Created, error) {
	ctx, stop := interruptible(ctx)
	defer stop()
	socket := c.String("console-socket")
	switch {
	case p.Terminal() && socket == "":
		return nil, errors.New("cannot allocate tty if runm will detach without setting console socket")
	case !p.Terminal() && socket != "":
		return nil, errors.New("cannot use console socket if runm will not detach or allocate tty")
	case !p.Terminal():
		p.SetStdio([]*os.File{os.Stdin, os.Stdout, os.Stderr})
		return p.Create(ctx)
	}
	pty, err := console.New(p.ConsoleSize())
	if err != nil {
		return nil, err
	}
	defer pty.Close()
	if err := pty.Send(socket); err != nil {
		return nil, err
	}
	p.SetStdio([]*os.File{pty.Slave})
	return p.Create(ctx)
}

// interruptible is ctx until a signal asks runm to give up: what it has begun
// is then undone before it ends.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
}

// containerID is a command's one argument.
func containerID(c *cli.Context) (string, error) {
	if err := wantArgs(c, 1, 1, "the container ID"); err != nil {
		return "", err
	}
	return c.Args().First(), nil
}

// wantArgs checks the number of arguments, most < 0 for any.
func wantArgs(c *cli.Context, least, most int, what string) error {
	n := c.NArg()
	if n < least || most >= 0 && n > most {
		return fmt.Errorf("%s: %d arguments, want %s", c.Command.Name, n, what)
	}
	return nil
}

// load finds the container that the first argument names.
func load(c *cli.Context) (*libvm.Container, error) {
	root, err := filepath.Abs(c.String("root"))
	if err != nil {
		return nil, err
	}
	container, err := libvm.Load(root, c.Args().First())
	if err == nil {
		container.Trace(c.Context)
	}
	return container, err
}
