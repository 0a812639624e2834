package api

import (
	"bytes"
	"testing"
)

// FuzzQuery: what is written is read, and nothing that is read panics or is
// longer than it says.
func FuzzQuery(f *testing.F) {
	f.Add(uint32(1), true, []byte("question"))
	f.Add(uint32(0), false, []byte{})
	f.Fuzz(func(t *testing.T, id uint32, stream bool, message []byte) {
		var b bytes.Buffer
		if err := WriteQuery(&b, Query{ID: id, Stream: stream, Message: message}); err != nil {
			if len(message) < 1<<16 {
				t.Fatal(err)
			}
			return
		}
		q, err := ReadQuery(&b)
		if err != nil || q.ID != id || q.Stream != stream || !bytes.Equal(q.Message, message) || b.Len() != 0 {
			t.Fatalf("got %v, %v and %d bytes more", q, err, b.Len())
		}
		if q, err := ReadQuery(bytes.NewReader(message)); err == nil && len(q.Message) > len(message)-sizeofQueryHeader {
			t.Fatalf("%d bytes of message out of %d", len(q.Message), len(message))
		}
	})
}
