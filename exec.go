//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm"
	"github.com/runm/runm/libvm/console"
	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/libvm/trace"
)

// execFailed is the exit code of an exec whose process was not started.
const execFailed = 255

func execCommand() *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run one more process in a container",
		ArgsUsage: "<container-id> <command> [argument...]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "console-socket", Usage: "unix socket that gets the terminal's master"},
			&cli.StringFlag{Name: "cwd", Usage: "working directory in the container"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, KeepSpace: true, Usage: "set an environment variable"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "allocate a terminal"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "UID[:GID]"},
			&cli.Int64SliceFlag{Name: "additional-gids", Aliases: []string{"g"}, Usage: "additional group ids"},
			&cli.StringFlag{Name: "process", Aliases: []string{"p"}, Usage: "file with the process as JSON"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait"},
			&cli.StringFlag{Name: "pid-file", Usage: "file to write the pid to"},
			&cli.StringFlag{Name: "process-label", Usage: "SELinux label: not supported, ignored with a warning"},
			&cli.StringFlag{Name: "apparmor", Usage: "AppArmor profile: not supported, ignored with a warning"},
			&cli.BoolFlag{Name: "no-new-privs", Usage: "set no_new_privs"},
			&cli.StringSliceFlag{Name: "cap", Aliases: []string{"c"}, Usage: "add a capability"},
			&cli.IntFlag{Name: "preserve-fds", Usage: "descriptors cannot enter a machine: only 0 is supported"},
			&cli.StringSliceFlag{Name: "cgroup", Usage: "sub-cgroup to run in"},
			&cli.BoolFlag{Name: "ignore-paused", Usage: "accepted for runc's sake; a paused machine stands still"},
			&cli.StringFlag{Name: "pidfd-socket", Usage: "not supported: refused"},
		},
		Action: func(c *cli.Context) error {
			status, err := execute(c)
			if err != nil {
				return exitStatus{code: execFailed, err: err}
			}
			if status != 0 {
				return exitStatus{code: status}
			}
			return nil
		},
	}
}

func execute(c *cli.Context) (int, error) {
	if err := wantArgs(c, 1, -1, "the container ID and a command"); err != nil {
		return 0, err
	}
	if c.Int("preserve-fds") != 0 {
		return 0, errors.New("--preserve-fds: a descriptor of the host cannot enter a machine")
	}
	if c.String("pidfd-socket") != "" {
		return 0, errors.New("--pidfd-socket is not supported: use --pid-file")
	}
	container, err := load(c)
	if err != nil {
		return 0, fmt.Errorf("exec %q: %w", c.Args().First(), err)
	}
	process, err := execProcess(c, container)
	if err != nil {
		return 0, err
	}
	groups := c.StringSlice("cgroup")
	if len(groups) > 1 {
		return 0, errors.New("--cgroup: the guest has one hierarchy, give one path")
	}
	o := libvm.ExecOpts{Process: process, IgnorePaused: c.Bool("ignore-paused"), Detached: c.Bool("detach")}
	if len(groups) == 1 {
		// runc's form is [controllers:]path; on one hierarchy the path counts.
		o.Cgroup = groups[0][strings.LastIndexByte(groups[0], ':')+1:]
	}
	socket := c.String("console-socket")
	switch {
	case socket != "" && !process.Terminal:
		return 0, errors.New("cannot use console socket if runm will not detach or allocate tty")
	case process.Terminal && c.Bool("detach") && socket == "":
		return 0, errors.New("cannot allocate tty if runm will detach without setting console socket")
	case c.Bool("detach") || socket != "":
		return execStub(c, container, o)
	default:
		return execAttached(c, container, o)
	}
}

// execProcess is process.json, or the container's own process with the flags
// applied.
func execProcess(c *cli.Context, container *libvm.Container) (*specs.Process, error) {
	if path := c.String("process"); path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("exec: %w", err)
		}
		var p specs.Process
		if err := json.Unmarshal(data, &p); err != nil {
			return nil, fmt.Errorf("exec: %s: %w", path, err)
		}
		if c.IsSet("tty") {
			p.Terminal = c.Bool("tty")
		}
		return &p, nil
	}
	if c.NArg() < 2 {
		return nil, errors.New("exec: a command to run is needed, or --process")
	}
	p, err := container.Process(c.Args().Tail())
	if err != nil {
		return nil, err
	}
	return p, applyFlags(c, p)
}

