package api

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"testing/iotest"
	"time"
)

// frame is one as yamux has it, with a body of length bytes if it is data.
func frame(version, kind byte, flags uint16, id, length uint32) []byte {
	b := make([]byte, frameHeader, frameHeader+16)
	b[0], b[1] = version, kind
	binary.BigEndian.PutUint16(b[2:], flags)
	binary.BigEndian.PutUint32(b[4:], id)
	binary.BigEndian.PutUint32(b[8:], length)
	if kind == frameData && length <= StreamWindow {
		b = append(b, make([]byte, length)...)
	}
	return b
}

// stream is a guest that has said b; nobody writes to it.
func stream(r io.Reader) *frames {
	return &frames{ReadWriteCloser: struct {
		io.Reader
		io.WriteCloser
	}{r, nil}}
}

func TestForbiddenFrames(t *testing.T) {
	const flagRST = 8
	fine := bytes.Join([][]byte{
		frame(0, frameWindow, flagACK, 2, 768<<10), frame(0, frameData, 0, 2, 5), frame(0, frameData, 0, 2, 0),
		frame(0, frameWindow, 0, 4, 512<<10), frame(0, frameData, 0, 6, StreamWindow), frame(0, frameWindow, flagFIN, 2, 0),
	}, nil)
	for name, bad := range map[string][]byte{
		"ping":              frame(0, framePing, flagSYN, 0, 1),
		"ping's answer":     frame(0, framePing, flagACK, 0, 1),
		"go-away":           frame(0, frameGoAway, 0, 0, 0),
		"type":              frame(0, 4, 0, 2, 0),
		"version":           frame(1, frameData, 0, 2, 0),
		"new stream":        frame(0, frameWindow, flagSYN, 3, 0),
		"new stream's data": frame(0, frameData, flagSYN, 3, 4),
		"accepted and new":  frame(0, frameWindow, flagACK|flagSYN, 2, 0),
		"reset":             frame(0, frameWindow, flagRST, 2, 0),
		"unknown flag":      frame(0, frameWindow, 1<<15, 2, 0),
		"end with data":     frame(0, frameData, flagFIN, 2, 1),
		"window":            frame(0, frameData, 0, 2, StreamWindow+1),
		"all of 32 bits":    frame(0, frameData, 0, 2, 1<<32-1),
	} {
		said := append(bytes.Clone(fine), append(bad, fine...)...)
		f := stream(bytes.NewReader(said))
		got, err := io.ReadAll(f)
		if !errors.Is(err, ErrFrame) || !bytes.Equal(got, fine) {
			t.Errorf("%s: %d bytes, %v; want the %d before it", name, len(got), err, len(fine))
		}
		if n, err := f.Read(make([]byte, 1)); n != 0 || !errors.Is(err, ErrFrame) {
			t.Errorf("%s: read again: %d, %v", name, n, err)
		}
	}
	got, err := io.ReadAll(stream(iotest.OneByteReader(bytes.NewReader(fine))))
	if err != nil || !bytes.Equal(got, fine) {
		t.Errorf("%d bytes, %v; want all %d", len(got), err, len(fine))
	}
}

// A guest that writes and never reads costs no goroutines, and its session ends.
func TestFloodOfFrames(t *testing.T) {
	for name, one := range map[string][]byte{
		"pings":   frame(0, framePing, flagSYN, 0, 7),
		"streams": frame(0, frameWindow, flagSYN, 1, 0),
	} {
		host, guest := net.Pipe()
		before := runtime.NumGoroutine()
		s, err := Host(host)
		if err != nil {
			t.Fatal(err)
		}
		_ = guest.SetDeadline(time.Now().Add(time.Minute))
		_, err = guest.Write(bytes.Repeat(one, 1000))
		if n := runtime.NumGoroutine() - before; n > 2 { // yamux's own
			t.Errorf("%s: %d goroutines", name, n)
		}
		if err == nil {
			t.Errorf("%s: all were read", name)
		} else if _, err := s.Accept(); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: the session ended with %v", name, err)
		}
		guest.Close()
		s.Close()
	}
}

// However what the guest says is cut, as much is passed on, and that is a row of
// frames that the agent may send.
func FuzzFrames(f *testing.F) {
	f.Add(frame(0, frameData, 0, 2, 100), uint16(7))
	f.Add(append(frame(0, frameWindow, flagACK, 2, 768<<10), frame(0, framePing, flagSYN, 0, 0)...), uint16(13))
	f.Add(append(frame(0, frameData, 0, 2, 3), frame(0, frameData, 0, 2, StreamWindow+1)...), uint16(1))
	f.Fuzz(func(t *testing.T, said []byte, cut uint16) {
		whole, wholeErr := io.ReadAll(stream(bytes.NewReader(said)))
		size := int(cut)%64 + 1
		var parts bytes.Buffer
		_, partsErr := io.CopyBuffer(struct{ io.Writer }{&parts}, struct{ io.Reader }{stream(bytes.NewReader(said))}, make([]byte, size))
		if !bytes.HasPrefix(said, whole) || !bytes.HasPrefix(parts.Bytes(), whole) || errors.Is(wholeErr, ErrFrame) != errors.Is(partsErr, ErrFrame) {
			t.Fatalf("%d bytes and %v at once, %d and %v by %d", len(whole), wholeErr, parts.Len(), partsErr, size)
		}
		// Of the frame that ended it, a header that was cut may be among the parts.
		if more := parts.Len() - len(whole); more >= frameHeader || partsErr == nil && more != 0 {
			t.Fatalf("%d bytes more by %d", more, size)
		}
		rest := whole
		for len(rest) >= frameHeader {
			body, err := checkFrame(rest)
			if err != nil {
				t.Fatalf("passed on: %v", err)
			}
			rest = rest[frameHeader:]
			rest = rest[min(len(rest), int(body)):]
		}
		if wholeErr == nil && len(whole) != len(said) {
			t.Fatalf("%d of %d bytes, and no error", len(whole), len(said))
		}
	})
}

// BenchmarkFrames is what looking at the frames costs, of a guest that sends
// output by the pipe's 64 KiB.
func BenchmarkFrames(b *testing.B) {
	said := bytes.Repeat(frame(0, frameData, 0, 2, 64<<10), 16)
	buf := make([]byte, 64<<10)
	for name, read := range map[string]func(io.Reader) io.Reader{
		"bare":    func(r io.Reader) io.Reader { return r },
		"checked": func(r io.Reader) io.Reader { return stream(r) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(said)))
			for b.Loop() {
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{read(bytes.NewReader(said))}, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
