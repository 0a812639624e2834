//go:build linux

package network

import (
	"io"
	"net"
	"strings"
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

// TestFindResolverAgain: an interface that could not be told to leave DNS answers
// to the namespace is told the next time, and none twice.
func TestFindResolverAgain(t *testing.T) {
	ns, g, n := connectedGuest(t, 2)
	sh(t, ns, `ip link add eth0 type veth peer name x; ip addr add 10.1.0.2/24 dev eth0; ip link set eth0 up
		ip link add eth1 type veth peer name y; ip addr add 10.2.0.2/24 dev eth1; ip link set eth1 up`)
	if err := n.Sync(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	close(serveSlowly(t, ns).let)
	sh(t, ns, "tc qdisc del dev eth0 ingress")
	if found, err := n.FindResolver(); !found || err == nil {
		t.Errorf("with an interface that is not redirected: %v, %v, want an error", found, err)
	}
	sh(t, ns, "tc qdisc add dev eth0 ingress")
	for range 2 {
		if found, err := n.FindResolver(); !found || err != nil {
			t.Fatalf("%v, %v", found, err)
		}
		for _, name := range []string{"eth0", "eth1"} {
			got := sh(t, ns, "tc filter show dev "+name+" ingress")
			// The ports, on UDP and TCP over IPv4 and IPv6.
			if n := strings.Count(got, "match 0035ff00/ffffff00"); n != 4 {
				t.Errorf("%d exceptions for DNS answers on %s, want 4: %s", n, name, got)
			}
		}
	}
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
