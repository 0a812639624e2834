package api

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
)

// A relayed connection is, each way, a row of pieces on its stream: the length
// of each (2 bytes, big endian), then so many bytes. A length of 0 says that no
// more comes this way; a stream that ends without it, that the connection was
// reset.
const (
	sizeofPiece = 2
	maxPiece    = 32<<10 - 64 // with all headers one write to the port
)

// Relay carries a connection over stream until both ways have ended, or either
// side was reset, which then shows on the other side. It closes both, and returns
// when the other side has closed its end of the stream.
func Relay(stream io.ReadWriteCloser, conn *net.TCPConn) {
	defer Hangup(stream)
	defer conn.Close()
	ended := make(chan error, 2)
	go func() { ended <- sendPieces(stream, conn) }()
	go func() { ended <- receivePieces(conn, stream) }()
	for range 2 {
		if err := <-ended; err != nil { // ends the other way too
			Reset(conn)
			stream.Close()
		}
	}
}

// Reset closes a connection so that its other end sees that it is broken.
func Reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // else it ends as if all were well
	conn.Close()
}

// Hangup closes a stream and waits until the other side has done so too: until
// then both keep it.
func Hangup(stream io.ReadWriteCloser) {
	stream.Close()
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{stream})
}

// sendPieces writes what r has, and its end. What breaks r is the error.
func sendPieces(w io.Writer, r io.Reader) error {
	b := make([]byte, sizeofPiece+maxPiece)
	for {
		n, err := r.Read(b[sizeofPiece:])
		if n > 0 {
			binary.BigEndian.PutUint16(b, uint16(n))
			if _, err := w.Write(b[:sizeofPiece+n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			_, err = w.Write(make([]byte, sizeofPiece))
			return err
		}
		if err != nil {
			return err
		}
	}
}

// receivePieces writes to conn what sendPieces has sent, and its end.
func receivePieces(conn *net.TCPConn, r io.Reader) error {
	var length [sizeofPiece]byte
	b := make([]byte, 1<<16-1)
	for {
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return err
		}
		piece := b[:binary.BigEndian.Uint16(length[:])]
		if len(piece) == 0 {
			return conn.CloseWrite()
		}
		if _, err := io.ReadFull(r, piece); err != nil {
			return err
		}
		if _, err := conn.Write(piece); err != nil {
			return err
		}
	}
}
