package fake

import (
	"io"
	"sync"
)

// gate holds writers back while it is closed. The zero gate is open.
type gate struct {
	mu     sync.Mutex
	closed chan struct{} // nil while open; closed when it opens
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		g.closed = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed != nil {
		close(g.closed)
		g.closed = nil
	}
}

func (g *gate) wait() {
	g.mu.Lock()
	c := g.closed
	g.mu.Unlock()
	if c != nil {
		<-c
	}
}

// gatedWriter waits for its gate before every write.
type gatedWriter struct {
	io.Writer
	gate *gate
}

func (w gatedWriter) Write(p []byte) (int, error) {
	w.gate.wait()
	return w.Writer.Write(p)
}

// queue is a pipe without a bound: Write never blocks.
type queue struct {
	mu    sync.Mutex
	ready *sync.Cond
	buf   []byte
	ended bool
}

func newQueue() *queue {
	q := &queue{}
	q.ready = sync.NewCond(&q.mu)
	return q
}

func (q *queue) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return 0, io.ErrClosedPipe
	}
	q.buf = append(q.buf, p...)
	q.ready.Signal()
	return len(p), nil
}

func (q *queue) Read(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.buf) == 0 && !q.ended {
		q.ready.Wait()
	}
	if len(q.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, q.buf)
	q.buf = q.buf[n:]
	return n, nil
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.ready.Signal()
}
