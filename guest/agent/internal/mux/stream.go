//go:build linux

package mux

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Stream is one stream of a session. Reading and writing may go on at the
// same time; so may several writers, whose frames then alternate.
type Stream struct {
	session *Session
	id      uint32

	// All below is protected by session.mu.
	changed    sync.Cond
	unread     []byte // what the host sent
	mayReceive uint32 // what the host may send now, in bytes
	mayGrant   uint32 // what was read and the host was not told of
	maySend    uint32 // what the host would take now, in bytes
	hostEnded  bool   // the host has sent its last byte
	ended      bool   // we have
	reset      bool
}

var _ net.Conn = (*Stream)(nil)

func newStream(s *Session, id, window uint32) *Stream {
	st := &Stream{session: s, id: id, mayReceive: window, maySend: firstWindow}
	st.changed.L = &s.mu
	return st
}

// StreamID is the stream's number in the session.
func (st *Stream) StreamID() uint32 { return st.id }

var errWindow = errors.New("the host sent more than it may")

// receive takes a data frame's body.
func (st *Stream) receive(in io.Reader, length uint32, flags uint16) error {
	s := st.session
	s.mu.Lock()
	if length > st.mayReceive {
		s.mu.Unlock()
		return fmt.Errorf("stream %d: %w", st.id, errWindow)
	}
	s.mu.Unlock()
	body := make([]byte, length)
	if _, err := io.ReadFull(in, body); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.mayReceive -= length
	if len(st.unread) == 0 {
		st.unread = body
	} else {
		st.unread = append(st.unread, body...)
	}
	st.flags(flags)
	return nil
}

// grow takes a window update.
func (st *Stream) grow(delta uint32, flags uint16) {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	st.maySend += delta
	st.flags(flags)
}

// flags notes the end that a frame carries. session.mu is held.
func (st *Stream) flags(flags uint16) {
	if flags&(flagFIN|flagRST) != 0 {
		st.hostEnded = true
		st.reset = st.reset || flags&flagRST != 0
		st.forget()
	}
	st.changed.Broadcast()
}

// forget frees the id once nothing more can come or go. session.mu is held.
func (st *Stream) forget() {
	if st.session.streams[st.id] == st && (st.reset || st.hostEnded && st.ended) {
		delete(st.session.streams, st.id)
	}
}

// Read blocks until the host has sent something, or its end (io.EOF).
func (st *Stream) Read(b []byte) (int, error) {
	s := st.session
	s.mu.Lock()
	for len(st.unread) == 0 && !st.hostEnded && s.err == nil && len(b) > 0 {
		st.changed.Wait()
	}
	n := copy(b, st.unread)
	st.unread = st.unread[n:]
	if len(st.unread) == 0 {
		st.unread = nil
	}
	st.mayGrant += uint32(n)
	var grant uint32
	if st.mayGrant >= s.window/2 && !st.hostEnded {
		grant, st.mayGrant = st.mayGrant, 0
		st.mayReceive += grant
	}
	err := s.err
	s.mu.Unlock()
	switch {
	case grant > 0:
		return n, s.send(typeWindow, 0, st.id, grant, nil)
	case n > 0 || len(b) == 0:
		return n, nil
	case err != nil:
		return 0, err
	default:
		return 0, io.EOF
	}
}

// giveBack ends the reservation of n bytes that were not sent.
func (st *Stream) giveBack(n int) {
	if n == 0 {
		return
	}
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	st.maySend += uint32(n)
	st.changed.Broadcast()
}

// reserve blocks until some of n bytes may be sent and returns how many.
func (st *Stream) reserve(n int) (int, error) {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for st.maySend == 0 && !st.ended && !st.reset && s.err == nil {
		st.changed.Wait()
	}
	switch {
	case s.err != nil:
		return 0, s.err
	case st.ended || st.reset:
		return 0, ErrClosed
	}
	n = int(min(int64(n), int64(st.maySend)))
	st.maySend -= uint32(n)
	return n, nil
}

// Write blocks until all of b is on its way to the host.
func (st *Stream) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := st.reserve(len(b) - done)
		if err != nil {
			return done, err
		}
		if err := st.session.send(typeData, 0, st.id, uint32(n), b[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// Splice sends at most n bytes of pipe, without waiting for any that are not in
// it, and returns how many were sent: less than n when somebody else has read
// from pipe, or with an error. What was not sent still is in pipe then, unless
// the session is lost.
//
// by is an empty pipe that nobody else has, read end first: a frame's body goes
// through it. Only then its length is certain; and who has pipe can hold up
// what is done with it, but not what is done with the session.
func (st *Stream) Splice(pipe int, by [2]int, n int) (int, error) {
	done := 0
	for done < n {
		part, err := st.reserve(n - done)
		if err != nil {
			return done, err
		}
		got, err := gather(pipe, by[1], part)
		st.giveBack(part - got)
		if got == 0 || err != nil {
			return done, err
		}
		if err := st.session.splice(st.id, by[0], got); err != nil {
			return done, err
		}
		done += got
	}
	return done, nil
}

// gather moves at most n bytes from one pipe to another and returns how many
// there were.
func gather(from, to, n int) (int, error) {
	for {
		moved, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch err {
		case nil:
			return int(moved), nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
		default:
			return 0, os.NewSyscallError("splice", err)
		}
	}
}

// Close sends the end and wakes blocked writers. What the host still sends can
// be read. Closing again does nothing.
func (st *Stream) Close() error {
	s := st.session
	s.mu.Lock()
	if st.ended || st.reset || s.err != nil {
		s.mu.Unlock()
		return nil
	}
	st.ended = true
	st.forget()
	st.changed.Broadcast()
	s.mu.Unlock()
	return s.send(typeWindow, flagFIN, st.id, 0, nil)
}

// addr is both ends' address.
type addr struct{}

func (addr) Network() string { return "port" }
func (addr) String() string  { return "host" }

// LocalAddr implements net.Conn.
func (st *Stream) LocalAddr() net.Addr { return addr{} }

// RemoteAddr implements net.Conn.
func (st *Stream) RemoteAddr() net.Addr { return addr{} }

// The deadlines of net.Conn are not supported: a paused machine answers nothing
// for as long as it is paused.

// SetDeadline implements net.Conn.
func (st *Stream) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline implements net.Conn.
func (st *Stream) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline implements net.Conn.
func (st *Stream) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }
