//go:build linux

package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// resolverIP is where Docker's DNS server is.
const resolverIP = "127.0.0.11"

// TestResolver: the DNS server at 127.0.0.11 of the namespace serves the guest,
// by UDP and TCP, and nothing else of the namespace's loopback does. Port 53 of
// all addresses is still the container's.
func TestResolver(t *testing.T) {
	l := newLab(t)
	ns := l.netns()
	ns.plug("eth0", "10.77.0.2/24")
	ns.sh("ip link set lo up")
	server := l.serveDNS(ns, resolverIP, answer)
	other := &atomic.Int32{}
	l.must(ns.do(func() error { return countConnections(l, resolverIP+":80", other) }))

	c := l.container(ns.path)
	c.run()
	// As resolv.conf of Docker has it.
	c.sh("echo nameserver " + resolverIP + " >/etc/resolv.conf")
	l.contains(c.sh("nslookup web.example "+resolverIP), "10.9.8.7")
	l.contains(c.sh("ping -c 1 -W 1 web.example; true"), "(10.9.8.7)")
	for _, network := range []string{"udp", "tcp"} {
		l.contains(c.sh("guest resolve "+network+" "+resolverIP+":53 web.example"), "10.9.8.7")
	}
	if server.udp.Load() == 0 || server.tcp.Load() == 0 {
		t.Errorf("the server was asked %d times by UDP and %d times by TCP", server.udp.Load(), server.tcp.Load())
	}
	l.contains(c.sh("nslookup nonsuch.example "+resolverIP+" 2>&1; true"), "NXDOMAIN")
	l.contains(c.sh("guest bind 0.0.0.0:53"), "bound")
	l.contains(c.sh("guest bind 127.0.0.11:53"), "bound")
	for _, port := range []int{80, 54} {
		if r := c.try("exec", c.id, "nc", "-w", "2", resolverIP, fmt.Sprint(port)); r.err == nil {
			t.Errorf("port %d of %s in the namespace is reached", port, resolverIP)
		}
	}
	if n := other.Load(); n != 0 {
		t.Errorf("%d connections to another port", n)
	}
	// Many at once, more than there are places, end; those who ask again are
	// answered.
	out := c.sh(`i=0; while [ $i -lt 40 ]; do guest resolve udp ` + resolverIP + `:53 web.example & i=$((i+1)); done; wait`)
	if n := strings.Count(out, "10.9.8.7"); n != 40 {
		t.Errorf("%d of 40 have an answer", n)
	}
}

// TestResolverLater: the server comes with the first network that has one, on a
// running container.
func TestResolverLater(t *testing.T) {
	l := newLab(t)
	c := l.container("")
	c.run()
	if r := c.try("exec", c.id, "guest", "resolve", "tcp", resolverIP+":53", "web.example"); r.err == nil {
		t.Errorf("without a server: %s", r.stdout)
	}
	ns := c.netns()
	ns.sh("ip link set lo up")
	l.serveDNS(ns, resolverIP, answer)
	ns.plug("eth0", "10.77.0.2/24")
	l.waitFor("an answer", func() bool {
		r := c.try("exec", c.id, "guest", "resolve", "tcp", resolverIP+":53", "web.example")
		return strings.Contains(r.stdout, "10.9.8.7")
	})
}

