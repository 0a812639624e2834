//go:build linux

package mux

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// testPort is a socket in the port's place that counts writes.
type testPort struct {
	*os.File
	mu     sync.Mutex
	writes int
}

func (p *testPort) Write(b []byte) (int, error) {
	p.mu.Lock()
	p.writes++
	p.mu.Unlock()
	return p.File.Write(b)
}

func (p *testPort) Splice(pipe, n int) error {
	for n > 0 {
		buf := make([]byte, n)
		got, err := unix.Read(pipe, buf)
		if err != nil || got == 0 {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
		if _, err := p.File.Write(buf[:got]); err != nil {
			return err
		}
		n -= got
	}
	return nil
}

// pair joins the library's end with ours.
func pair(t *testing.T) (*yamux.Session, *Session, *testPort) {
	t.Helper()
	return pairBy(t, func(host net.Conn) io.ReadWriteCloser { return host })
}

// pairBy is pair with what the host reads and writes by.
func pairBy(t *testing.T, by func(net.Conn) io.ReadWriteCloser) (*yamux.Session, *Session, *testPort) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "host")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	host, err := api.Host(by(conn))
	if err != nil {
		t.Fatal(err)
	}
	port := &testPort{File: os.NewFile(uintptr(fds[1]), "guest")}
	t.Cleanup(func() { host.Close(); port.Close() })
	return host, New(port, api.StreamWindow, 32<<10), port
}

func open(t *testing.T, host *yamux.Session, guest *Session) (*yamux.Stream, *Stream) {
	t.Helper()
	h, err := host.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	g, err := guest.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if h.StreamID() != g.StreamID() {
		t.Fatalf("stream %d, want %d", g.StreamID(), h.StreamID())
	}
	return h, g
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(b)
	return b
}

// cut reads at most few bytes at once, not always as many.
type cut struct {
	net.Conn
	last int
}

func (c *cut) Read(b []byte) (int, error) {
	c.last = c.last%31 + 1
	return c.Conn.Read(b[:min(len(b), c.last)])
}

// What the agent sends is what the host lets pass, wherever it is cut.
func TestHostTakesAll(t *testing.T) {
	host, guest, _ := pairBy(t, func(c net.Conn) io.ReadWriteCloser { return &cut{Conn: c} })
	h, g := open(t, host, guest)
	other, closed := open(t, host, guest)
	want := random(2*api.StreamWindow + 345)
	go func() {
		_, _ = h.Write(want)
		h.Close()
	}()
	go func() {
		_, _ = io.Copy(g, struct{ io.Reader }{g})
		g.Close()
	}()
	got, err := io.ReadAll(h)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
	closed.Close()
	if b, err := io.ReadAll(other); err != nil || len(b) > 0 {
		t.Errorf("the end: %d bytes, %v", len(b), err)
	}
	if host.IsClosed() {
		t.Error("the session has ended")
	}
}

// Several streams, several windows of bytes each, both ways at once.
func TestBothWays(t *testing.T) {
	host, guest, _ := pair(t)
	var wg sync.WaitGroup
	for range 4 {
		h, g := open(t, host, guest)
		want := random(5<<20 + 123)
		for _, way := range []struct {
			from io.WriteCloser
			to   io.Reader
		}{{h, g}, {g, h}} {
			wg.Go(func() {
				if _, err := way.from.Write(want); err != nil {
					t.Errorf("write: %v", err)
				}
				way.from.Close()
			})
			wg.Go(func() {
				got, err := io.ReadAll(way.to)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("read %d bytes, %v; want %d", len(got), err, len(want))
				}
			})
		}
	}
	wg.Wait()
	guest.mu.Lock()
	defer guest.mu.Unlock()
	if len(guest.streams) != 0 {
		t.Errorf("%d streams are kept after their end", len(guest.streams))
	}
}

