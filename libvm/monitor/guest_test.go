//go:build linux

package monitor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

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

func TestClean(t *testing.T) {
	for said, want := range map[string]string{
		"plain text, tab\tand ümläut 日本 €": "plain text, tab\tand ümläut 日本 €",
		"":                                  "",
		"two\nlines\r\n":                    "two lines  ",
		"\x1b[31mred\x07\x00\x7f":           " [31mred   ",
		"csi \u009b31m osc \u009d0;x\u009c": "csi  31m osc  0;x ",
		"\u0080\u009f":                      "  ",
		"line\u2028and\u2029paragraph":      "line and paragraph",
		"\u202eesrever\u202c \u2066x\u2069": " esrever   x ",
		"\u200b\u200e\u200f\u2060\ufeff":    "     ",
		"\u00ad\u00a0":                      "  ",
		"\xc2":                              " ",
		"\x9b31m":                           " 31m",
		"\ufffd\ue000\U000e0041":            "   ",
	} {
		if got := clean(said); got != want {
			t.Errorf("%q becomes %q, want %q", said, got, want)
		}
	}
	if n := len(clean(strings.Repeat("é", 1<<20))); n > 4<<10 {
		t.Errorf("%d bytes", n)
	}
	// What was cut in the middle of a character is still whole characters.
	if got := clean("x" + strings.Repeat("é", 4<<10)); !utf8.ValidString(got) {
		t.Errorf("%q", got[len(got)-4:])
	}
}

func TestConsoleTail(t *testing.T) {
	said := "gone\n1\n2\n\x1b[2J3\u009b\r\n4\u202e\n5\n\x00\x9b\n6é\n"
	if got, want := consoleTail([]byte(said)), "2 | [2J3 | 4 | 5 | 6"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if n := len(consoleTail(bytes.Repeat([]byte("x"), 64<<10))); n != 600 {
		t.Errorf("%d bytes", n)
	}
}
