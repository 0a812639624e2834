//go:build linux

package agent

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/runm/runm/guest/api"
)

// streamWait bounds how long a request waits for a stream it names: the host
// opens streams and sends requests on the same connection, so it is under way.
const streamWait = 10 * time.Second

// A stream is one yamux stream as the stdio code sees it.
type stream interface {
	io.ReadWriteCloser
	StreamID() uint32
	// Splice sends at most n bytes that are in the pipe (mux.Stream).
	Splice(pipe int, by [2]int, n int) (int, error)
}

// streams holds the accepted stdio streams that no process has claimed yet.
type streams struct {
	mu      sync.Mutex
	ready   map[uint32]stream
	waiters map[uint32]chan struct{} // closed by put
}

func newStreams() *streams {
	return &streams{ready: map[uint32]stream{}, waiters: map[uint32]chan struct{}{}}
}

// put makes s available to take.
func (t *streams) put(s stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := s.StreamID()
	t.ready[id] = s
	if w, ok := t.waiters[id]; ok {
		close(w)
		delete(t.waiters, id)
	}
}

// take returns the stream with that id and forgets it: the caller Closes it. It
// waits for a stream that is not there yet, until ctx ends.
func (t *streams) take(ctx context.Context, id uint32) (stream, error) {
	for {
		t.mu.Lock()
		if s, ok := t.ready[id]; ok {
			delete(t.ready, id)
			t.mu.Unlock()
			return s, nil
		}
		w, ok := t.waiters[id]
		if !ok {
			w = make(chan struct{})
			t.waiters[id] = w
		}
		t.mu.Unlock()
		select {
		case <-w:
		case <-ctx.Done():
			return nil, fmt.Errorf("stream %d: %w", id, ctx.Err())
		}
	}
}

// stdioStreams are the streams that a request names; nil is /dev/null.
type stdioStreams struct{ in, out, err stream }

// claim takes the streams that want names. They are the caller's to close, on
// every path: nobody else knows them any more.
func (t *streams) claim(ctx context.Context, want *api.Stdio) (*stdioStreams, error) {
	ctx, cancel := context.WithTimeout(ctx, streamWait)
	defer cancel()
	s := &stdioStreams{}
	for _, one := range []struct {
		name string
		id   uint32
		to   *stream
	}{
		{"stdin", want.GetStdin(), &s.in},
		{"stdout", want.GetStdout(), &s.out},
		{"stderr", want.GetStderr(), &s.err},
	} {
		if one.id == 0 {
			continue
		}
		got, err := t.take(ctx, one.id)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("%s: %w", one.name, err)
		}
		*one.to = got
	}
	return s, nil
}

func (s *stdioStreams) close() {
	for _, one := range []stream{s.in, s.out, s.err} {
		if one != nil {
			one.Close()
		}
	}
}
