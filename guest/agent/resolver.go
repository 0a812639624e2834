//go:build linux

package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// Bounds of what programs may ask at once. A question that finds no place is
// dropped, as a busy server does.
const (
	maxQuestions   = 128
	maxConnections = 64
	answerWait     = 20 * time.Second
)

// resolver offers the DNS server at api.Resolver of the container's network
// namespace on the host to the programs of the guest. It listens at a port of
// the kernel's choice, so that a program may have port 53 of all addresses, and
// the kernel leads those who ask port 53 there (divert).
type resolver struct {
	writing sync.Mutex // one question at a time on the stream

	mu      sync.Mutex
	running bool
	stream  stream
	next    uint32
	pending map[uint32]chan []byte
}

func (s *server) Resolver(ctx context.Context, req *api.ResolverRequest) (*api.Empty, error) {
	ctx, cancel := context.WithTimeout(ctx, streamWait)
	defer cancel()
	st, err := s.streams.take(ctx, req.GetStream())
	if err != nil {
		return nil, err
	}
	if err := s.resolver.use(st); err != nil {
		st.Close()
		return nil, err
	}
	return &api.Empty{}, nil
}

// use asks over st from now on, and starts to listen if it is the first.
func (r *resolver) use(st stream) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.running {
		if err := r.listen(); err != nil {
			return fmt.Errorf("resolver: %w", err)
		}
		r.running = true
	}
	if r.stream != nil {
		r.stream.Close()
	}
	r.stream, r.pending = st, map[uint32]chan []byte{}
	go r.receive(st, r.pending)
	return nil
}

// listen takes one port for both protocols.
func (r *resolver) listen() error {
	udp, tcp, err := listenBoth()
	if err != nil {
		return err
	}
	if err := divert(cgroupRoot, uint16(udp.LocalAddr().(*net.UDPAddr).Port)); err != nil {
		return errors.Join(err, udp.Close(), tcp.Close())
	}
	go r.serveUDP(udp)
	go r.serveTCP(tcp)
	return nil
}

func listenBoth() (*net.UDPConn, *net.TCPListener, error) {
	ip := net.ParseIP(api.Resolver)
	for tries := 0; ; tries++ {
		udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip})
		if err != nil {
			return nil, nil, err
		}
		tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: ip, Port: udp.LocalAddr().(*net.UDPAddr).Port})
		if err == nil {
			return udp, tcp, nil
		}
		udp.Close()
		if tries == 10 || !errors.Is(err, unix.EADDRINUSE) {
			return nil, nil, err
		}
	}
}

func (r *resolver) serveUDP(udp *net.UDPConn) {
	places := make(chan struct{}, maxQuestions)
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := udp.ReadFromUDPAddrPort(buffer)
		if err != nil {
			logf("resolver: %v", err)
			return
		}
		select {
		case places <- struct{}{}:
		default:
			continue
		}
		question := append([]byte(nil), buffer[:n]...)
		go func() {
			defer func() { <-places }()
			if answer := r.ask(question, false); len(answer) > 0 {
				_, _ = udp.WriteToUDPAddrPort(answer, from) // who is gone asks no more
			}
		}()
	}
}

func (r *resolver) serveTCP(l *net.TCPListener) {
	places := make(chan struct{}, maxConnections)
	for {
		places <- struct{}{}
		c, err := l.Accept()
		if err != nil {
			logf("resolver: %v", err)
			return
		}
		go func() {
			defer func() { <-places }()
			defer c.Close()
			for r.serveQuestion(c) == nil {
			}
		}()
	}
}

// serveQuestion answers one message of a connection: its length in two bytes
// comes first (RFC 1035, 4.2.2).
func (r *resolver) serveQuestion(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return err
	}
	question := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, question); err != nil {
		return err
	}
	answer := r.ask(question, true)
	if len(answer) == 0 {
		return io.ErrUnexpectedEOF // there is no way to say so but to hang up
	}
	if err := c.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	return err
}

// ask returns the host's answer, nothing if there is none.
func (r *resolver) ask(question []byte, overTCP bool) []byte {
	answer := make(chan []byte, 1)
	r.mu.Lock()
	r.next++
	id, pending, st := r.next, r.pending, r.stream
	pending[id] = answer
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(pending, id)
		r.mu.Unlock()
	}()
	r.writing.Lock()
	err := api.WriteQuery(st, api.Query{ID: id, Stream: overTCP, Message: question})
	r.writing.Unlock()
	if err != nil {
		return nil
	}
	select {
	case a := <-answer:
		return a
	case <-time.After(answerWait):
		return nil
	}
}

// receive hands answers to those who wait, until the stream ends.
func (r *resolver) receive(st stream, pending map[uint32]chan []byte) {
	defer st.Close()
	for {
		q, err := api.ReadQuery(st)
		if err != nil {
			return
		}
		r.mu.Lock()
		if c, ok := pending[q.ID]; ok {
			c <- q.Message
			delete(pending, q.ID)
		}
		r.mu.Unlock()
	}
}
