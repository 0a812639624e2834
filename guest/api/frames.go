package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrFrame: the guest has sent a frame that no agent sends.
var ErrFrame = errors.New("the guest broke the protocol")

// Of yamux's spec.md: a header is version, type, flags (2 bytes), stream id and
// length (4 bytes each), in network order.
const (
	frameHeader = 12

	frameData   = 0
	frameWindow = 1
	framePing   = 2
	frameGoAway = 3

	flagSYN = 1
	flagACK = 2
	flagFIN = 4
)

// frames is the host's end of the byte stream below yamux. The library answers
// each ping with a goroutine of its own, and keeps every stream that the other
// side opens: a guest that sends many of either and reads nothing would have the
// host hold as many. The agent sends neither, so what it never sends is an error
// here, and the session's end, before the library sees it.
type frames struct {
	io.ReadWriteCloser
	header [frameHeader]byte
	have   int    // bytes of header that were read
	body   uint32 // bytes of the frame's body that are to come
	err    error  // what was wrong with a frame
}

// Read reads what the guest sent, up to the first frame that it may not send.
// That frame's header may have been read in part.
func (f *frames) Read(b []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.ReadWriteCloser.Read(b)
	if fine := f.follow(b[:n]); f.err != nil {
		return fine, f.err
	}
	return n, err
}

// follow goes through b and returns how much of it may be passed on.
func (f *frames) follow(b []byte) int {
	done := 0
	for done < len(b) {
		if f.body > 0 {
			n := min(int(f.body), len(b)-done)
			f.body -= uint32(n)
			done += n
			continue
		}
		n := copy(f.header[f.have:], b[done:])
		f.have += n
		if f.have < frameHeader {
			return done + n
		}
		f.have = 0
		if f.body, f.err = checkFrame(f.header[:]); f.err != nil {
			return done
		}
		done += n
	}
	return done
}

// checkFrame returns the length of the body that follows a header of the agent's
// (guest/agent/internal/mux): data has no flags, a window update may accept a
// stream, or end it.
func checkFrame(header []byte) (body uint32, err error) {
	version, kind, flags := header[0], header[1], binary.BigEndian.Uint16(header[2:])
	length := binary.BigEndian.Uint32(header[8:])
	switch {
	case version != 0:
		return 0, fmt.Errorf("%w: yamux version %d", ErrFrame, version)
	case kind == framePing:
		return 0, fmt.Errorf("%w: a ping", ErrFrame)
	case kind == frameGoAway:
		return 0, fmt.Errorf("%w: a go-away", ErrFrame)
	case kind > frameGoAway:
		return 0, fmt.Errorf("%w: a frame of type %d", ErrFrame, kind)
	case flags&flagSYN != 0:
		return 0, fmt.Errorf("%w: a stream that the host did not open", ErrFrame)
	case kind == frameWindow && flags&^(flagACK|flagFIN) != 0, kind == frameData && flags != 0:
		return 0, fmt.Errorf("%w: flags %#x in a frame of type %d", ErrFrame, flags, kind)
	case kind == frameWindow:
		return 0, nil
	case length > StreamWindow:
		return 0, fmt.Errorf("%w: %d bytes at once, more than the window of %d", ErrFrame, length, StreamWindow)
	default:
		return length, nil
	}
}