func applyFlags(c *cli.Context, p *specs.Process) error {
	p.Terminal = c.Bool("tty")
	// "" is as if the flag were not there, for scripts with a variable that has none.
	for flag, field := range map[string]*string{
		"cwd": &p.Cwd, "process-label": &p.SelinuxLabel, "apparmor": &p.ApparmorProfile,
	} {
		if v := c.String(flag); v != "" {
			*field = v
		}
	}
	if c.IsSet("no-new-privs") {
		p.NoNewPrivileges = c.Bool("no-new-privs")
	}
	p.Env = append(append([]string{}, p.Env...), c.StringSlice("env")...)
	addCapabilities(p, c.StringSlice("cap"))
	for _, g := range c.Int64Slice("additional-gids") {
		if g < 0 || g > 1<<32-2 {
			return fmt.Errorf("exec: additional group id %d is out of range", g)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
	}
	if c.String("user") == "" {
		return nil
	}
	uid, gid, both := strings.Cut(c.String("user"), ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return fmt.Errorf("exec: --user %q: want UID[:GID], in numbers", c.String("user"))
	}
	p.User.UID = uint32(n)
	if both {
		if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
			return fmt.Errorf("exec: --user %q: want UID[:GID], in numbers", c.String("user"))
		}
		p.User.GID = uint32(n)
	}
	return nil
}

// addCapabilities adds caps as runc does: to the bounding, effective and
// permitted sets, and to the ambient one those that are inheritable.
func addCapabilities(p *specs.Process, caps []string) {
	if len(caps) == 0 {
		return
	}
	var set specs.LinuxCapabilities
	if p.Capabilities != nil {
		set = *p.Capabilities
	}
	add := func(list []string) []string { return append(append([]string{}, list...), caps...) }
	set.Bounding, set.Effective, set.Permitted = add(set.Bounding), add(set.Effective), add(set.Permitted)
	set.Ambient = slices.Clone(set.Ambient)
	for _, name := range caps {
		// The kernel refuses others (capabilities(7)).
		if slices.Contains(set.Inheritable, name) {
			set.Ambient = append(set.Ambient, name)
		}
	}
	p.Capabilities = &set
}

// execStub starts the process with a host process of its own.
func execStub(c *cli.Context, container *libvm.Container, o libvm.ExecOpts) (int, error) {
	o.Stdio = []*os.File{os.Stdin, os.Stdout, os.Stderr}
	if o.Process.Terminal {
		pty, err := console.New(o.Process.ConsoleSize)
		if err != nil {
			return 0, err
		}
		defer pty.Close()
		if err := pty.Send(c.String("console-socket")); err != nil {
			return 0, err
		}
		o.Stdio = []*os.File{pty.Slave}
	}
	stub, err := container.ExecDetached(o)
	if err != nil {
		return 0, err
	}
	if err := writePid(c, stub.ID.Pid); err != nil {
		stub.Kill()
		return 0, err
	}
	if c.Bool("detach") {
		return 0, nil
	}
	return stub.Wait(c.Context)
}

// execAttached is itself the process's stub.
func execAttached(c *cli.Context, container *libvm.Container, o libvm.ExecOpts) (int, error) {
	o.Stdio = []*os.File{os.Stdin, os.Stdout, os.Stderr}
	var relay *console.Relay
	var size func() (uint16, uint16, error)
	if o.Process.Terminal {
		pty, err := console.New(o.Process.ConsoleSize)
		if err != nil {
			return 0, err
		}
		defer pty.Close()
		if relay, err = console.NewRelay(pty); err != nil {
			return 0, err
		}
		defer relay.Abort()
		o.Stdio = []*os.File{pty.Slave}
		size = relay.Size
	}
	e, err := container.Exec(o)
	if err != nil {
		return 0, err
	}
	e.Forward(size)
	if err := writePid(c, os.Getpid()); err != nil {
		return 0, err
	}
	defer trace.Begin(c.Context, "wait: process ends").End()
	status := e.Wait()
	if relay != nil {
		return status, relay.Close()
	}
	return status, nil
}

func writePid(c *cli.Context, pid int) error {
	path := c.String("pid-file")
	if path == "" {
		return nil
	}
	if err := store.WriteFile(path, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("pid file: %w", err)
	}
	return nil
}
