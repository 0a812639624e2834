//go:build linux

package control

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMessagesAndFilesCross(t *testing.T) {
	fa, fb, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewConn(fa)
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewConn(fb)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	big := strings.Repeat("x", 1<<20)
	sent := make(chan error, 1)
	go func() { sent <- a.Send(map[string]string{"k": big}, w) }()
	var got map[string]string
	files, err := b.Recv(&got)
	if err != nil || got["k"] != big || len(files) != 1 {
		t.Fatalf("Recv: %v, %d bytes, %d files", err, len(got["k"]), len(files))
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	w.Close()
	io.WriteString(files[0], "through")
	files[0].Close()
	if text, _ := io.ReadAll(r); string(text) != "through" {
		t.Errorf("the pipe carried %q", text)
	}
	a.Close()
	if _, err := b.Recv(&got); !errors.Is(err, io.EOF) {
		t.Errorf("Recv after Close = %v, want io.EOF", err)
	}
}

func TestHostileLengthIsRefused(t *testing.T) {
	fa, fb, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer fa.Close()
	b, err := NewConn(fb)
	if err != nil {
		t.Fatal(err)
	}
	fa.Write([]byte{0xff, 0xff, 0xff, 0xff})
	var got any
	if _, err := b.Recv(&got); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("Recv = %v, want a refusal", err)
	}
}

func TestLongDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 200))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(dir); !errors.Is(err, ErrGone) {
		t.Errorf("Dial without a listener = %v, want ErrGone", err)
	}
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.Close()
	if _, err := Dial(dir); !errors.Is(err, ErrGone) {
		t.Errorf("Dial after the listener's end = %v, want ErrGone", err)
	}
}
