//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// connectTime bounds a connection to a server that has too many already. It is
// shorter than the host waits.
const connectTime = 10 * time.Second

var errAddress = errors.New("not an address of the loopback")

func (s *server) Connect(ctx context.Context, req *api.ConnectRequest) (*api.Empty, error) {
	wait, cancel := context.WithTimeout(ctx, streamWait)
	defer cancel()
	st, err := s.streams.take(wait, req.GetStream())
	if err != nil {
		return nil, err
	}
	conn, err := dialLoopback(ctx, req.GetAddress(), req.GetPort())
	if err != nil {
		st.Close()
		return nil, err
	}
	go api.Relay(st, conn)
	return &api.Empty{}, nil
}

// dialLoopback connects to a server at the guest's loopback. For 127.0.0.1 and
// ::1 one that is only at the other will do: a client that may have either goes
// on to the other when it is refused, but on the host it is not, because the
// connection is made there before the guest is asked.
func dialLoopback(ctx context.Context, address []byte, port uint32) (*net.TCPConn, error) {
	ip, ok := netip.AddrFromSlice(address)
	if !ok || !ip.IsLoopback() || port > 1<<16-1 {
		return nil, fmt.Errorf("%x port %d: %w", address, port, errAddress)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	four, six := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	conn, err := dialTCP(ctx, netip.AddrPortFrom(ip, uint16(port)))
	if errors.Is(err, unix.ECONNREFUSED) && (ip == four || ip == six) {
		other := four
		if ip == four {
			other = six
		}
		if conn, oerr := dialTCP(ctx, netip.AddrPortFrom(other, uint16(port))); oerr == nil {
			return conn, nil
		}
	}
	return conn, err
}

func dialTCP(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
