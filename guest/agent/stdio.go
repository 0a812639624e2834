//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// stdio is the agent's half of a process's standard streams.
type stdio struct {
	want    *api.Stdio
	in      *os.File // write end of stdin, or nil
	inSrc   stream   // its source, or nil
	outs    []*output
	console *os.File // parent end of the console socket, until started
	master  *os.File // a terminal, or nil
	out     stream   // the terminal's output, until started

	childEnds []*os.File
}

// openStdio gives lp its ends of what st carries; uid and gid will own pipes. On
// error nothing but st is open.
func openStdio(st *stdioStreams, want *api.Stdio, lp *libcontainer.Process, uid, gid int) (_ *stdio, err error) {
	s := &stdio{want: want}
	defer func() {
		if err != nil {
			s.abort()
		}
	}()
	if want.GetTerminal() {
		return s, s.openTerminal(st, want, lp)
	}
	if st.in != nil {
		mine, theirs, err := newPipe(false, uid, gid)
		if err != nil {
			return nil, fmt.Errorf("stdin: %w", err)
		}
		s.in, s.inSrc, lp.Stdin = mine, st.in, theirs
		s.childEnds = append(s.childEnds, theirs)
	}
	// A nil *os.File in an io.Writer would not be nil, and nil means /dev/null.
	if st.out != nil {
		if lp.Stdout, err = s.openOutput(st.out, uid, gid); err != nil {
			return nil, fmt.Errorf("stdout: %w", err)
		}
	}
	if st.err != nil {
		if lp.Stderr, err = s.openOutput(st.err, uid, gid); err != nil {
			return nil, fmt.Errorf("stderr: %w", err)
		}
	}
	return s, nil
}

// openOutput returns the process's end of a pipe to dst.
func (s *stdio) openOutput(dst stream, uid, gid int) (io.Writer, error) {
	mine, theirs, err := newPipe(true, uid, gid)
	if err != nil {
		return nil, err
	}
	s.outs = append(s.outs, newOutput(mine, dst, true))
	s.childEnds = append(s.childEnds, theirs)
	return theirs, nil
}

// openTerminal has libcontainer open a pty in the container and send its master.
func (s *stdio) openTerminal(st *stdioStreams, want *api.Stdio, lp *libcontainer.Process) error {
	parent, child, err := utils.NewSockPair("console")
	if err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	s.inSrc, s.out = st.in, st.out
	s.console = parent
	s.childEnds = append(s.childEnds, child)
	lp.ConsoleSocket = child
	if w, h := want.GetWidth(), want.GetHeight(); w != 0 || h != 0 {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(w), uint16(h)
	}
	return nil
}

// closeChildEnds closes what the process has inherited.
func (s *stdio) closeChildEnds() {
	for _, f := range s.childEnds {
		f.Close()
	}
	s.childEnds = nil
}

// start begins to copy. It is called once, after the process was started; on
// error the caller kills the process and calls abort.
func (s *stdio) start() error {
	s.closeChildEnds()
	if s.console != nil {
		if err := s.receiveMaster(); err != nil {
			return fmt.Errorf("console: %w", err)
		}
	}
	for _, o := range s.outs {
		go o.run()
	}
	if s.in != nil && s.inSrc != nil {
		go pumpInput(s.in, s.inSrc)
	}
	return nil
}

// receiveMaster takes the master from the console socket. Input and output have
// file descriptors of their own, so that either can be closed alone; the hang-up
// comes when all are closed.
func (s *stdio) receiveMaster() error {
	f, err := utils.RecvFile(s.console)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	s.console.Close()
	s.console = nil
	defer f.Close()
	if s.master, err = dupNonblock(f); err != nil {
		return err
	}
	if s.out != nil {
		out, err := dupNonblock(f)
		if err != nil {
			return err
		}
		s.outs = append(s.outs, newOutput(out, s.out, false))
		s.out = nil
	}
	if s.inSrc != nil {
		go s.pumpTerminal()
	}
	return nil
}

// pumpTerminal copies input to the terminal. When the host closes the stream,
// the client is gone: the terminal hangs up (SIGHUP to its session).
func (s *stdio) pumpTerminal() {
	pumpInput(s.master, s.inSrc)
	for _, o := range s.outs {
		o.src.Close()
	}
}

func dupNonblock(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("dup: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("nonblock: %w", err)
	}
	return os.NewFile(uintptr(fd), "ptmx"), nil
}

// terminalQuiet is how long a terminal must be silent after its process ended
// until its output counts as sent. The kernel moves bytes from slave to master
// in the background, so that no count of what is pending is exact; normally the
// last slave is closed with the process and the output just ends.
const terminalQuiet = 50 * time.Millisecond

// flush blocks until what the process had written when it ended is sent.
func (s *stdio) flush() {
	for _, o := range s.outs {
		if s.master == nil {
			o.flush()
			continue
		}
		for before, _, _ := o.progress(); ; {
			<-time.After(terminalQuiet)
			read, idle, ended := o.progress()
			if ended || idle && read == before {
				break
			}
			before = read
		}
		o.settle()
	}
}

// flushed is how many bytes were sent on a stream when the process had ended;
// 0 for a stream that it did not have. Call it after flush.
func (s *stdio) flushed(stream uint32) uint64 {
	for _, o := range s.outs {
		if o.dst.StreamID() == stream {
			return o.flushed
		}
	}
	return 0
}

// finish is called when the process has ended and was flushed. Nobody needs its
// input any more; output goes on for background processes that hold it.
func (s *stdio) finish() {
	if s.inSrc != nil {
		s.inSrc.Close()
	}
	if s.master != nil {
		s.master.Close()
	}
}

// abort closes everything; start was not called or failed.
func (s *stdio) abort() {
	s.closeChildEnds()
	for _, f := range []*os.File{s.in, s.console, s.master} {
		if f != nil {
			f.Close()
		}
	}
	for _, st := range []stream{s.inSrc, s.out} {
		if st != nil {
			st.Close()
		}
	}
	for _, o := range s.outs {
		o.src.Close()
		o.dst.Close()
	}
}

var errNoTerminal = errors.New("process has no terminal")

// resize sets the terminal's size in characters.
func (s *stdio) resize(width, height uint32) error {
	if s.master == nil {
		return errNoTerminal
	}
	raw, err := s.master.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	var ierr error
	err = raw.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)})
	})
	if err := errors.Join(err, ierr); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	return nil
}
