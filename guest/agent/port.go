//go:build linux

package agent

import (
	"encoding/binary"
	"errors"
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

// Close closes the port. A Read under way is not woken: the agent closes it only
// to power off.
func (p *port) Close() error { return unix.Close(p.fd) }

// Bytes of a yamux header (yamux spec.md): version, type, flags, stream, length.
const (
	frameHeader   = 12
	frameData     = 0
	frameTypeAt   = 1
	frameLengthAt = 8
)

// A frameConn joins yamux's header, which yamux writes alone, with the first
// bytes of the body that follows: a write to the port is a notification of the
// host, and those cost more than copying 32 KiB.
type frameConn struct {
	rwc  io.ReadWriteCloser
	held []byte // a data header whose body comes next, or empty
	buf  []byte
}

func newFrameConn(rwc io.ReadWriteCloser) *frameConn {
	return &frameConn{rwc: rwc, buf: make([]byte, portWrite)}
}

func (c *frameConn) Read(b []byte) (int, error) { return c.rwc.Read(b) }

func (c *frameConn) Close() error { return c.rwc.Close() }

var errFrame = errors.New("a yamux header where its body was due")

// Write takes what yamux's one sending goroutine writes: a header, then the
// whole body if the header announces one.
func (c *frameConn) Write(b []byte) (int, error) {
	if len(c.held) == 0 {
		if len(b) == frameHeader && b[frameTypeAt] == frameData && binary.BigEndian.Uint32(b[frameLengthAt:]) > 0 {
			c.held = append(c.held, b...)
			return len(b), nil
		}
		return c.rwc.Write(b)
	}
	if len(b) != int(binary.BigEndian.Uint32(c.held[frameLengthAt:])) {
		return 0, errFrame
	}
	first := min(len(b), len(c.buf)-frameHeader)
	n := copy(c.buf, c.held)
	n += copy(c.buf[n:], b[:first])
	c.held = c.held[:0]
	if _, err := c.rwc.Write(c.buf[:n]); err != nil {
		return 0, err
	}
	if first == len(b) {
		return len(b), nil
	}
	if _, err := c.rwc.Write(b[first:]); err != nil {
		return first, err
	}
	return len(b), nil
}
