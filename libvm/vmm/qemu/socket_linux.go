package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sendBuffer is how many bytes the child's end of a stream takes without a
// reader. A writer that met a full socket is woken when three quarters of it are
// empty, so a small one makes the guest's output go in fits and starts; 1 MiB is
// a window of one stream.
const sendBuffer = 1 << 20

// socketpair returns two ends of a stream: ours, and a file for a child. The
// caller closes both.
func socketpair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for the %s: %w", name, err)
	}
	if unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
		// Without CAP_NET_ADMIN up to net.core.wmem_max; less only costs speed.
		_ = unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer ours.Close() // FileConn duplicates it
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("socket pair for the %s: %w", name, err)
	}
	return conn, theirs, nil
}

// connectedListener returns a listening socket and a client that is already
// the first in its queue; the caller closes both. virtiofsd takes only a
// listening socket, QEMU only a connected one, and neither is ever given a
// path: the socket's name lives in a directory of ours for the time of this
// call, so nobody else can be first.
func connectedListener(parent string) (listener, client *os.File, err error) {
	dir, err := os.MkdirTemp(parent, "runm-vhost-")
	if err != nil {
		return nil, nil, fmt.Errorf("vhost-user socket: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d, err := os.Open(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("vhost-user socket: %w", err)
	}
	defer d.Close()
	// Through the descriptor a path fits into the 108 bytes of a socket's
	// name, however long the directory's is.
	addr := &unix.SockaddrUnix{Name: filepath.Join(fdPath(int(d.Fd())), "s")}
	if listener, err = streamSocket("vhost-user listener"); err != nil {
		return nil, nil, err
	}
	if client, err = streamSocket("vhost-user client"); err == nil {
		err = connect(listener, client, addr)
	}
	if err != nil {
		listener.Close()
		client.Close() // nil is fine
		return nil, nil, fmt.Errorf("vhost-user socket: %w", err)
	}
	return listener, client, nil
}

func connect(listener, client *os.File, addr unix.Sockaddr) error {
	if err := unix.Bind(int(listener.Fd()), addr); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(int(listener.Fd()), 1); err != nil {
		return os.NewSyscallError("listen", err)
	}
	return os.NewSyscallError("connect", unix.Connect(int(client.Fd()), addr))
}

func streamSocket(name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
