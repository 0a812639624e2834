package trace

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxMessage bounds one event on its way, in bytes.
const maxMessage = 4 << 10

// Recorder sends a process's spans to the File. The nil Recorder is off.
type Recorder struct {
	process string
	pid     int
	out     *os.File
	// dropped counts events that nobody took in time.
	dropped atomic.Int64
}

// NewRecorder records as the process that calls it, and calls it process. out is
// what File had for it, and is taken over.
func NewRecorder(out *os.File, process string) *Recorder {
	r := &Recorder{process: process, pid: os.Getpid(), out: out}
	// As the others see it, where this process is in a pid namespace of its own
	// and not yet in the mount namespace that goes with it.
	if self, err := os.Readlink("/proc/self"); err == nil {
		if pid, err := strconv.Atoi(self); err == nil {
			r.pid = pid
		}
	}
	return r
}

// Out is what another process's recorder is made with. It stays r's, and is nil
// if r is.
func (r *Recorder) Out() *os.File {
	if r == nil {
		return nil
	}
	return r.out
}

// Close ends the recording: what is recorded later is lost. Of nil it does
// nothing.
func (r *Recorder) Close() {
	if r != nil {
		r.out.Close()
	}
}

// Add records a span of this process.
func (r *Recorder) Add(lane, name string, begin, end int64) {
	if r != nil {
		r.Send(Event{Process: r.process, Pid: r.pid, Lane: lane, Name: name, Begin: begin, End: end})
	}
}

// Child records the life of a process that has just ended, which records nothing
// itself.
func (r *Recorder) Child(pid int, name string, began int64) {
	if r != nil {
		r.Send(Event{Process: name, Pid: pid, Lane: MainLane, Name: name + " runs", Begin: began, End: Now()})
	}
}

// Send records any event. It does not wait: a command that is stopped must not
// hold up who works for it. Events that are lost are counted in the
// next one, if there is one.
func (r *Recorder) Send(e Event) {
	if r == nil {
		return
	}
	dropped := r.dropped.Load()
	if dropped > 0 {
		args := map[string]any{"dropped": dropped}
		for k, v := range e.Args {
			args[k] = v
		}
		e.Args = args
	}
	if err := r.send(e); err != nil {
		r.dropped.Add(1)
		return
	}
	r.dropped.Add(-dropped)
}

func (r *Recorder) send(e Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("event of %d bytes", len(b))
	}
	c, err := r.out.SyscallConn()
	if err != nil {
		return err
	}
	// Under Control nobody closes the descriptor meanwhile.
	if cerr := c.Control(func(fd uintptr) {
		err = unix.Send(int(fd), b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}); cerr != nil {
		return cerr
	}
	return err
}
