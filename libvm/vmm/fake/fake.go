// Package fake is a driver for tests: its guest is a function in this process.
package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/runm/runm/libvm/vmm"
)

// Driver runs Guest where another driver boots a kernel. The zero Driver's
// guest says nothing until the machine is killed. A Driver must not be copied
// once it has started a machine.
type Driver struct {
	// Guest is the machine's life: it powers off by returning, and must
	// return when stream ends.
	Guest func(stream io.ReadWriteCloser)
	// Output is what Console returns.
	Output []byte
	// Failure, when set, is what Start returns.
	Failure error
	// WaitErr, when set, is what Wait returns unless Kill was called.
	WaitErr error

	mu      sync.Mutex
	configs []vmm.Config
}

var _ vmm.Driver = (*Driver)(nil)

// Name implements vmm.Driver.
func (*Driver) Name() string { return "fake" }

// Configs returns what the machines so far were started with, oldest first.
func (d *Driver) Configs() []vmm.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]vmm.Config(nil), d.configs...)
}

// Start implements vmm.Driver. A kernel or initrd that is named must exist.
func (d *Driver) Start(ctx context.Context, cfg *vmm.Config) (vmm.Machine, error) {
	defer closeFiles(cfg)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("fake: %w", err)
	}
	for _, path := range []string{cfg.Kernel, cfg.Initrd} {
		if _, err := os.Stat(path); path != "" && err != nil {
			return nil, fmt.Errorf("fake: %w: %w", vmm.ErrNotInstalled, err)
		}
	}
	d.mu.Lock()
	d.configs = append(d.configs, *cfg)
	d.mu.Unlock()
	if d.Failure != nil {
		return nil, fmt.Errorf("fake: %w", d.Failure)
	}
	return boot(d), nil
}

func closeFiles(cfg *vmm.Config) {
	for _, disk := range cfg.Disks {
		disk.File.Close() // nil is fine
	}
	for _, nic := range cfg.NICs {
		nic.File.Close()
	}
}

// machine connects host and guest by two pipes and copies between them, so
// that a pause can hold back what the guest says.
type machine struct {
	driver *Driver
	inside net.Conn // our end of the guest's pipe
	gate   gate
	once   sync.Once
	killed chan struct{}
	ended  chan struct{}

	mu     sync.Mutex // protects what follows
	stream net.Conn   // the host's end; nil once dialled or ended
}

var (
	_ vmm.Machine = (*machine)(nil)
	_ vmm.Pauser  = (*machine)(nil)
)

func boot(d *Driver) *machine {
	host, outside := net.Pipe()
	inside, guest := net.Pipe()
	m := &machine{driver: d, inside: inside, stream: host, killed: make(chan struct{}), ended: make(chan struct{})}
	off := make(chan struct{})
	go func() {
		defer close(off)
		defer guest.Close()
		if d.Guest == nil {
			<-m.killed
			return
		}
		d.Guest(guest)
	}()
	var copies sync.WaitGroup
	copies.Go(func() { m.toGuest(outside) })
	copies.Go(func() { io.Copy(gatedWriter{outside, &m.gate}, inside) })
	go func() {
		select {
		case <-off:
		case <-m.killed:
			inside.Close()
			<-off
		}
		m.gate.open()
		inside.Close()
		outside.Close()
		copies.Wait()
		if s := m.take(); s != nil {
			s.Close()
		}
		close(m.ended)
	}()
	return m
}

// toGuest takes what the host writes, however much, and passes it on when the
// guest reads: a virtio-serial port buffers in the host's socket.
func (m *machine) toGuest(from io.Reader) {
	q := newQueue()
	go func() {
		io.Copy(q, from)
		q.close()
	}()
	io.Copy(m.inside, q)
	q.close()
}

func (m *machine) take() net.Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stream
	m.stream = nil
	return s
}

// Dial implements vmm.Machine.
func (m *machine) Dial(context.Context) (io.ReadWriteCloser, error) {
	s := m.take()
	if s == nil {
		return nil, errors.New("fake: dial: the machine has ended or was dialled before")
	}
	return s, nil
}

// Wait implements vmm.Machine.
func (m *machine) Wait() error {
	<-m.ended
	select {
	case <-m.killed:
		return nil
	default:
		return m.driver.WaitErr
	}
}

// Kill implements vmm.Machine.
func (m *machine) Kill() { m.once.Do(func() { close(m.killed) }) }

// Console implements vmm.Machine.
func (m *machine) Console() []byte { return append([]byte(nil), m.driver.Output...) }

// Pause implements vmm.Pauser.
func (m *machine) Pause(ctx context.Context) error {
	m.gate.close()
	return ctx.Err()
}

// Resume implements vmm.Pauser.
func (m *machine) Resume(ctx context.Context) error {
	m.gate.open()
	return ctx.Err()
}
