//go:build linux

package libvm

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/monitor"
	"github.com/runm/runm/libvm/trace"
)

// ExecOpts says what to execute.
type ExecOpts struct {
	Process *specs.Process
	Cgroup  string
	// Stdio is stdin, stdout and stderr, or the slave of the terminal alone.
	// It stays the caller's.
	Stdio        []*os.File
	IgnorePaused bool
	// Detached: nobody waits for the process, so a trace ends with its start.
	Detached bool
}

// Exec is a process that was started beside a container's init.
type Exec struct {
	conn *control.Conn
}

// Exec starts a process in a created or running container.
func (c *Container) Exec(o ExecOpts) (*Exec, error) {
	warnings, err := bundle.CheckProcess(o.Process)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		logrus.Warn(w)
	}
	defer c.trace.Begin(trace.MainLane, "monitor: exec").End()
	conn, err := control.Dial(string(c.dir))
	if errors.Is(err, control.ErrGone) {
		return nil, ErrStopped
	}
	if err != nil {
		return nil, err
	}
	files := o.Stdio
	var traced *monitor.Trace
	if c.trace != nil {
		traced = &monitor.Trace{ToEnd: !o.Detached}
		files = append(slices.Clone(files), c.trace.Out())
	}
	err = conn.Send(monitor.Request{
		Op: monitor.OpExec, ID: c.State.ID, Process: o.Process, Cgroup: o.Cgroup, IgnorePaused: o.IgnorePaused,
		Warnings: warnings, Trace: traced,
	}, files...)
	var a monitor.Reply
	if err == nil {
		_, err = conn.Recv(&a)
	}
	if err != nil {
		conn.Close()
		return nil, ErrStopped
	}
	if err := replyError(&a); err != nil {
		conn.Close()
		if errors.Is(err, ErrNotRunning) || errors.Is(err, ErrProcessDone) {
			return nil, ErrStopped // it ended just now
		}
		return nil, err
	}
	return &Exec{conn}, nil
}

// Wait returns the exit status, 128+n when signal n ended the process, 137
// also when its machine is gone.
func (e *Exec) Wait() int {
	defer e.conn.Close()
	var end monitor.ExecExit
	if _, err := e.conn.Recv(&end); err != nil {
		return 128 + int(unix.SIGKILL)
	}
	return end.Status
}

// Forward passes on the signals that this process gets, and the size of its
// terminal if size says one, until the process ends.
func (e *Exec) Forward(size func() (width, height uint16, err error)) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	signals <- unix.SIGWINCH // the window may have changed before
	go func() {
		for s := range signals {
			ev := monitor.ExecEvent{}
			switch s {
			case unix.SIGURG, unix.SIGCHLD, unix.SIGPIPE:
				continue // the Go runtime's
			case unix.SIGWINCH:
				if size == nil {
					continue
				}
				var err error
				if ev.Width, ev.Height, err = size(); err != nil {
					continue
				}
			default:
				ev.Signal = int(s.(unix.Signal))
			}
			if err := e.conn.Send(ev); err != nil {
				return
			}
		}
	}()
}

// Process is the process that exec starts when told only its arguments: the
// container's own with these arguments.
func (c *Container) Process(args []string) (*specs.Process, error) {
	if c.State.Spec == nil || c.State.Spec.Process == nil {
		return nil, fmt.Errorf("container %q is still being created", c.State.ID)
	}
	p := *c.State.Spec.Process
	p.Args = args
	p.Terminal = false
	p.ConsoleSize = nil
	return &p, nil
}
