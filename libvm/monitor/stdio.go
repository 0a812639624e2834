//go:build linux

package monitor

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// chunk is how many bytes one copy moves.
const chunk = 128 << 10

// stdio joins the files of one process on the host with its streams in the
// guest. It owns both.
type stdio struct {
	api   *api.Stdio
	files []*os.File
	stop  *os.File // eventfd that ends the reading of stdin
	in    *yamux.Stream
	outs  []*output
	tty   bool
	// read is closed when nobody reads files[0] any more; nil before run.
	read chan struct{}
}

// output is one of stdout and stderr, or a terminal's output.
type output struct {
	name string // for the log
	log  *logrus.Logger
	from *yamux.Stream
	to   *os.File
	// copied is how many bytes were taken from the guest, and written or lost.
	copied atomic.Uint64
	// moved is signalled after each copy and at the end.
	mu    sync.Mutex
	moved *sync.Cond
	ended bool
}

// newStdio opens the streams for files, within ctx: stdin, stdout and stderr, or
// the slave of a terminal alone. It takes files over, also when it fails. What
// cannot be written is in log.
func newStdio(ctx context.Context, g *guest, files []*os.File, tty bool, log *logrus.Logger) (_ *stdio, err error) {
	s := &stdio{files: files, tty: tty, api: &api.Stdio{Terminal: tty}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	s.stop = os.NewFile(uintptr(fd), "stop")
	if s.in, err = g.open(ctx); err != nil {
		return nil, err
	}
	s.api.Stdin = s.in.StreamID()
	targets := files[1:]
	if tty {
		targets = files
		if ws, err := unix.IoctlGetWinsize(int(files[0].Fd()), unix.TIOCGWINSZ); err == nil {
			s.api.Width, s.api.Height = uint32(ws.Col), uint32(ws.Row)
		}
	}
	ids := []*uint32{&s.api.Stdout, &s.api.Stderr}
	for i, f := range targets {
		stream, err := g.open(ctx)
		if err != nil {
			return nil, err
		}
		*ids[i] = stream.StreamID()
		o := &output{name: []string{"stdout", "stderr"}[i], log: log, from: stream, to: f}
		o.moved = sync.NewCond(&o.mu)
		s.outs = append(s.outs, o)
	}
	return s, nil
}

// run starts copying.
func (s *stdio) run() {
	s.read = make(chan struct{})
	go s.readInput()
	for _, o := range s.outs {
		go o.run()
	}
}

// readInput copies stdin to the guest until its end, or close. It reads only
// what is there: a blocking read could not be ended and would steal the next
// line typed to whoever shares the file.
func (s *stdio) readInput() {
	defer close(s.read)
	defer s.in.Close()
	if !s.tty {
		defer s.files[0].Close() // its writer learns that nobody reads
	}
	fd := int(s.files[0].Fd())
	buf := make([]byte, 64<<10)
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(s.stop.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 || err != nil {
			// The end of a file or pipe, or EIO: the terminal was hung up.
			return
		}
		if _, err := s.in.Write(buf[:n]); err != nil {
			return
		}
	}
}

// run copies until the guest's end of output, or until nobody reads it any more:
// then the guest's writer gets SIGPIPE. For any other reason why it cannot be
// written, such as a full disk, it is lost, and what comes later may not be.
func (o *output) run() {
	buf := make([]byte, chunk)
	told := false
	for {
		n, err := o.from.Read(buf)
		if n > 0 {
			_, werr := o.to.Write(buf[:n])
			if werr != nil && o.unread(werr) {
				break
			}
			if werr != nil && !told {
				o.log.Warn("output is lost while it cannot be written: ", o.name, ": ", werr)
				told = true
			}
			o.copied.Add(uint64(n))
			o.wake()
		}
		if err != nil {
			break
		}
	}
	o.end()
}

// unread says whether err, of a write, means that nobody reads what is written:
// EIO does of a terminal, which was hung up.
func (o *output) unread(err error) bool {
	if errors.Is(err, unix.EIO) {
		fi, err := o.to.Stat()
		return err != nil || fi.Mode()&os.ModeCharDevice != 0
	}
	return errors.Is(err, unix.EPIPE) || errors.Is(err, os.ErrClosed)
}

// end closes the guest's stream: to the guest it says that nobody reads.
func (o *output) end() {
	go o.from.Close() // waits as long as the guest does not read
	o.mu.Lock()
	o.ended = true
	o.mu.Unlock()
	o.moved.Broadcast()
}

func (o *output) wake() {
	o.mu.Lock()
	o.moved.Broadcast()
	o.mu.Unlock()
}

// wait returns when n bytes were written or the output has ended.
func (o *output) wait(n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.ended && o.copied.Load() < n {
		o.moved.Wait()
	}
}

// drained waits until what the guest sent up to the process's end is written.
func (s *stdio) drained(r *api.WaitResponse) {
	sent := []uint64{r.GetStdoutBytes(), r.GetStderrBytes()}
	for i, o := range s.outs {
		o.wait(sent[i])
	}
}

// ended waits for the end of all output.
func (s *stdio) ended() {
	for _, o := range s.outs {
		o.wait(1<<64 - 1)
	}
}

// background is called when the process has ended: nothing is read any more,
// but what it has left running may go on to write where it wrote. It returns
// when nobody is left who could, as a pipe's end of file would show.
func (s *stdio) background() {
	s.stopInput()
	s.ended()
}

// stall is how long the output of a killed process may stand still before it
// is given up. Without that a process whose output nobody reads could not be
// killed: what it wrote last waits for the reader, and its end for that.
const stall = 3 * time.Second

// giveUp follows a SIGKILL: it returns when the output has ended, or was closed,
// because it has stood still for too long, or goes on after limit.
func (s *stdio) giveUp(limit time.Duration) {
	for until := time.Now().Add(limit); time.Now().Before(until); {
		before, ended := s.progress()
		if ended {
			return
		}
		<-time.After(stall)
		if now, _ := s.progress(); now == before {
			break
		}
	}
	for _, o := range s.outs {
		o.end()
	}
}

// progress is how many bytes were written, and whether all output has ended.
func (s *stdio) progress() (copied uint64, ended bool) {
	ended = true
	for _, o := range s.outs {
		o.mu.Lock()
		ended = ended && o.ended
		o.mu.Unlock()
		copied += o.copied.Load()
	}
	return copied, ended
}

// close ends the copying and closes files and streams. It does not wait for a
// read of stdin that somebody else's has made block.
func (s *stdio) close() {
	s.stopInput()
	for _, o := range s.outs {
		go o.from.Close()
	}
	files := s.files
	if s.read != nil {
		// readInput has the number of the first one, which must not become
		// that of another file before it has ended.
		first := files[0]
		go func() { <-s.read; first.Close() }()
		files = files[1:]
	}
	for _, f := range files {
		f.Close()
	}
}

func (s *stdio) stopInput() {
	if s.stop != nil {
		_, _ = s.stop.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	if s.in != nil {
		go s.in.Close()
	}
}