// An unread stream delays no other.
func TestUnreadStream(t *testing.T) {
	host, guest, _ := pair(t)
	_, stuck := open(t, host, guest)
	written := make(chan error, 1)
	go func() {
		_, err := stuck.Write(make([]byte, 3<<20))
		written <- err
	}()
	h, g := open(t, host, guest)
	for range 100 {
		if _, err := g.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(h, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-written:
		t.Fatalf("more than a window was taken: %v", err)
	default:
	}
	stuck.Close()
	select {
	case err := <-written:
		if !errors.Is(err, ErrClosed) {
			t.Errorf("blocked Write ended with %v, want %v", err, ErrClosed)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close does not wake a blocked Write")
	}
}

// pipe is one that blocks, read end first.
func pipe(t *testing.T) (fds [2]int) {
	t.Helper()
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds
}

func TestSplice(t *testing.T) {
	host, guest, _ := pair(t)
	h, g := open(t, host, guest)
	fds, by := pipe(t), pipe(t)
	if _, err := unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, 1<<20); err != nil {
		t.Fatal(err)
	}
	want := random(1 << 20)
	go func() {
		for range 4 { // more than a window: the host must make room
			if _, err := unix.Write(fds[1], want); err != nil {
				t.Error(err)
			}
			if n, err := g.Splice(fds[0], by, len(want)); n != len(want) || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		}
		g.Close()
	}()
	got, err := io.ReadAll(h)
	if err != nil || !bytes.Equal(got, bytes.Repeat(want, 4)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// Somebody else may read a pipe between its count and the splice. What is sent
// then is what was there, the session lives, and the window is as if only that
// had been asked for.
func TestSpliceOfADrainedPipe(t *testing.T) {
	host, guest, _ := pair(t)
	h, g := open(t, host, guest)
	other, og := open(t, host, guest)
	fds, by := pipe(t), pipe(t)
	const wanted = 32 << 10
	buf := make([]byte, wanted)
	for i, left := range []int{0, 1, 5000, 0, wanted} {
		want := random(left)
		if _, err := unix.Write(fds[1], want); err != nil {
			t.Fatal(err)
		}
		for range 2 * api.StreamWindow / wanted { // were it lost, there would be no window left
			if n, err := g.Splice(fds[0], by, wanted); err != nil || n != left {
				t.Fatalf("%d: %d bytes, %v; want %d", i, n, err, left)
			}
			left = 0
		}
		if _, err := io.ReadFull(h, buf[:len(want)]); err != nil || !bytes.Equal(buf[:len(want)], want) {
			t.Errorf("%d: the host reads something else, %v", i, err)
		}
	}
	if _, err := og.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(other, buf[:4]); err != nil || string(buf[:4]) != "ping" {
		t.Errorf("another stream: %q, %v", buf[:4], err)
	}
}

// A frame is one write to the port as far as it fits: each write is an exit to
// the host.
func TestOneWriteForAFrame(t *testing.T) {
	host, guest, port := pair(t)
	h, g := open(t, host, guest)
	port.mu.Lock()
	before := port.writes
	port.mu.Unlock()
	if _, err := g.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(h, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	port.mu.Lock()
	defer port.mu.Unlock()
	if n := port.writes - before; n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
}

func TestEnds(t *testing.T) {
	host, guest, _ := pair(t)
	h, g := open(t, host, guest)
	h.Close()
	if n, err := g.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the host's Close: %d, %v", n, err)
	}
	if _, err := g.Write([]byte("late")); err != nil {
		t.Errorf("writing after the host's Close: %v; it still may read", err)
	}
	g.Close()
	if _, err := g.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("writing after Close: %v", err)
	}
	_, other := open(t, host, guest)
	host.Close()
	if _, err := other.Read(make([]byte, 1)); err == nil {
		t.Error("reading from a lost session succeeds")
	}
	if _, err := guest.Accept(); err == nil {
		t.Error("a lost session accepts")
	}
}

// A host that breaks the protocol loses the session, and costs no memory.
func TestBrokenHost(t *testing.T) {
	for name, frame := range map[string][]byte{
		"version":        {1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0},
		"type":           {0, 9, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0},
		"too much":       {0, 0, 0, 1, 0, 0, 0, 2, 255, 255, 255, 255},
		"too much, late": {0, 0, 0, 0, 0, 0, 0, 2, 255, 255, 255, 255},
	} {
		t.Run(name, func(t *testing.T) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fds[0])
			port := &testPort{File: os.NewFile(uintptr(fds[1]), "guest")}
			defer port.Close()
			guest := New(port, api.StreamWindow, 32<<10)
			if _, err := unix.Write(fds[0], frame); err != nil {
				t.Fatal(err)
			}
			for deadline := time.After(10 * time.Second); ; {
				got := make(chan error, 1)
				go func() { _, err := guest.Accept(); got <- err }()
				select {
				case err := <-got:
					if err != nil {
						return
					}
				case <-deadline:
					t.Fatal("the session goes on")
				}
			}
		})
	}
}

// A stream that the host has closed and then given up, because this side has not
// closed it, can be read to its end, and not written to.
func TestGivenUpByTheHost(t *testing.T) {
	host, guest := net.Pipe()
	defer host.Close()
	go func() { _, _ = io.Copy(io.Discard, host) }()
	s := New(unsplicedPort{guest}, api.StreamWindow, 32<<10)
	want := random(1000)
	frames := bytes.Join([][]byte{
		{0, typeWindow, 0, flagSYN, 0, 0, 0, 2, 0, 0, 0, 0},
		{0, typeData, 0, 0, 0, 0, 0, 2, 0, 0, 3, 232}, want,
		{0, typeWindow, 0, flagFIN, 0, 0, 0, 2, 0, 0, 0, 0},
		{0, typeWindow, 0, flagRST, 0, 0, 0, 2, 0, 0, 0, 0},
		{0, typeWindow, 0, flagSYN, 0, 0, 0, 4, 0, 0, 0, 0}, // it has read all of it
	}, nil)
	if _, err := host.Write(frames); err != nil {
		t.Fatal(err)
	}
	st, err := s.Accept()
	if err == nil {
		_, err = s.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(st); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes and %v, want %d and the end", len(got), err, len(want))
	}
	if _, err := st.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("writing: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams) != 1 {
		t.Errorf("%d streams, want the other one", len(s.streams))
	}
}

// unsplicedPort is a connection in the port's place.
type unsplicedPort struct{ net.Conn }

func (unsplicedPort) Splice(int, int) error { return errors.ErrUnsupported }
