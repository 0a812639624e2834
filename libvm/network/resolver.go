//go:build linux

package network

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/runm/runm/guest/api"
)

// Bounds of what a guest can make the host do: so many questions at a time, and
// so long for each. Docker's server takes 4 s for each server that it asks.
const (
	maxQuestions = 64
	questionTime = 15 * time.Second
)

// FindResolver reports whether somebody serves DNS in the namespace as Docker
// does: by a UDP socket at 127.0.0.11, of any port, to which rules of the
// namespace lead port 53. That server asks others from the namespace, and from
// now on their answers find it: its sockets get ports of a range of their own,
// whose DNS answers are not the machine's. After an error it is to be called again.
func (n *Network) FindResolver() (found bool, err error) {
	err = n.ns.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/udp")
		if err != nil {
			return fmt.Errorf("sockets of the namespace: %w", err)
		}
		found = listens(string(text), net.ParseIP(api.Resolver))
		if !found || n.resolving {
			return nil
		}
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(ownPortsRange), 0)
	})
	if err != nil || !found || n.resolving {
		return found, err
	}
	for _, c := range n.nics {
		if c.link != nil {
			err = errors.Join(err, exempt(n.reader.handle, c.link, c.tap))
		}
	}
	// With an error the next call does the rest.
	n.resolving = err == nil
	return true, err
}

// listens looks in /proc/net/udp for a socket bound to ip. An address is there
// as a number in hexadecimal, in the byte order of this machine.
func listens(table string, ip net.IP) bool {
	want := fmt.Sprintf("%08X:", native.Uint32(ip.To4()))
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], want) {
			return true
		}
	}
	return false
}

// Resolve answers the guest's DNS questions on stream, which it closes, until
// the stream ends. A question goes to port 53 of 127.0.0.11 in the namespace
// and nowhere else; the guest chooses what is asked, not whom.
func (n *Namespace) Resolve(stream io.ReadWriteCloser) {
	var writing sync.Mutex
	answer := func(q api.Query, message []byte) {
		writing.Lock()
		defer writing.Unlock()
		// The end of the stream shows in ReadQuery.
		_ = api.WriteQuery(stream, api.Query{ID: q.ID, Stream: q.Stream, Message: message})
	}
	defer stream.Close()
	in := bufio.NewReader(stream)
	places := make(chan struct{}, maxQuestions)
	for {
		q, err := api.ReadQuery(in)
		if err != nil {
			return
		}
		select {
		case places <- struct{}{}:
		default:
			continue // as a busy server does
		}
		go func() {
			defer func() { <-places }()
			message, err := n.ask(q)
			if err != nil {
				message = nil
			}
			answer(q, message)
		}()
	}
}

// ask puts one question to the namespace's server.
func (n *Namespace) ask(q api.Query) ([]byte, error) {
	network := "udp4"
	if q.Stream {
		network = "tcp4"
	}
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = net.DialTimeout(network, net.JoinHostPort(api.Resolver, "53"), questionTime)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(questionTime)); err != nil {
		return nil, err
	}
	if q.Stream {
		return exchangeTCP(c, q.Message)
	}
	if _, err := c.Write(q.Message); err != nil {
		return nil, err
	}
	buffer := make([]byte, 1<<16-1)
	size, err := c.Read(buffer)
	return buffer[:size], err
}

// exchangeTCP asks over a connection, where the length comes first (RFC 1035,
// 4.2.2).
func exchangeTCP(c net.Conn, question []byte) ([]byte, error) {
	if len(question) >= 1<<16 {
		return nil, errors.New("DNS message too long")
	}
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	if _, err := c.Write(framed); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(c, answer)
	return answer, err
}
