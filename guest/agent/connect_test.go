//go:build linux

package agent

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDialLoopback: a server at ::1 alone is found at 127.0.0.1 too and the
// other way round, not at other addresses; nothing beyond the loopback is.
func TestDialLoopback(t *testing.T) {
	four, six := net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback
	for _, at := range []net.IP{four, six} {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: at})
		if err != nil {
			t.Fatal(err)
		}
		port := uint32(l.Addr().(*net.TCPAddr).Port)
		for _, to := range []net.IP{four, six} {
			conn, err := dialLoopback(t.Context(), to, port)
			if err != nil {
				t.Errorf("%s, the server is at %s: %v", to, at, err)
				continue
			}
			conn.Close()
		}
		if _, err := dialLoopback(t.Context(), net.IPv4(127, 0, 0, 2).To4(), port); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("127.0.0.2: %v", err)
		}
		l.Close()
		if _, err := dialLoopback(t.Context(), at, port); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("nobody is at %s: %v", at, err)
		}
	}
	for _, bad := range []struct {
		address []byte
		port    uint32
	}{{net.IPv4(10, 0, 0, 1).To4(), 80}, {net.IPv6zero, 80}, {nil, 80}, {four[:3], 80}, {four, 1 << 16}} {
		if _, err := dialLoopback(t.Context(), bad.address, bad.port); !errors.Is(err, errAddress) {
			t.Errorf("%v port %d: %v", bad.address, bad.port, err)
		}
	}
}
