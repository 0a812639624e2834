//go:build linux

package monitor

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/libvm/vmm/fake"
)

// greeter is an agent that answers Hello; what it is embedded in answers more.
type greeter struct{ api.AgentService }

func (greeter) Hello(context.Context, *api.HelloRequest) (*api.HelloResponse, error) {
	return &api.HelloResponse{Version: api.Version}, nil
}

// serveAgent is a fake machine's guest with the agent a. Other streams are
// accepted and never read.
func serveAgent(t *testing.T, a api.AgentService) func(io.ReadWriteCloser) {
	return func(stream io.ReadWriteCloser) {
		config := yamux.DefaultConfig()
		config.EnableKeepAlive, config.LogOutput = false, io.Discard
		session, err := yamux.Client(stream, config)
		if err != nil {
			t.Error(err)
			return
		}
		defer session.Close()
		server, err := ttrpc.NewServer()
		if err != nil {
			t.Error(err)
			return
		}
		defer server.Close()
		api.RegisterAgentService(server, a)
		first, err := session.Accept()
		if err != nil {
			return
		}
		rpc := make(chan net.Conn, 1)
		rpc <- first
		go func() { _ = server.Serve(context.Background(), oneListener{rpc, session.CloseChan()}) }()
		for err == nil {
			_, err = session.Accept()
		}
	}
}

// oneListener hands out one connection.
type oneListener struct {
	conn chan net.Conn
	end  <-chan struct{}
}

func (l oneListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.end:
		return nil, net.ErrClosed
	}
}
func (oneListener) Close() error   { return nil }
func (oneListener) Addr() net.Addr { return &net.UnixAddr{} }

// newFakeGuest is a machine whose guest is the function.
func newFakeGuest(t *testing.T, inside func(io.ReadWriteCloser)) (*guest, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	driver := &fake.Driver{Guest: inside}
	machine, err := driver.Start(ctx, &vmm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return newGuest(ctx, machine, vmm.Share{}, false, func(vmm.Machine) error { return nil })
}

// agentOf is a guest with the agent a.
func agentOf(t *testing.T, a api.AgentService) *guest {
	t.Helper()
	g, err := newFakeGuest(t, serveAgent(t, a))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.end)
	return g
}

// A guest that breaks the protocol ends its machine, and the error says so:
// while it boots, and later.
func TestGuestBreaksTheProtocol(t *testing.T) {
	ping := []byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7}
	_, err := newFakeGuest(t, func(stream io.ReadWriteCloser) {
		_, _ = stream.Write(ping)
		_, _ = io.Copy(io.Discard, stream) // until its end
	})
	if !errors.Is(err, api.ErrFrame) || !strings.Contains(err.Error(), "a ping") {
		t.Errorf("boot: %v", err)
	}
	now := make(chan struct{})
	g, err := newFakeGuest(t, func(stream io.ReadWriteCloser) {
		go func() {
			<-now
			_, _ = stream.Write(ping)
		}()
		serveAgent(t, greeter{})(stream)
	})
	if err != nil {
		t.Fatal(err)
	}
	close(now)
	select {
	case err := <-g.gone:
		if !errors.Is(err, api.ErrFrame) {
			t.Errorf("the machine ended: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the machine goes on")
	}
}
