//go:build linux

// Command runm is an OCI runtime: runc's command line, and a microVM for every
// container.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm"
	"github.com/runm/runm/libvm/cgroup"
	"github.com/runm/runm/libvm/holder"
	"github.com/runm/runm/libvm/monitor"
	"github.com/runm/runm/libvm/template"
	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/libvm/vmm/qemu"
)

// version is set by the build.
var version = "0.1.0-dev"

// init keeps the holder on the main thread, whose namespaces and root
// /proc/<pid> shows; only here is it certain to run there.
func init() {
	if os.Args[0] == holder.Arg0 {
		runtime.LockOSThread()
	}
}

func main() {
	began := time.Now()
	// Not commands: runm starts itself under these names.
	switch os.Args[0] {
	case holder.Arg0:
		os.Exit(holder.Main())
	case monitor.Arg0:
		os.Exit(monitor.Main(newDriver))
	case libvm.StubArg0:
		os.Exit(libvm.StubMain())
	case template.Arg0:
		os.Exit(template.Main(func(o template.Order) vmm.Driver {
			return qemu.Driver{QEMU: o.QEMU, Virtiofsd: o.Virtiofsd}
		}))
	case cgroup.VictimArg0:
		os.Exit(cgroup.VictimMain())
	case qemu.DiscardArg0:
		os.Exit(qemu.DiscardMain())
	}
	os.Exit(run(os.Args, began))
}

// newDriver chooses the machine monitor: on Linux there is QEMU.
func newDriver(s *monitor.Setup) vmm.Driver {
	return qemu.Driver{QEMU: s.QEMU, Virtiofsd: s.Virtiofsd}
}

// run is main, which began then, with a result.
func run(args []string, began time.Time) int {
	log := &logging{}
	tr := &tracing{began: began}
	app := newApp(log, tr)
	err := app.Run(flagsFirst(app, args))
	if terr := tr.close(); terr != nil {
		logrus.Warnf("--trace: %v", terr)
	}
	if err == nil {
		return 0
	}
	var exit exitStatus
	if errors.As(err, &exit) && exit.err == nil {
		return exit.code
	}
	log.report(err)
	if errors.As(err, &exit) {
		return exit.code
	}
	return 1
}

// exitStatus ends runm with code, and with a message if err is one.
type exitStatus struct {
	code int
	err  error
}

func (e exitStatus) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e exitStatus) Unwrap() error { return e.err }

func newApp(log *logging, tr *tracing) *cli.App {
	app := &cli.App{
		Name:            "runm",
		Usage:           "run OCI containers, each in a microVM of its own",
		Version:         version,
		HideHelpCommand: true,
		// runc's clients rely on `exec ID cmd -flag` reaching cmd.
		UseShortOptionHandling: false,
		// A value with commas is one value, as with runc.
		DisableSliceFlagSeparator: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "root", Value: defaultRoot, Usage: "directory of the containers' state (on a tmpfs)"},
			&cli.StringFlag{Name: "log", Usage: "file to log to (default: stderr)"},
			&cli.StringFlag{Name: "log-format", Value: "text", Usage: "format of the log: text or json"},
			&cli.BoolFlag{Name: "debug", Usage: "log more"},
			&cli.StringFlag{Name: "trace", Usage: "file to write to where the command's time goes, in Chrome's trace event format"},
			&cli.BoolFlag{Name: "systemd-cgroup", Usage: "let systemd manage cgroups; cgroupsPath is then slice:prefix:name"},
			&cli.StringFlag{Name: "rootless", Value: "auto", Usage: "accepted for runc's sake: true, false or auto; runm needs root"},
			&cli.StringFlag{Name: "criu", Hidden: true},
			cli.HelpFlag, // the library adds it where there is no command of that name
		},
		Before: func(c *cli.Context) error {
			if err := log.open(c); err != nil {
				return err
			}
			return tr.open(c)
		},
		Commands: []*cli.Command{
			createCommand(), startCommand(), stateCommand(), killCommand(), deleteCommand(),
			runCommand(), execCommand(), listCommand(), psCommand(), pauseCommand(), resumeCommand(),
			updateCommand(), eventsCommand(), specCommand(), featuresCommand(), checkCommand(),
			templateCommand(), helpCommand(),
		},
		ExitErrHandler: func(*cli.Context, error) {}, // run reports, once
		OnUsageError:   usageError,
	}
	for _, c := range app.Commands {
		for _, c := range append([]*cli.Command{c}, c.Subcommands...) {
			// By default urfave/cli prints usage errors on stdout, which
			// belongs to containers.
			c.OnUsageError = usageError
			// And makes "help" and "h" commands of each command's: here
			// they are containers' ids.
			c.HideHelpCommand = true
		}
	}
	app.Action = func(c *cli.Context) error {
		if c.NArg() > 0 {
			return noSuchCommand(c.Args().First())
		}
		return cli.ShowAppHelp(c)
	}
	cli.VersionPrinter = printVersion
	return app
}

// helpCommand is for `runm help` and `runm help create`.
func helpCommand() *cli.Command {
	return &cli.Command{
		Name:      "help",
		Usage:     "show what runm or one of its commands does",
		ArgsUsage: "[command]",
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 1, "a command"); err != nil {
				return err
			}
			name := c.Args().First()
			switch {
			case name == "":
				return cli.ShowAppHelp(c)
			case c.App.Command(name) == nil:
				return noSuchCommand(name)
			default:
				return cli.ShowCommandHelp(c.Lineage()[1], name) // the app's context
			}
		},
	}
}

func noSuchCommand(name string) error {
	return fmt.Errorf("no such command: %q; `runm --help` lists them", name)
}

func usageError(_ *cli.Context, err error, _ bool) error { return err }
