//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sizes of an output's way to the host, in bytes. The pipe is large so that a
// writer and the agent, on one vCPU, take turns rarely. A chunk is one frame on
// the port, where other streams' frames wait for it: 512 KiB are a millisecond.
// From spliceFrom on it is cheaper to move the pipe's pages than to copy them.
const (
	pipeSize   = 1 << 20
	chunkSize  = 512 << 10
	spliceFrom = 16 << 10
)

// An output carries what a process writes to its stream on the host.
type output struct {
	src  *os.File // read end of a pipe, or a terminal's master
	dst  stream
	pipe bool // src is a pipe
	// by is the pipe that dst.Splice sends src's content through; nil until
	// there was much of it. It is run's.
	by *[2]int

	mu   sync.Mutex
	cond *sync.Cond // on mu: sent, claimed, counting, ended changed
	read uint64     // bytes taken from src
	sent uint64     // bytes of those handed to dst, or given up
	// claimed bytes of src are on their way without being read; how many of
	// them still are in src is not known. Fewer may be sent: the process can
	// open its pipe and read from it, too (cat /proc/1/fd/1).
	claimed  int
	counting bool // flush waits for claimed to be 0; nothing is claimed anew
	ended    bool // no more will be sent
	// flushed is how many bytes had been read or could be when the process
	// had ended, without those that somebody else then read; valid after
	// flush.
	flushed uint64
}

func newOutput(src *os.File, dst stream, pipe bool) *output {
	o := &output{src: src, dst: dst, pipe: pipe}
	o.cond = sync.NewCond(&o.mu)
	return o
}

// run copies until src ends or the host closes dst, then closes both: closing
// the pipe's read end is what gives the writer SIGPIPE.
func (o *output) run() {
	go o.watchHost()
	buf := make([]byte, 2*spliceFrom)
	for o.copyChunk(buf) == nil {
	}
	o.src.Close()
	o.dst.Close()
	if o.by != nil {
		unix.Close(o.by[0])
		unix.Close(o.by[1])
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.cond.Broadcast()
}

// watchHost ends the copying when the host closes dst, on which it never sends.
func (o *output) watchHost() {
	var b [1]byte
	for {
		if _, err := o.dst.Read(b[:]); err != nil {
			break
		}
	}
	o.dst.Close() // wakes a blocked Write
	o.src.Close() // wakes a blocked Read
}

// copyChunk blocks until there is something in src and sends that.
func (o *output) copyChunk(buf []byte) error {
	raw, err := o.src.SyscallConn()
	if err != nil {
		return err
	}
	n, err := o.take(raw, buf)
	if err != nil {
		return err
	}
	if n > 0 {
		_, err = o.dst.Write(buf[:n])
		o.wrote(n)
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		n, serr = o.dst.Splice(int(fd), *o.by, o.claimed)
	})
	o.spliced(n)
	return errors.Join(err, serr)
}

// take waits for bytes and reads them, or, if there are many, claims them and
// returns 0. The counts and the pipe change together under mu, so that what
// flush computes is exact.
func (o *output) take(raw syscall.RawConn, buf []byte) (n int, err error) {
	o.mu.Lock()
	for o.counting {
		o.cond.Wait()
	}
	o.mu.Unlock()
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		if there := readable(fd); there >= spliceFrom && o.canSplice() {
			o.claimed, rerr = min(there, chunkSize), nil
			return true
		}
		n, rerr = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), buf) })
		if rerr == unix.EAGAIN {
			if o.sent < o.flushed {
				// All that was read is sent by now, and what flush has
				// counted beyond that is not there any more.
				o.flushed = o.sent
				o.cond.Broadcast()
			}
			return false
		}
		o.read += uint64(max(n, 0))
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case rerr != nil: // EIO: a terminal's last slave was closed
		return 0, rerr
	case n == 0 && o.claimed == 0:
		return 0, io.EOF
	}
	return n, nil
}

// canSplice says whether src can be spliced, and prepares it.
func (o *output) canSplice() bool {
	if !o.pipe || o.by != nil {
		return o.pipe
	}
	var by [2]int
	if o.pipe = unix.Pipe2(by[:], unix.O_CLOEXEC) == nil; !o.pipe {
		return false // it is copied
	}
	_, _ = unix.FcntlInt(uintptr(by[0]), unix.F_SETPIPE_SZ, pipeSize) // smaller only costs speed
	o.by = &by
	return true
}

func (o *output) wrote(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent += uint64(n)
	o.cond.Broadcast()
}

// spliced ends a claim, of which n bytes were sent.
func (o *output) spliced(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claimed = 0
	o.read += uint64(n)
	o.sent += uint64(n)
	o.cond.Broadcast()
}

// flush blocks until all that was in src when it was called is sent, or nothing
// more of it will be. It does not wait for the end of src: a background process
// may keep that open for ever.
func (o *output) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counting = true
	for o.claimed > 0 && !o.ended {
		o.cond.Wait()
	}
	o.counting = false
	o.cond.Broadcast()
	o.flushed = o.read + uint64(o.pending())
	for !o.ended && o.sent < o.flushed {
		o.cond.Wait()
	}
}

// settle is flush for a terminal, which has been silent.
func (o *output) settle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flushed = o.sent
}

// pending is how many bytes can be read from src now.
func (o *output) pending() (n int) {
	raw, err := o.src.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n = readable(fd) }) // closed: nothing
	return n
}

// readable is how many bytes can be read from fd now.
func readable(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

// progress returns how many bytes were read so far, whether all of them were
// sent, and whether the output ended.
func (o *output) progress() (read uint64, idle, ended bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.read, o.sent == o.read, o.ended
}

// pumpInput copies src, a stream from the host, to dst, the write end of a
// process's stdin, and closes dst at src's end. When nobody reads dst any more
// it Closes its side of src, which tells the host, and drops the rest.
func pumpInput(dst *os.File, src stream) {
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, 32<<10))
	dst.Close()
	src.Close()
	if err != nil {
		// Until the host closes too: its window would fill and stall it.
		io.Copy(io.Discard, src)
	}
}

// newPipe makes a pipe between the agent and a process, owned by uid and gid
// (a user namespace's root must be able to reopen /proc/self/fd/1). The agent's
// end does not block; the process's end does.
func newPipe(agentReads bool, uid, gid int) (agent, child *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	mine, theirs := fds[1], fds[0]
	if agentReads {
		mine, theirs = fds[0], fds[1]
		// Beyond the limit for a user without privileges, which we are not;
		// smaller only costs speed.
		_, _ = unix.FcntlInt(uintptr(mine), unix.F_SETPIPE_SZ, pipeSize)
	}
	fail := func(err error) (*os.File, *os.File, error) {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, err
	}
	if err := unix.SetNonblock(mine, true); err != nil {
		return fail(fmt.Errorf("pipe: %w", err))
	}
	if uid != 0 || gid != 0 {
		if err := unix.Fchown(theirs, uid, gid); err != nil {
			return fail(fmt.Errorf("pipe owner: %w", err))
		}
	}
	return os.NewFile(uintptr(mine), "|agent"), os.NewFile(uintptr(theirs), "|process"), nil
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}