// TestResolverAsksOthers: as Docker's server does for names that are not
// containers', from a socket in the namespace. The answer finds it, and what else
// comes from port 53 is the container's.
func TestResolverAsksOthers(t *testing.T) {
	l := newLab(t)
	ns := l.netns()
	ns.plug("eth0", "10.77.0.2/24", "fd00:77::2/64")
	ns.sh("ip link set lo up")
	outside := l.serveDNS(l.out, "10.77.0.1", answer)
	six := l.serveDNS(l.out, "fd00:77::1", answer)
	var asked []byte
	l.serveDNS(ns, resolverIP, func(question []byte) []byte {
		asked = append([]byte(nil), question...)
		return forward(ns, "10.77.0.1:53", question)
	})
	c := l.container(ns.path)
	c.run()
	l.contains(c.sh("guest resolve udp "+resolverIP+":53 web.example"), "10.9.8.7")
	l.contains(c.sh("guest resolve tcp "+resolverIP+":53 web.example"), "10.9.8.7")
	if outside.udp.Load() == 0 {
		t.Error("the outer server was not asked")
	}
	if got := forward(ns, "[fd00:77::1]:53", asked); len(got) == 0 || six.udp.Load() == 0 {
		t.Error("by IPv6 there is no answer")
	}
	// The container asks the outer server itself.
	l.contains(c.sh("guest resolve udp 10.77.0.1:53 web.example; guest resolve tcp 10.77.0.1:53 web.example"), "10.9.8.7\n10.9.8.7")
}

// forward asks a server by UDP from the namespace.
func forward(ns netns, server string, question []byte) (answer []byte) {
	_ = ns.do(func() error {
		c, err := net.Dial("udp", server)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
			return err
		}
		if _, err := c.Write(question); err != nil {
			return err
		}
		buffer := make([]byte, 1<<16)
		n, err := c.Read(buffer)
		answer = buffer[:n]
		return err
	})
	return answer
}

// dnsServer counts who asks.
type dnsServer struct {
	udp, tcp atomic.Int32
	answer   func(question []byte) []byte
}

// serveDNS serves port 53 of an address in ns until the end of the test.
func (l *lab) serveDNS(ns netns, at string, answer func([]byte) []byte) *dnsServer {
	l.t.Helper()
	s := &dnsServer{answer: answer}
	l.must(ns.do(func() error {
		udp, err := net.ListenPacket("udp", net.JoinHostPort(at, "53"))
		if err != nil {
			return err
		}
		tcp, err := net.Listen("tcp", net.JoinHostPort(at, "53"))
		if err != nil {
			return err
		}
		l.t.Cleanup(func() { _ = errors.Join(udp.Close(), tcp.Close()) })
		go s.serveUDP(udp)
		go s.serveTCP(tcp)
		return nil
	}))
	return s
}

func (s *dnsServer) serveUDP(c net.PacketConn) {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buffer)
		if err != nil {
			return
		}
		s.udp.Add(1)
		_, _ = c.WriteTo(s.answer(buffer[:n]), from)
	}
}

func (s *dnsServer) serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.tcp.Add(1)
		go func() {
			defer c.Close()
			var length [2]byte
			for {
				if _, err := io.ReadFull(c, length[:]); err != nil {
					return
				}
				question := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(c, question); err != nil {
					return
				}
				a := s.answer(question)
				if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...)); err != nil {
					return
				}
			}
		}()
	}
}

// answer answers a DNS message with one question (RFC 1035, 4.1).
func answer(question []byte) []byte {
	const header = 12
	end := header
	for end < len(question) && question[end] != 0 {
		end += int(question[end]) + 1
	}
	end += 1 + 4 // the root, type and class
	if end > len(question) {
		return nil
	}
	a := append([]byte(nil), question[:end]...)
	a[2], a[3] = 0x81, 0x80 // an answer, recursion desired and available
	copy(a[4:header], []byte{0, 1, 0, 0, 0, 0, 0, 0})
	kind := binary.BigEndian.Uint16(a[end-4:])
	switch {
	case !strings.Contains(string(a[header:end]), "\x03web\x07example"):
		a[3] |= 3 // NXDOMAIN
	case kind == 1: // A
		a[7] = 1
		a = append(a, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9, 8, 7)
	}
	return a
}

// countConnections counts those who connect to address, until the end of the
// test.
func countConnections(l *lab, address string, count *atomic.Int32) error {
	listener, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	l.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			c.Close()
		}
	}()
	return nil
}
