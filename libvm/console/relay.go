//go:build linux

package console

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/console"
)

// ErrNoTerminal means that the user's side of a relay is no terminal.
var ErrNoTerminal = errors.New("the container wants a terminal and there is none: stdin, stdout and stderr are something else and /dev/tty cannot be opened: use --console-socket, or set process.terminal to false")

// Relay stands between the user's terminal and a container's.
type Relay struct {
	pty  *Pty
	user console.Console
	done chan struct{}
}

// NewRelay puts the user's terminal into raw mode and copies stdin to p, and p to
// stdout, until Close. The end of stdin, where it is no terminal, is not p's.
func NewRelay(p *Pty) (*Relay, error) {
	user, err := userConsole()
	if err != nil {
		return nil, err
	}
	r := &Relay{pty: p, user: user, done: make(chan struct{})}
	if err := r.Resize(); err != nil {
		return nil, err
	}
	if err := raw(user); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	go func() {
		// Ends with the process: a read of a terminal cannot be interrupted.
		_, _ = io.Copy(p.Master, os.Stdin)
	}()
	go func() {
		defer close(r.done)
		// Ends when the last slave is closed.
		_, _ = io.Copy(os.Stdout, p.Master)
	}()
	return r, nil
}

// userConsole finds the user's terminal where runc looks for it: whatever is
// redirected, if only there is a controlling one.
func userConsole() (console.Console, error) {
	for _, f := range []*os.File{os.Stderr, os.Stdout, os.Stdin} {
		if c, err := console.ConsoleFromFile(f); err == nil {
			return c, nil
		}
	}
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, ErrNoTerminal
	}
	return console.ConsoleFromFile(f)
}

// Resize gives the container's terminal the size of the user's.
func (r *Relay) Resize() error {
	if err := r.pty.Master.ResizeFrom(r.user); err != nil {
		return fmt.Errorf("terminal size: %w", err)
	}
	return nil
}

// Size is that of the user's terminal, in characters.
func (r *Relay) Size() (width, height uint16, err error) {
	ws, err := r.user.Size()
	return ws.Width, ws.Height, err
}

// Close waits for the rest of the output, when all that wrote to the terminal
// has ended, and restores the user's terminal.
func (r *Relay) Close() error {
	r.pty.Slave.Close()
	<-r.done
	if err := r.user.Reset(); err != nil {
		return fmt.Errorf("restore the terminal: %w", err)
	}
	return nil
}

// Abort restores the user's terminal at once.
func (r *Relay) Abort() { _ = r.user.Reset() }
