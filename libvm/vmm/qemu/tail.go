package qemu

import "sync"

// tail is a writer that keeps the last bytes written to it. Its methods may be
// called at the same time.
type tail struct {
	mu  sync.Mutex
	max int
	buf []byte // at most 2*max, so that dropping the oldest is cheap
}

func newTail(max int) *tail { return &tail{max: max} }

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if n > t.max {
		p = p[n-t.max:]
	}
	if len(t.buf)+len(p) > 2*t.max {
		t.buf = t.buf[:copy(t.buf, t.buf[len(t.buf)-t.max:])]
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// Bytes returns a copy of the last max bytes or less.
func (t *tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.buf[max(0, len(t.buf)-t.max):]...)
}
