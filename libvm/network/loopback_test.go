//go:build linux

package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// serveLoopback has the loopback of ns end in dial.
func serveLoopback(t *testing.T, ns *Namespace, dial Dial) *Loopback {
	t.Helper()
	l, err := ns.ListenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	l.Serve(t.Context(), dial)
	return l
}

// dialIn connects in ns.
func dialIn(ns *Namespace, address string) (conn net.Conn, err error) {
	err = ns.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", address, time.Minute)
		return err
	})
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(time.Minute))
	}
	return conn, err
}

// greet is a guest where every port says to what address it was called, but
// port 9, which refuses.
func greet(_ context.Context, to netip.AddrPort) (io.ReadWriteCloser, error) {
	if to.Port() == 9 {
		return nil, unix.ECONNREFUSED
	}
	host, guest := net.Pipe()
	go func() {
		text := to.String()
		_, _ = guest.Write(append([]byte{0, byte(len(text))}, text...))
		_, _ = guest.Write([]byte{0, 0})
		_, _ = io.Copy(io.Discard, guest)
	}()
	return host, nil
}

// TestLoopback: every TCP port of 127.0.0.0/8 and of ::1 is the guest's, from
// before lo is up until Close; nothing else is.
func TestLoopback(t *testing.T) {
	ns, other := newNamespace(t), newNamespace(t)
	l := serveLoopback(t, ns, greet)
	for _, n := range []*Namespace{ns, other} {
		sh(t, n, "ip link set lo up; ip addr add 192.0.2.1/32 dev lo; ip addr add fd00::1/128 dev lo nodad")
	}
	for _, address := range []string{"127.0.0.1:80", "127.0.0.1:65535", "127.255.255.254:1", "127.0.0.10:53", "[::1]:443"} {
		conn, err := dialIn(ns, address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if got, err := io.ReadAll(conn); string(got) != address || err != nil {
			t.Errorf("%s: %q, %v", address, got, err)
		}
		conn.Close()
	}
	conn, err := dialIn(ns, "127.0.0.1:9")
	if err == nil { // the reset may come as early as that
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("refused by the guest: %v", err)
	}
	refused := map[string]*Namespace{
		api.Resolver + ":80": ns, "192.0.2.1:80": ns, "[fd00::1]:80": ns, "127.0.0.1:80": other,
	}
	for address, n := range refused {
		if _, err := dialIn(n, address); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := dialIn(ns, "127.0.0.1:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("closed: %v", err)
	}
	if left := strings.TrimSpace(sh(t, ns, "ss -Hltn")); left != "" {
		t.Errorf("sockets are left: %s", left)
	}
}

// TestLoopbackIsBounded: so many connections at a time are the guest's, and
// others wait. What the guest never answers ends with ctx.
func TestLoopbackIsBounded(t *testing.T) {
	ns := newNamespace(t)
	sh(t, ns, "ip link set lo up")
	asked := make(chan struct{}, 2*maxLoopback)
	ctx, cancel := context.WithCancel(t.Context())
	l, err := ns.ListenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.Serve(ctx, func(ctx context.Context, _ netip.AddrPort) (io.ReadWriteCloser, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	var conns []net.Conn
	for range maxLoopback + 5 {
		conn, err := dialIn(ns, "127.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	for range maxLoopback {
		<-asked
	}
	select {
	case <-asked:
		t.Errorf("more than %d connections at a time", maxLoopback)
	case <-time.After(200 * time.Millisecond):
	}
	cancel()
	for _, conn := range conns {
		if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("at the end: %d, %v", n, err)
		}
	}
}
