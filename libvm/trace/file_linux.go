package trace

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lastWords bounds how long Close waits for those who still have something to
// tell.
const lastWords = 5 * time.Second

// ErrIncomplete means that somebody still had spans to tell when nobody waited
// for them any longer.
var ErrIncomplete = errors.New("the trace is incomplete: a process of runm's did not finish its part in time")

// File is a trace in Chrome's JSON array format, which is valid without its
// closing bracket: a command that is killed leaves what there was until then.
type File struct {
	// Recorder is that of the process that made the file.
	Recorder *Recorder
	out      *os.File
	in       *os.File
	zero     int64 // of the file's times
	written  error // the first failure to write
	done     chan error
	lanes    map[lane]int
}

type lane struct {
	pid  int
	name string
}

// Create makes the file, of mode 0600, or empties it. Times in it count from
// zero. process names the caller's.
func Create(path, process string, zero int64) (*File, error) {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	// One message is one event, and none is cut or mixed with another's.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // for its deadline
		out.Close()
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	f := &File{
		Recorder: NewRecorder(os.NewFile(uintptr(fds[1]), "trace"), process),
		out:      out, in: os.NewFile(uintptr(fds[0]), "trace"),
		zero: zero, done: make(chan error, 1), lanes: map[lane]int{},
	}
	go func() { f.done <- f.collect() }()
	return f, nil
}

// Close waits for the others who record, and ends the file.
func (f *File) Close() error {
	f.Recorder.Close()
	_ = f.in.SetReadDeadline(time.Now().Add(lastWords))
	err := <-f.done
	f.in.Close()
	end := "\n]\n"
	if len(f.lanes) == 0 {
		end = "[]\n"
	}
	f.write([]byte(end))
	return errors.Join(err, f.written, f.out.Close())
}

// collect writes down what comes, until nobody is left who could send.
func (f *File) collect() error {
	message := make([]byte, maxMessage)
	for {
		n, err := f.in.Read(message)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return ErrIncomplete
		case err != nil:
			return err
		}
		var e Event
		if err := json.Unmarshal(message[:n], &e); err != nil {
			return fmt.Errorf("event: %w", err)
		}
		f.event(e)
	}
}

// record is an event as "Trace Event Format" has it; times are microseconds.
type record struct {
	Name  string         `json:"name"`
	Phase string         `json:"ph"`
	Time  float64        `json:"ts"`
	Dur   *float64       `json:"dur,omitempty"` // of complete events
	Pid   int            `json:"pid"`
	Tid   int            `json:"tid"`
	Args  map[string]any `json:"args,omitempty"`
}

func (f *File) event(e Event) {
	dur := float64(max(0, e.End-e.Begin)) / 1e3
	f.record(record{
		Name: e.Name, Phase: "X", Time: float64(e.Begin-f.zero) / 1e3, Dur: &dur,
		Pid: e.Pid, Tid: f.lane(e), Args: e.Args,
	})
}

// lane returns the number of the event's lane, and names it and its process the
// first time.
func (f *File) lane(e Event) int {
	l := lane{e.Pid, e.Lane}
	if id := f.lanes[l]; id > 0 {
		return id
	}
	others := 0
	for have := range f.lanes {
		if have.pid == e.Pid {
			others++
		}
	}
	if others == 0 {
		f.record(record{Name: "process_name", Phase: "M", Pid: e.Pid, Args: map[string]any{"name": e.Process}})
	}
	f.lanes[l] = others + 1
	f.record(record{Name: "thread_name", Phase: "M", Pid: e.Pid, Tid: others + 1, Args: map[string]any{"name": e.Lane}})
	return others + 1
}

func (f *File) record(r record) {
	b, err := json.Marshal(r)
	if err != nil {
		f.written = errors.Join(f.written, err)
		return
	}
	before := ",\n"
	if len(f.lanes) == 0 {
		before = "[\n"
	}
	f.write(append([]byte(before), b...))
}

// write writes all of b or nothing more from then on.
func (f *File) write(b []byte) {
	if f.written == nil {
		_, f.written = f.out.Write(b)
	}
}
