//go:build linux

// Package console makes the terminal of a container on the host, gives its
// master to the client, or stands between it and the user's own.
//
// The line discipline is the guest's: the terminal made here is raw and only
// carries bytes, so that a Ctrl-C becomes a signal in the guest.
package console

import (
	"fmt"
	"net"
	"os"

	"github.com/containerd/console"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Pty is a pseudo-terminal: the master for the client, the slave for the
// container's host processes.
type Pty struct {
	Master console.Console
	Slave  *os.File
}

// New makes a raw terminal of the given size, nil for none. The caller closes
// it.
func New(size *specs.Box) (*Pty, error) {
	master, path, err := console.NewPty()
	if err != nil {
		return nil, fmt.Errorf("allocate a terminal: %w", err)
	}
	p := &Pty{Master: master}
	p.Slave, err = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err == nil {
		err = p.setup(size)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("allocate a terminal: %w", err)
	}
	return p, nil
}

func (p *Pty) setup(size *specs.Box) error {
	c, err := console.ConsoleFromFile(p.Slave)
	if err != nil {
		return err
	}
	if err := raw(c); err != nil {
		return err
	}
	if size == nil {
		return nil
	}
	return c.Resize(console.WinSize{Width: uint16(size.Width), Height: uint16(size.Height)})
}

// raw makes c carry bytes as they are. The library's SetRaw keeps output
// processing, which would turn the guest's \r\n into \r\r\n.
func raw(c console.Console) error {
	if err := c.SetRaw(); err != nil {
		return err
	}
	t, err := unix.IoctlGetTermios(int(c.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	t.Oflag &^= unix.OPOST
	return unix.IoctlSetTermios(int(c.Fd()), unix.TCSETS, t)
}

// Close closes both ends.
func (p *Pty) Close() {
	p.Master.Close()
	if p.Slave != nil {
		p.Slave.Close()
	}
}

// Send gives the master to the client that listens on the socket at path, as
// runc does: the descriptor with the terminal's name (runc's docs/terminals.md,
// "Detached").
func (p *Pty) Send(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	defer conn.Close()
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("console socket: %s is not a unix socket", path)
	}
	if _, _, err := uc.WriteMsgUnix([]byte(p.Master.Name()), unix.UnixRights(int(p.Master.Fd())), nil); err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	return nil
}
