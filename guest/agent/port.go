//go:build linux

package agent

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Sizes of the virtio console driver: it moves at most portWrite bytes per
// write(2) (Linux, drivers/char/virtio_console.c).
const portWrite = 32 << 10

// A port is the machine's byte stream: a virtio-serial port.
type port struct {
	fd int
	// used: bytes have come, so there is a session that can be lost.
	used bool
}

// openPort finds the virtio-serial port that the host named and opens it.
func openPort(name string) (*port, error) {
	device, err := findPort("/sys/class/virtio-ports", name)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", name, err)
	}
	// Not through os.File: its reads end at the first 0, and here 0 only says
	// that the host has not connected yet.
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", device, err)
	}
	return &port{fd: fd}, nil
}

// findPort returns the device of the port called name; class is the sysfs
// directory that lists the ports.
func findPort(class, name string) (string, error) {
	files, err := filepath.Glob(filepath.Join(class, "*", "name"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if strings.TrimSpace(string(content)) == name {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(file))), nil
		}
	}
	return "", os.ErrNotExist
}

// Read blocks until there are bytes. A port without a host reads as end of file
// at once. Before the first byte that means not yet: a booted machine, or one
// being saved as a template, has no session that could be lost.
func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(p.fd, b)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err != nil:
			return 0, fmt.Errorf("port read: %w", err)
		case n > 0:
			p.used = true
			return n, nil
		case p.used || len(b) == 0:
			return 0, io.EOF
		}
		if err := p.waitHost(); err != nil {
			return 0, err
		}
	}
}

// waitHost blocks while no host is connected.
func (p *port) waitHost() error {
	const retry = 5 // ms: a hung up port makes poll return at once
	for {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("port poll: %w", err)
		}
		if fds[0].Revents&unix.POLLHUP == 0 {
			return nil
		}
		if _, err := unix.Poll(nil, retry); err != nil && err != unix.EINTR {
			return fmt.Errorf("port wait: %w", err)
		}
	}
}

// Write writes all of b.
func (p *port) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Write(p.fd, b[done:])
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return done, fmt.Errorf("port write: %w", err)
		}
		if n == 0 {
			return done, io.ErrShortWrite
		}
		done += n
	}
	return done, nil
}

// Splice writes the n bytes that pipe holds, and no more: the driver lists all
// that a pipe holds and then fills in only what it was asked for; asked for
// less, it crashes the kernel (6.12: the list has no end mark). The pipe's pages
// become the buffers that the host reads (port_fops_splice_write in
// drivers/char/virtio_console.c).
func (p *port) Splice(pipe, n int) error {
	for n > 0 {
		moved, err := ignoringEINTR(func() (int, error) {
			moved, err := unix.Splice(pipe, nil, p.fd, nil, n, unix.SPLICE_F_MOVE)
			return int(moved), err
		})
		if err != nil {
			return fmt.Errorf("port splice: %w", err)
		}
		if moved == 0 {
			return fmt.Errorf("port splice: %w", io.ErrUnexpectedEOF)
		}
		n -= moved
	}
	return nil
}

// Close closes the port. A Read under way is not woken: the agent closes it only
// to power off.
func (p *port) Close() error { return unix.Close(p.fd) }
