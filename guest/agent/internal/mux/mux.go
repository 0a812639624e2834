//go:build linux

// Package mux is the agent's end of the yamux session with the host: the side
// that accepts streams. The host's end is hashicorp/yamux, and both speak its
// spec.md.
//
// The agent has one of its own because of what output costs a guest under TCG,
// where each copy of a byte is a dozen host instructions: the library copies a
// body twice on its way to the port, and hands it to another goroutine first.
// Here a body is written by who sends it, together with its header, and a
// pipe's content need not enter the agent at all (Stream.Splice).
package mux

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Of yamux's spec.md: a header is version, type, flags (2 bytes), stream id and
// length (4 bytes each), in network order.
const (
	headerSize = 12

	typeData   = 0
	typeWindow = 1
	typeGoAway = 3

	flagSYN = 1
	flagACK = 2
	flagFIN = 4
	flagRST = 8

	// firstWindow is what either side may send on a stream before it is told
	// of more, in bytes.
	firstWindow = 256 << 10
)

// maxStreams bounds the streams of one session, accepted or waiting for it.
const maxStreams = 4096

// ErrClosed: the stream was closed by this side, or reset by the host.
var ErrClosed = errors.New("stream closed")

// A Port is the byte stream below a session. Write takes all of b or fails.
type Port interface {
	io.ReadWriteCloser
	// Splice moves to the host the n bytes that a pipe holds, which nobody else
	// reads, or fails; then the session is lost.
	Splice(pipe, n int) error
}

// A Session is one conversation with the host.
type Session struct {
	port   Port
	window uint32 // what the host may send on a stream unread, in bytes

	// out is held while a frame is written. joined is its buffer, in which a
	// header and the first bytes of its body become one write: a write to the
	// port is an exit to the host.
	out    sync.Mutex
	joined []byte

	mu       sync.Mutex // protects what follows, and the streams
	accepted sync.Cond  // on mu
	streams  map[uint32]*Stream
	waiting  []*Stream // opened by the host, not yet returned by Accept
	err      error     // why the session ended
}

// New begins a session on port. window is how many bytes of one stream the
// host may send unread, at least 256 KiB; write is how many bytes one write to
// the port takes best.
func New(port Port, window uint32, write int) *Session {
	s := &Session{port: port, window: max(window, firstWindow), joined: make([]byte, max(write, 2*headerSize)),
		streams: map[uint32]*Stream{}}
	s.accepted.L = &s.mu
	go s.receive()
	return s
}

// Accept returns the next stream that the host opened.
func (s *Session) Accept() (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) == 0 {
		if s.err != nil {
			return nil, s.err
		}
		s.accepted.Wait()
	}
	st := s.waiting[0]
	s.waiting = s.waiting[1:]
	return st, nil
}

// end loses the session: every stream reads and writes err from here on.
func (s *Session) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.accepted.Broadcast()
	for _, st := range s.streams {
		st.changed.Broadcast()
	}
}

// receive takes frames from the port until the session is lost.
func (s *Session) receive() {
	in := bufio.NewReaderSize(s.port, 64<<10)
	var header [headerSize]byte
	for {
		if _, err := io.ReadFull(in, header[:]); err != nil {
			s.end(err)
			return
		}
		if err := s.frame(in, header[:]); err != nil {
			s.end(err)
			return
		}
	}
}

// frame handles one frame; its body, if it has one, comes next in in.
func (s *Session) frame(in io.Reader, header []byte) error {
	kind, flags := header[1], binary.BigEndian.Uint16(header[2:])
	id, length := binary.BigEndian.Uint32(header[4:]), binary.BigEndian.Uint32(header[8:])
	if header[0] != 0 {
		return fmt.Errorf("yamux version %d", header[0])
	}
	switch kind {
	case typeData, typeWindow:
		st, err := s.stream(id, flags)
		if err != nil {
			return err
		}
		if kind == typeData {
			return st.receive(in, length, flags)
		}
		st.grow(length, flags)
		return nil
	case typeGoAway:
		return io.EOF
	default:
		return fmt.Errorf("yamux frame of type %d", kind)
	}
}

// stream returns the stream that a frame is for, a new one if the frame opens
// it. One that is closed already gets a stand-in, which drops what comes.
func (s *Session) stream(id uint32, flags uint16) (*Stream, error) {
	s.mu.Lock()
	st, known := s.streams[id]
	switch {
	case flags&flagSYN == 0 && known:
		s.mu.Unlock()
		return st, nil
	case flags&flagSYN == 0:
		s.mu.Unlock()
		return newStream(s, id, s.window), nil
	case known || len(s.streams) >= maxStreams:
		s.mu.Unlock()
		return nil, fmt.Errorf("yamux stream %d opened twice, or too many of them", id)
	}
	st = newStream(s, id, firstWindow)
	s.streams[id] = st
	s.waiting = append(s.waiting, st)
	s.accepted.Signal()
	more := s.window - st.mayReceive
	st.mayReceive = s.window
	s.mu.Unlock()
	return st, s.send(typeWindow, flagACK, id, more, nil)
}

// send writes one frame; length is len(body) for data.
func (s *Session) send(kind byte, flags uint16, id, length uint32, body []byte) error {
	s.out.Lock()
	defer s.out.Unlock()
	encode(s.joined, kind, flags, id, length)
	n := headerSize + copy(s.joined[headerSize:], body)
	if _, err := s.port.Write(s.joined[:n]); err != nil {
		s.end(err)
		return err
	}
	if rest := body[n-headerSize:]; len(rest) > 0 {
		if _, err := s.port.Write(rest); err != nil {
			s.end(err)
			return err
		}
	}
	return nil
}

// splice writes one data frame whose body is all that pipe holds: a header cannot
// be taken back, so nobody else may read from pipe.
func (s *Session) splice(id uint32, pipe, n int) error {
	s.out.Lock()
	defer s.out.Unlock()
	encode(s.joined, typeData, 0, id, uint32(n))
	_, err := s.port.Write(s.joined[:headerSize])
	if err == nil {
		err = s.port.Splice(pipe, n)
	}
	if err != nil {
		s.end(err)
	}
	return err
}

func encode(to []byte, kind byte, flags uint16, id, length uint32) {
	to[0], to[1] = 0, kind
	binary.BigEndian.PutUint16(to[2:], flags)
	binary.BigEndian.PutUint32(to[4:], id)
	binary.BigEndian.PutUint32(to[8:], length)
}
