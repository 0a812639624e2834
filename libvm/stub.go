//go:build linux

package libvm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/trace"
)

// StubArg0 is the name under which runm is the stub of an exec: the host
// process that clients reap and signal in place of the guest's.
const StubArg0 = "runm-exec"

// Descriptors of the stub.
const (
	stubControl = 3 + iota
	stubTTY     // slave of the terminal; not there without one
)

// stubRequest is all a stub needs to know.
type stubRequest struct {
	Root string   `json:"root"`
	ID   string   `json:"id"`
	Exec ExecOpts `json:"exec"`
}

type stubReply struct {
	Error string `json:"error,omitempty"`
	// Stopped keeps ErrStopped apart.
	Stopped bool `json:"stopped,omitempty"`
}

// Stub is a started stub, a child of the caller.
type Stub struct {
	ID  proc.ID
	cmd *exec.Cmd
}

// ExecDetached starts a process with a stub of its own, which outlives the
// caller and ends with the process's status.
func (c *Container) ExecDetached(o ExecOpts) (*Stub, error) {
	defer c.trace.Begin(trace.MainLane, "exec stub executed, process started").End()
	ours, theirs, err := control.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	conn, err := control.NewConn(ours)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        proc.Arguments(StubArg0, c.State.ID, o.Process.Args),
		Dir:         "/",
		Env:         []string{"GOMAXPROCS=1", "GOGC=25", "GODEBUG=asyncpreemptoff=1"},
		ExtraFiles:  []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if o.Process.Terminal {
		cmd.ExtraFiles = append(cmd.ExtraFiles, o.Stdio[0])
	} else {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = o.Stdio[0], o.Stdio[1], o.Stdio[2]
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	o.Stdio = nil
	var files []*os.File
	if c.trace != nil {
		files = append(files, c.trace.Out())
	}
	err = conn.Send(stubRequest{Root: filepath.Dir(string(c.dir)), ID: c.State.ID, Exec: o}, files...)
	var a stubReply
	if err == nil {
		_, err = conn.Recv(&a)
	}
	switch {
	case err != nil:
		err = errors.New("the exec's host process was killed")
	case a.Stopped:
		err = ErrStopped
	case a.Error != "":
		err = errors.New(a.Error)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	id, err := proc.Find(cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	return &Stub{ID: id, cmd: cmd}, nil
}

// Kill kills the stub, and so the process.
func (s *Stub) Kill() { _ = s.ID.Signal(unix.SIGKILL) }

// Wait waits for the stub and returns the process's status.
func (s *Stub) Wait(ctx context.Context) (int, error) {
	if err := s.ID.Wait(ctx); err != nil {
		return -1, err
	}
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return -1, err
	}
	if ws, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return s.cmd.ProcessState.ExitCode(), nil
}

// StubMain is the stub's life.
func StubMain() int {
	proc.SetName(StubArg0)
	conn, err := control.NewConn(os.NewFile(stubControl, "control"))
	if err != nil {
		return 255
	}
	var r stubRequest
	files, err := conn.Recv(&r)
	if err != nil {
		return 255
	}
	var spans *trace.Recorder
	if len(files) == 1 {
		spans = trace.NewRecorder(files[0], "exec stub")
	}
	e, tty, err := startStub(&r, spans)
	spans.Close()
	answer := stubReply{}
	if err != nil {
		answer = stubReply{Error: err.Error(), Stopped: errors.Is(err, ErrStopped)}
	}
	serr := conn.Send(answer)
	conn.Close()
	if err != nil {
		return 255
	}
	if serr != nil {
		// Whoever wanted this process was killed before it knew of it: it
		// ends with this connection.
		return 255
	}
	e.Forward(ttySize(tty))
	return e.Wait()
}

func startStub(r *stubRequest, spans *trace.Recorder) (*Exec, *os.File, error) {
	c, err := Load(r.Root, r.ID)
	if err != nil {
		return nil, nil, err
	}
	c.trace = spans
	var tty *os.File
	r.Exec.Stdio = []*os.File{os.Stdin, os.Stdout, os.Stderr}
	own := stubControl
	if r.Exec.Process.Terminal {
		own = stubTTY
	}
	if err := proc.CloseLeaked(own + 1); err != nil {
		return nil, nil, err
	}
	if r.Exec.Process.Terminal {
		tty = os.NewFile(stubTTY, "tty")
		if err := unix.IoctlSetInt(stubTTY, unix.TIOCSCTTY, 0); err != nil {
			return nil, nil, err
		}
		r.Exec.Stdio = []*os.File{tty}
	}
	e, err := c.Exec(r.Exec)
	if err != nil {
		return nil, nil, err
	}
	return e, tty, dropStdio()
}

// dropStdio puts /dev/null in place of stdin, stdout and stderr: the monitor
// has them now, and their readers wait for the last copy to be closed.
func dropStdio() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// ttySize returns how to ask for tty's size, nil without one.
func ttySize(tty *os.File) func() (width, height uint16, err error) {
	if tty == nil {
		return nil
	}
	return func() (uint16, uint16, error) {
		ws, err := unix.IoctlGetWinsize(int(tty.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			return 0, 0, err
		}
		return ws.Col, ws.Row, nil
	}
}
