package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// qmpLine bounds a line from QEMU in bytes. The longest answer we ask for
	// and the greeting have some hundred.
	qmpLine = 64 << 10
	// qmpTimeout bounds an exchange whose context has no deadline.
	qmpTimeout = 10 * time.Second
)

// qmp speaks QEMU's monitor protocol, as far as we need it: one command at a
// time, answers without results, events ignored
// (https://www.qemu.org/docs/master/interop/qmp-spec.html).
type qmp struct {
	mu    sync.Mutex
	conn  net.Conn
	in    *bufio.Reader
	ready bool  // the capabilities are negotiated
	fault error // an exchange was cut off: answers no longer match commands
}

// newQMP returns a client that greets at its first command: starting a machine
// does not wait for QEMU. The caller closes conn.
func newQMP(conn net.Conn) *qmp {
	return &qmp{conn: conn, in: bufio.NewReaderSize(conn, qmpLine)}
}

// qmpMessage is anything QEMU sends.
type qmpMessage struct {
	Greeting *struct{}       `json:"QMP"`
	Event    string          `json:"event"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// do runs a command without arguments and decodes its result into result,
// which may be nil.
func (q *qmp) do(ctx context.Context, command string, result any) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.fault != nil {
		return fmt.Errorf("qmp %s: after an earlier fault: %w", command, q.fault)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	defer q.bound(ctx)()
	if !q.ready {
		if err := q.negotiate(); err != nil {
			return fmt.Errorf("qmp greeting: %w", cause(ctx, err))
		}
	}
	if err := q.exchange(command, result); err != nil {
		return fmt.Errorf("qmp %s: %w", command, cause(ctx, err))
	}
	return nil
}

// bound makes the exchange end with ctx, and returns what undoes it.
func (q *qmp) bound(ctx context.Context) func() {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(qmpTimeout)
	}
	q.conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { q.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// cause prefers the context's error to the time-out it made.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (q *qmp) negotiate() error {
	m, err := q.receive()
	if err != nil {
		return err
	}
	if m.Greeting == nil {
		q.fault = errors.New("not a QMP greeting")
		return q.fault
	}
	if err := q.exchange("qmp_capabilities", nil); err != nil {
		return err
	}
	q.ready = true
	return nil
}

func (q *qmp) exchange(command string, result any) error {
	line, err := json.Marshal(map[string]string{"execute": command})
	if err != nil {
		return err
	}
	if _, err := q.conn.Write(append(line, '\n')); err != nil {
		q.fault = err
		return err
	}
	for {
		m, err := q.receive()
		switch {
		case err != nil:
			return err
		case m.Error != nil:
			return fmt.Errorf("%s: %s", m.Error.Class, m.Error.Desc)
		case m.Return != nil && result != nil:
			return json.Unmarshal(m.Return, result)
		case m.Return != nil:
			return nil
		}
	}
}

func (q *qmp) receive() (qmpMessage, error) {
	var m qmpMessage
	line, err := q.in.ReadSlice('\n') // bufio.ErrBufferFull bounds it
	if err == nil {
		err = json.Unmarshal(line, &m)
	}
	q.fault = err
	return m, err
}
