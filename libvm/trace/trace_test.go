//go:build linux

package trace

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// read returns the spans of a finished trace, and its names of processes and of
// lanes.
func read(t *testing.T, path string) (spans []record, processes map[int]string, lanes map[lane]string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []record
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatalf("%v:\n%s", err, b)
	}
	processes, lanes = map[int]string{}, map[lane]string{}
	for _, r := range all {
		switch name, _ := r.Args["name"].(string); {
		case r.Phase == "X":
			spans = append(spans, r)
		case r.Phase == "M" && r.Name == "process_name":
			processes[r.Pid] = name
		case r.Phase == "M" && r.Name == "thread_name":
			lanes[lane{r.Pid, name}] = name
		default:
			t.Errorf("event %+v", r)
		}
	}
	return spans, processes, lanes
}

func create(t *testing.T, zero int64) (*File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "t.json")
	f, err := Create(path, "command", zero)
	if err != nil {
		t.Fatal(err)
	}
	return f, path
}

func TestFile(t *testing.T) {
	f, path := create(t, Now())
	ctx := With(context.Background(), f.Recorder, MainLane)
	outer := Begin(ctx, "outer")
	inner := Begin(ctx, "inner \"quoted\"\n")
	inner.End()
	Begin(Lane(ctx, "other"), "beside").End()
	outer.End()
	f.Recorder.Send(Event{Process: "guest", Pid: 7, Lane: "boot", Name: "said", Begin: f.zero + 1500, End: f.zero + 4000, Args: map[string]any{"k": "v"}})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	spans, processes, lanes := read(t, path)
	if len(spans) != 4 {
		t.Fatalf("%d spans, want 4: %+v", len(spans), spans)
	}
	pid := os.Getpid()
	if processes[pid] != "command" || processes[7] != "guest" || len(processes) != 2 {
		t.Errorf("processes %v", processes)
	}
	if len(lanes) != 3 {
		t.Errorf("lanes %v", lanes)
	}
	in, beside, out, said := spans[0], spans[1], spans[2], spans[3]
	if in.Name != "inner \"quoted\"\n" || out.Name != "outer" {
		t.Errorf("names %q, %q", in.Name, out.Name)
	}
	if in.Tid != out.Tid || in.Time < out.Time || in.Time+*in.Dur > out.Time+*out.Dur {
		t.Errorf("%+v is not within %+v", in, out)
	}
	if beside.Tid == out.Tid {
		t.Errorf("another lane has number %d, too", out.Tid)
	}
	if said.Time != 1.5 || *said.Dur != 2.5 || said.Args["k"] != "v" {
		t.Errorf("%+v, want 1.5 µs and 2.5 µs", said)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", fi.Mode(), err)
	}
}

func TestEmptyFileIsValid(t *testing.T) {
	f, path := create(t, 0)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if spans, _, _ := read(t, path); len(spans) != 0 {
		t.Errorf("%+v", spans)
	}
}

// TestUnfinished: a command that is killed leaves a file that viewers accept: all
// of it but the bracket, which the format does without.
func TestUnfinished(t *testing.T) {
	f, path := create(t, 0)
	f.Recorder.Add(MainLane, "first", 1, 2)
	for deadline := time.Now().Add(10 * time.Second); ; {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "first") {
			if !json.Valid(append(b, ']')) {
				t.Errorf("%s", b)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 10 s: %q", b)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// TestMany: processes that record at the same time do not mix their lines. What
// they cannot get rid of in time they have counted.
func TestMany(t *testing.T) {
	const recorders, each = 8, 20
	f, path := create(t, 0)
	var wait sync.WaitGroup
	var unsaid atomic.Int64
	for i := range recorders {
		fd, err := unix.Dup(int(f.Recorder.Out().Fd()))
		if err != nil {
			t.Fatal(err)
		}
		r := NewRecorder(os.NewFile(uintptr(fd), "copy"), "p")
		wait.Go(func() {
			defer r.Close()
			defer func() { unsaid.Add(r.dropped.Load()) }()
			for range each {
				r.Begin(string(rune('a'+i)), strings.Repeat("x", 1000)).End()
			}
		})
	}
	wait.Wait()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	spans, _, lanes := read(t, path)
	if got := len(spans) + dropped(spans) + int(unsaid.Load()); got != recorders*each || len(lanes) > recorders {
		t.Errorf("%d spans of %d, %d lanes", got, recorders*each, len(lanes))
	}
}

func dropped(spans []record) (sum int) {
	for _, s := range spans {
		if n, ok := s.Args["dropped"].(float64); ok {
			sum += int(n)
		}
	}
	return sum
}

// TestStalled: a command that is stopped holds up nobody, and what was lost is
// counted.
func TestStalled(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	r := NewRecorder(os.NewFile(uintptr(fds[1]), "trace"), "p")
	defer r.Close()
	for range 10000 {
		r.Add(MainLane, "span", 1, 2) // would block for ever
	}
	if r.dropped.Load() == 0 {
		t.Fatal("a socket nobody reads took 10000 events")
	}
	lost := r.dropped.Load()
	b := make([]byte, maxMessage)
	for {
		if _, _, err := unix.Recvfrom(fds[0], b, unix.MSG_DONTWAIT); errors.Is(err, unix.EAGAIN) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	r.Add(MainLane, "after", 1, 2)
	n, err := unix.Read(fds[0], b)
	if err != nil {
		t.Fatal(err)
	}
	var e Event
	if err := json.Unmarshal(b[:n], &e); err != nil {
		t.Fatal(err)
	}
	if e.Name != "after" || e.Args["dropped"] != float64(lost) || r.dropped.Load() != 0 {
		t.Errorf("%+v, want %d dropped; %d left to say", e, lost, r.dropped.Load())
	}
}

// TestReaderGone: a command that was killed is no error and no signal.
func TestReaderGone(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecorder(os.NewFile(uintptr(fds[1]), "trace"), "p")
	unix.Close(fds[0])
	r.Add(MainLane, "span", 1, 2)
	r.Close()
	r.Add(MainLane, "late", 1, 2)
	if r.dropped.Load() != 2 {
		t.Errorf("%d dropped, want 2", r.dropped.Load())
	}
}

// TestOff: without --trace nothing is allocated and nothing is done.
func TestOff(t *testing.T) {
	ctx := context.Background()
	var r *Recorder
	if n := testing.AllocsPerRun(100, func() {
		Begin(ctx, "span").End()
		r.Begin(MainLane, "span").End()
		r.Add(MainLane, "span", 1, 2)
		r.Close()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if With(ctx, nil, MainLane) != ctx || Lane(ctx, "lane") != ctx || From(ctx) != nil || LaneOf(ctx) != "" {
		t.Error("a context without a recorder is not itself")
	}
}

func TestCreateFails(t *testing.T) {
	if _, err := Create(filepath.Join(t.TempDir(), "none", "t.json"), "p", 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
