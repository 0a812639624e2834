package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/trace"
)

const (
	// qmpLine bounds a line from QEMU in bytes. The longest answer we ask for
	// and the greeting have some hundred.
	qmpLine = 64 << 10
	// qmpTimeout bounds an exchange whose context has no deadline.
	qmpTimeout = 10 * time.Second
)

// qmp speaks QEMU's monitor protocol, as far as we need it: one command at a
// time, events ignored
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

// qmpCommand is what QEMU is asked.
type qmpCommand struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
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

// do runs a command and decodes its result into result. args and result may be
// nil.
func (q *qmp) do(ctx context.Context, command string, args, result any) error {
	return q.run(ctx, nil, command, args, result)
}

// pass gives QEMU a file, which commands then name.
func (q *qmp) pass(ctx context.Context, name string, f *os.File) error {
	return q.run(ctx, f, "getfd", map[string]any{"fdname": name}, nil)
}

// run is do with a file that goes along; nil for none.
func (q *qmp) run(ctx context.Context, f *os.File, command string, args, result any) error {
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
		span := trace.Begin(ctx, "QEMU has started")
		err := q.negotiate()
		span.End()
		if err != nil {
			return fmt.Errorf("qmp greeting: %w", cause(ctx, err))
		}
	}
	if err := q.exchange(f, command, args, result); err != nil {
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
	if err := q.exchange(nil, "qmp_capabilities", nil, nil); err != nil {
		return err
	}
	q.ready = true
	return nil
}

func (q *qmp) exchange(f *os.File, command string, args, result any) error {
	line, err := json.Marshal(qmpCommand{command, args})
	if err != nil {
		return err
	}
	if err := q.send(append(line, '\n'), f); err != nil {
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

func (q *qmp) send(line []byte, f *os.File) error {
	if f == nil {
		_, err := q.conn.Write(line)
		return err
	}
	socket, ok := q.conn.(*net.UnixConn)
	if !ok {
		return errors.New("no socket that files can be passed through")
	}
	_, _, err := socket.WriteMsgUnix(line, unix.UnixRights(int(f.Fd())), nil)
	return err
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
