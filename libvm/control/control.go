//go:build linux

// Package control is how the commands talk to a monitor: JSON messages with
// file descriptors over the unix socket in the container's state directory.
//
// One connection carries one request. A message is a length (4 bytes, big
// endian) and JSON; file descriptors ride on the length (unix(7), SCM_RIGHTS).
// Both ends are runm run by the same user, the socket lies in a directory of
// mode 0700.
package control

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is the name of the monitor's socket in the state directory.
const Socket = "control.sock"

// maxMessage bounds one message in bytes, maxFiles the descriptors on it.
const (
	maxMessage = 8 << 20
	maxFiles   = 250 // the kernel takes 253 (SCM_MAX_FD)
)

// ErrGone means that no monitor listens: the container is stopped.
var ErrGone = errors.New("container is stopped")

// Conn is one connection. Send may be called beside Recv, but neither beside
// itself.
type Conn struct {
	c *net.UnixConn
}

// NewConn takes f, one end of a stream socket, over.
func NewConn(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("control connection: %w", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("control connection: %T, want a unix socket", c)
	}
	return &Conn{uc}, nil
}

// Pair returns two connected ends that an exec does not inherit.
func Pair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}

// Listen makes the socket in dir.
func Listen(dir string) (*net.UnixListener, error) {
	var l *net.UnixListener
	err := short(dir, func(path string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", dir, err)
	}
	// The name is one of /proc; whoever removes dir removes the socket.
	l.SetUnlinkOnClose(false)
	return l, nil
}

// Dial connects to the monitor of the state directory dir. The error is
// ErrGone when there is none.
func Dial(dir string) (*Conn, error) {
	var c *net.UnixConn
	err := short(dir, func(path string) (err error) {
		c, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the monitor: %w", err)
	}
	return &Conn{c}, nil
}

// Accept wraps what the listener accepted.
func Accept(c *net.UnixConn) *Conn { return &Conn{c} }

// short calls f with a name for the socket in dir that fits in sun_path's 108
// bytes however long dir is.
func short(dir string, f func(path string) error) error {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(d)
	return f(filepath.Join("/proc/self/fd", strconv.Itoa(d), Socket))
}

// Send writes v as one message, files with it. The files stay the caller's.
func (c *Conn) Send(v any, files ...*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(body) > maxMessage {
		return fmt.Errorf("message of %d bytes, at most %d can be sent", len(body), maxMessage)
	}
	msg := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	msg = append(msg, body...)
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			// Not f.Fd(): that would make the descriptor blocking.
			rc, err := f.SyscallConn()
			if err != nil {
				return fmt.Errorf("send %s: %w", f.Name(), err)
			}
			if err := rc.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
				return fmt.Errorf("send %s: %w", f.Name(), err)
			}
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.c.WriteMsgUnix(msg, rights, nil)
	if err == nil && n < len(msg) {
		_, err = c.c.Write(msg[n:])
	}
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// Recv reads one message into v and returns the files that came with it,
// which are the caller's to close. The error is io.EOF when the peer is gone.
func (c *Conn) Recv(v any) ([]*os.File, error) {
	head := make([]byte, 4)
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := c.c.ReadMsgUnix(head, oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	files, ferr := parseRights(oob[:oobn])
	if err == nil {
		err = ferr
	}
	if err == nil {
		_, err = io.ReadFull(c.c, head[n:])
	}
	if err == nil {
		err = c.recvBody(binary.BigEndian.Uint32(head), v)
	}
	if err != nil {
		CloseAll(files)
		if errors.Is(err, unix.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		return nil, err
	}
	return files, nil
}

func (c *Conn) recvBody(size uint32, v any) error {
	if size > maxMessage {
		return fmt.Errorf("message of %d bytes, at most %d are accepted", size, maxMessage)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.c, body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	return nil
}

// SetDeadline bounds the calls to come; the zero time lifts the bound.
func (c *Conn) SetDeadline(t time.Time) error { return c.c.SetDeadline(t) }

// CloseWrite tells the peer that nothing more comes; what it says can be read.
func (c *Conn) CloseWrite() error { return c.c.CloseWrite() }

// Close ends the connection.
func (c *Conn) Close() error { return c.c.Close() }

func parseRights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			CloseAll(files)
			return nil, fmt.Errorf("descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// CloseAll closes files that were received, or are not to be sent.
func CloseAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
