//go:build linux

package holder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/hooks"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/template"
	"github.com/runm/runm/libvm/trace"
)

// killed is the status of a holder whose monitor was killed.
const killed = 128 + int(unix.SIGKILL)

// Main is the holder's life. The caller has locked the main thread, whose
// namespaces and root /proc/<pid> shows. It does not return before the end.
func Main() int {
	began := trace.Now()
	proc.SetName(Arg0)
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	if err := proc.CloseLeaked(fdTrace + 1); err != nil {
		return 1
	}
	monitor, err := control.NewConn(os.NewFile(fdMonitor, "monitor"))
	if err != nil {
		return 1
	}
	create, err := control.NewConn(os.NewFile(fdCreate, "create"))
	if err != nil {
		return 1
	}
	for fd := fdMountNS; fd <= fdTrace; fd++ {
		unix.CloseOnExec(fd)
	}
	spans := openTrace()
	span := spans.Begin(trace.MainLane, "namespaces and terminal")
	tty, err := enter()
	span.End()
	if err != nil {
		_ = create.Send(Prepared{Error: err.Error()})
		return 1
	}
	exits := make(chan int)
	copied := make(chan Event)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		status := obey(monitor, copied, spans)
		cancel() // and a hook that still runs
		exits <- status
	}()
	prepared := make(chan struct{})
	requests := make(chan func())
	go func() {
		serve(create, spans, began, func(req Prepare) error {
			result := make(chan error)
			requests <- func() { result <- prepare(ctx, req) }
			return <-result
		})
		close(prepared)
	}()
	for {
		select {
		case status := <-exits:
			return status
		case e := <-copied:
			_ = monitor.Send(e)
		case do := <-requests:
			do() // here, for this thread alone may be in the mount namespace
		case <-prepared:
			prepared = nil
			// Nothing is done from here on but waiting.
			spans.Close()
			debug.FreeOSMemory()
		case s := <-signals:
			if ev, ok := event(s.(syscall.Signal), tty, prepared == nil); ok {
				// The monitor's end shows in exits.
				_ = monitor.Send(ev)
			}
		}
	}
}

// obey does what the monitor orders until it orders the end, whose status it
// returns.
func obey(monitor *control.Conn, copied chan<- Event, spans *trace.Recorder) int {
	for {
		var o Order
		files, err := monitor.Recv(&o)
		switch {
		case err != nil:
			return killed
		case !o.Copy:
			control.CloseAll(files)
			return o.Status
		}
		span := spans.Begin("copy", "template's memory copied")
		e := Event{Copied: true}
		if err := copyMemory(files); err != nil {
			e.Error = err.Error()
		}
		span.End()
		copied <- e
	}
}

// openTrace takes what create has for spans; nil is nothing.
func openTrace() *trace.Recorder {
	var st unix.Stat_t
	if err := unix.Fstat(fdTrace, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		unix.Close(fdTrace)
		return nil
	}
	return trace.NewRecorder(os.NewFile(fdTrace, "trace"), "holder")
}

func copyMemory(files []*os.File) error {
	defer control.CloseAll(files)
	if len(files) != 2 {
		return fmt.Errorf("%d files to copy, want 2", len(files))
	}
	return template.CopyMemory(files[0], files[1])
}

// enter joins the mount namespace and takes the terminal. It returns the
// terminal's slave or nil.
func enter() (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fdMountNS, &st); err != nil {
		return nil, fmt.Errorf("mount namespace: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		if err := joinMounts(); err != nil {
			return nil, err
		}
	}
	unix.Close(fdMountNS)
	if err := unix.Fstat(fdTTY, &st); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	if _, err := unix.IoctlGetWinsize(fdTTY, unix.TIOCGWINSZ); err != nil {
		unix.Close(fdTTY)
		return nil, nil //nolint:nilerr // /dev/null: no terminal
	}
	// As the session's controlling terminal it tells of its size
	// (SIGWINCH) and of its end (SIGHUP); tty_ioctl(4).
	if err := unix.IoctlSetInt(fdTTY, unix.TIOCSCTTY, 0); err != nil {
		return nil, fmt.Errorf("controlling terminal: %w", err)
	}
	return os.NewFile(fdTTY, "tty"), nil
}

// joinMounts moves the main thread alone: with a root and directory of its
// own, as setns(2) asks. The directory stays the rootfs.
func joinMounts() error {
	dir, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("rootfs: %w", err)
	}
	defer unix.Close(dir)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare fs: %w", err)
	}
	if err := unix.Setns(fdMountNS, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("join mount namespace: %w", err)
	}
	if err := unix.Fchdir(dir); err != nil {
		return fmt.Errorf("rootfs: %w", err)
	}
	return nil
}

// serve answers create's one request.
func serve(create *control.Conn, spans *trace.Recorder, began int64, prepare func(Prepare) error) {
	defer create.Close()
	var req Prepare
	if _, err := create.Recv(&req); err != nil {
		return // create has died; the monitor ends us
	}
	spans.Add(trace.MainLane, "process started", req.Began, began)
	defer spans.Begin(trace.MainLane, "prepared").End()
	var answer Prepared
	if err := prepare(req); err != nil {
		answer.Error = err.Error()
	}
	_ = create.Send(answer)
}

// prepare is for the main thread, whose namespaces and root are the container's.
func prepare(ctx context.Context, req Prepare) error {
	if req.Hostname != "" {
		if err := unix.Sethostname([]byte(req.Hostname)); err != nil {
			return fmt.Errorf("hostname: %w", err)
		}
	}
	// "For hooks executed in the container namespace, it is the pid as seen by the
	// container" (runtime.md, "State").
	req.State.Pid = os.Getpid()
	if err := hooks.RunInContainer(ctx, "createContainer", req.Hooks, &req.State); err != nil {
		return err
	}
	return changeRoot(req)
}

// event says what of a signal goes to the monitor.
func event(s syscall.Signal, tty *os.File, reap bool) (Event, bool) {
	switch s {
	case unix.SIGCHLD:
		// As process 1 of a pid namespace the holder inherits what clients
		// started in it (nsenter) and left behind.
		if reap && reaped() {
			return Event{}, false
		}
		return Event{Signal: int(s)}, reap
	case unix.SIGWINCH:
		if tty == nil {
			return Event{Signal: int(s)}, true
		}
		ws, err := unix.IoctlGetWinsize(int(tty.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			return Event{}, false
		}
		return Event{Width: ws.Col, Height: ws.Row}, true
	case unix.SIGHUP:
		// The guest's terminal is hung up by the monitor, which sends this.
		return Event{Signal: int(s)}, tty == nil || !hungUp(tty)
	case unix.SIGPIPE:
		// Of a write to the monitor; not told apart from a client's.
		return Event{}, false
	default:
		return Event{Signal: int(s)}, true
	}
}

func reaped() bool {
	any := false
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return any
		}
		any = true
	}
}

func hungUp(tty *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(tty.Fd())}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLHUP != 0
}
