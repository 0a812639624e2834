package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/runm/runm/libvm/vmm"
)

const (
	// consoleTail is how much of the guest's console is kept, in bytes.
	consoleTail = 64 << 10
	// qemuGrace is how long QEMU may outlive a virtiofsd before that counts
	// as virtiofsd's failure. virtiofsd ends when QEMU closes its socket, and
	// may be reaped first.
	qemuGrace = time.Second
)

// machine owns a QEMU, its virtiofsd processes and our ends of its channels.
type machine struct {
	qemu         *process
	daemons      []*process
	consoleConn  net.Conn
	console      *tail
	qmp          *qmp
	emulated     bool  // by TCG
	balloonBytes int64 // size of the guest's memory if it has a balloon, else 0

	killed atomic.Bool
	ended  chan struct{} // closed when everything is given back
	err    error         // Wait's answer, valid after ended

	mu    sync.Mutex // protects what follows
	agent net.Conn   // nil once dialled or ended
	fault error      // why we gave up a machine that nobody asked to end
}

var (
	_ vmm.Machine   = (*machine)(nil)
	_ vmm.Pauser    = (*machine)(nil)
	_ vmm.Processes = (*machine)(nil)
)

// takeAgent returns the agent's stream to the first who asks, nil to others.
func (m *machine) takeAgent() net.Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	conn := m.agent
	m.agent = nil
	return conn
}

// Dial implements vmm.Machine. The stream has deadlines (net.Conn).
func (m *machine) Dial(context.Context) (io.ReadWriteCloser, error) {
	conn := m.takeAgent()
	if conn == nil {
		return nil, errors.New("qemu: dial: the machine has ended or was dialled before")
	}
	return conn, nil
}

// Wait implements vmm.Machine.
func (m *machine) Wait() error {
	<-m.ended
	if m.err != nil {
		return fmt.Errorf("qemu: %w", m.err)
	}
	return nil
}

// Kill implements vmm.Machine.
func (m *machine) Kill() {
	m.killed.Store(true)
	for _, p := range m.processes() {
		p.kill()
	}
}

// giveUp ends the machine because of err.
func (m *machine) giveUp(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = err
	m.qemu.kill()
}

// Console implements vmm.Machine.
func (m *machine) Console() []byte { return m.console.Bytes() }

// Pause implements vmm.Pauser.
func (m *machine) Pause(ctx context.Context) error { return m.command(ctx, "stop") }

// Resume implements vmm.Pauser.
func (m *machine) Resume(ctx context.Context) error { return m.command(ctx, "cont") }

func (m *machine) command(ctx context.Context, name string) error {
	if err := m.qmp.do(ctx, name, nil, nil); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	return nil
}

// Pids implements vmm.Processes.
func (m *machine) Pids() []int {
	var pids []int
	for _, p := range m.processes() {
		pids = append(pids, p.pid())
	}
	return pids
}

// processes lists the children that were started, QEMU first.
func (m *machine) processes() []*process {
	if m.qemu == nil {
		return m.daemons
	}
	return append([]*process{m.qemu}, m.daemons...)
}

// destroy undoes a launch: it ends and reaps every child.
func (m *machine) destroy() error {
	m.Kill()
	for _, p := range m.processes() {
		<-p.done
	}
	return nil
}

// supervise sees the machine to its end: no child outlives another, and what
// Start acquired is given back before Wait returns.
func (m *machine) supervise() {
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(m.console, m.consoleConn) // until QEMU's end closes
	}()
	first := m.firstEnd()
	if first != m.qemu {
		select {
		case <-m.qemu.done:
		case <-time.After(qemuGrace):
		}
	}
	err := m.verdict(first)
	m.destroy()
	<-read
	m.consoleConn.Close()
	m.qmp.conn.Close()
	if conn := m.takeAgent(); conn != nil {
		conn.Close()
	}
	m.err = err
	close(m.ended)
}

// firstEnd blocks until one child has ended.
func (m *machine) firstEnd() *process {
	all := m.processes()
	gone := make(chan *process, len(all))
	for _, p := range all {
		go func() {
			<-p.done
			gone <- p
		}()
	}
	return <-gone
}

// verdict says why the machine ended. first is the child that ended first.
func (m *machine) verdict(first *process) error {
	if m.killed.Load() {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.qemu.done:
	default: // QEMU still runs, without the files of first
		return first.end()
	}
	switch {
	case m.fault != nil:
		return fmt.Errorf("%w; %w", m.fault, m.qemu.end()) // one line
	case m.qemu.err == nil:
		return nil
	case first == m.qemu || first.err == nil: // virtiofsd ends well when QEMU goes
		return m.qemu.end()
	default:
		return fmt.Errorf("%w; %w", first.end(), m.qemu.end())
	}
}
