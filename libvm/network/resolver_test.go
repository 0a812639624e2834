//go:build linux

package network

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/runm/runm/guest/api"
)

func TestListens(t *testing.T) {
	const head = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
	ip := net.ParseIP(api.Resolver)
	for line, want := range map[string]bool{
		"": false,
		"  11: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0\n":   false,
		"  11: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0\n":   false,
		"1411: 0B00007F:A2C1 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0\n":   true,
		"  11: 0100007F:0035 0B00007F:A2C1 01 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0\n\n": false,
	} {
		if got := listens(head+line, ip); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// slowServer answers at 127.0.0.11 of ns when it is let, and counts at most how
// many questions it has at once.
type slowServer struct {
	let  chan struct{}
	mu   sync.Mutex
	most int
}

func serveSlowly(t *testing.T, ns *Namespace) *slowServer {
	t.Helper()
	sh(t, ns, "ip link set lo up")
	s := &slowServer{let: make(chan struct{})}
	var c net.PacketConn
	err := ns.Do(func() (err error) {
		c, err = net.ListenPacket("udp4", api.Resolver+":53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buffer)
			if err != nil {
				return
			}
			answer := append([]byte("re: "), buffer[:n]...)
			s.mu.Lock()
			s.most++
			s.mu.Unlock()
			go func() {
				<-s.let
				_, _ = c.WriteTo(answer, from)
			}()
		}
	}()
	return s
}

// TestResolve: a guest that asks without end has so many questions under way
// and no more, and is still answered afterwards.
func TestResolve(t *testing.T) {
	ns := newNamespace(t)
	server := serveSlowly(t, ns)
	host, guest := net.Pipe()
	done := make(chan struct{})
	go func() { ns.Resolve(host); close(done) }()
	for id := range uint32(3 * maxQuestions) {
		if err := api.WriteQuery(guest, api.Query{ID: id, Message: []byte("?")}); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		server.mu.Lock()
		most := server.most
		server.mu.Unlock()
		if most == maxQuestions {
			break
		}
		if time.Now().After(deadline) || most > maxQuestions {
			t.Fatalf("%d questions under way, want %d", most, maxQuestions)
		}
	}
	close(server.let)
	for range maxQuestions {
		q, err := api.ReadQuery(guest)
		if err != nil || string(q.Message) != "re: ?" || q.ID >= 3*maxQuestions {
			t.Fatalf("answer %q to %d, %v", q.Message, q.ID, err)
		}
	}
	// Over TCP there is no server: an answer without a message.
	if err := api.WriteQuery(guest, api.Query{ID: 7, Stream: true, Message: []byte("?")}); err != nil {
		t.Fatal(err)
	}
	if q, err := api.ReadQuery(guest); err != nil || q.ID != 7 || len(q.Message) != 0 {
		t.Errorf("answer %v, %v, want an empty one", q, err)
	}
	// Half a header, and the end.
	if _, err := io.WriteString(guest, "\x00\x00"); err != nil {
		t.Fatal(err)
	}
	guest.Close()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the relay outlives its stream")
	}
}
