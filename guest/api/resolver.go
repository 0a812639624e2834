package api

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Resolver is where Docker's DNS server is in a container's network namespace,
// and where the agent offers it in the guest.
const Resolver = "127.0.0.11"

// Query is a DNS message on the Resolver stream: from the guest a question, from
// the host the answer with the same ID. An answer without a Message means that
// there is none.
//
// On the stream it is ID (4 bytes), Stream (1), the length of Message (2), all
// big endian, and Message: at most 64 KiB, as DNS has it (RFC 1035, 4.2.2).
type Query struct {
	ID uint32
	// Stream: the question came over TCP, and is asked so.
	Stream  bool
	Message []byte
}

// sizeofQueryHeader is that of what stands before Message.
const sizeofQueryHeader = 7

// WriteQuery writes q in one piece. Message must be shorter than 64 KiB.
func WriteQuery(w io.Writer, q Query) error {
	if len(q.Message) >= 1<<16 {
		return fmt.Errorf("DNS message of %d bytes", len(q.Message))
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, sizeofQueryHeader+len(q.Message)), q.ID)
	var stream byte
	if q.Stream {
		stream = 1
	}
	b = append(b, stream)
	b = binary.BigEndian.AppendUint16(b, uint16(len(q.Message)))
	_, err := w.Write(append(b, q.Message...))
	return err
}

// ReadQuery reads what WriteQuery wrote.
func ReadQuery(r io.Reader) (Query, error) {
	var h [sizeofQueryHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return Query{}, err
	}
	q := Query{
		ID: binary.BigEndian.Uint32(h[:]), Stream: h[4] != 0,
		Message: make([]byte, binary.BigEndian.Uint16(h[5:])),
	}
	_, err := io.ReadFull(r, q.Message)
	return q, err
}
