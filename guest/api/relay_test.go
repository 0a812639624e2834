package api

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// relayed is a connection from client to server with two Relays and a stream
// between; done is closed when both have returned.
type relayed struct {
	client, server *net.TCPConn
	done           chan struct{}
}

func newRelayed(t *testing.T) relayed {
	t.Helper()
	client, host := connection(t)
	guest, server := connection(t)
	one, other := net.Pipe()
	mux, err := Host(one)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := yamux.Client(other, streamConfig())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := mux.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := peer.AcceptStream()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mux.Close(); peer.Close() })
	r := relayed{client, server, make(chan struct{})}
	ended := make(chan struct{}, 2)
	go func() { Relay(stream, host); ended <- struct{}{} }()
	go func() { Relay(accepted, guest); ended <- struct{}{} }()
	go func() { <-ended; <-ended; close(r.done) }()
	return r
}

// wait fails the test if the Relays do not return.
func (r relayed) wait(t *testing.T) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(time.Minute):
		t.Fatal("a relay goes on")
	}
}

func connection(t *testing.T) (dialled, accepted *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialled, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr)); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.TCPConn{dialled, accepted} {
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	return dialled, accepted
}

// Each way has its own end, and what was sent before it arrives whole, also where
// it is more than the windows hold.
func TestRelay(t *testing.T) {
	r := newRelayed(t)
	request := make([]byte, 3*StreamWindow+17)
	_, _ = rand.NewChaCha8([32]byte{}).Read(request)
	go func() {
		_, _ = r.client.Write(request)
		_ = r.client.CloseWrite()
	}()
	got, err := io.ReadAll(r.server)
	if err != nil || !bytes.Equal(got, request) {
		t.Fatalf("request: %d bytes of %d, %v", len(got), len(request), err)
	}
	go func() {
		_, _ = r.server.Write(got)
		r.server.Close()
	}()
	back, err := io.ReadAll(r.client)
	if err != nil || !bytes.Equal(back, request) {
		t.Fatalf("answer: %d bytes of %d, %v", len(back), len(request), err)
	}
	r.wait(t)
}

// A connection that breaks on one side breaks on the other, and does not end as
// if it were whole.
func TestRelayReset(t *testing.T) {
	for name, ends := range map[string]func(relayed) (breaks, sees *net.TCPConn){
		"client": func(r relayed) (_, _ *net.TCPConn) { return r.client, r.server },
		"server": func(r relayed) (_, _ *net.TCPConn) { return r.server, r.client },
	} {
		r := newRelayed(t)
		breaks, sees := ends(r)
		if _, err := breaks.Write([]byte("half of")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(sees, make([]byte, 7)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		Reset(breaks)
		if n, err := sees.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s breaks: the other reads %d, %v", name, n, err)
		}
		r.wait(t)
	}
}
