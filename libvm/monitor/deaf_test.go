//go:build linux

package monitor

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/runm/runm/guest/api"
)

// deaf is a guest that does not read its port until hears is closed.
func deaf(t *testing.T) (g *guest, hears chan struct{}) {
	t.Helper()
	ours, theirs := net.Pipe()
	session, err := api.Host(ours)
	if err != nil {
		t.Fatal(err)
	}
	hears = make(chan struct{})
	go func() {
		<-hears
		_, _ = io.Copy(io.Discard, theirs)
	}()
	t.Cleanup(func() {
		theirs.Close()
		session.Close()
	})
	return &guest{session: session, opening: make(chan struct{}, 1)}, hears
}

// A guest that does not read its port holds nobody who wants a stream longer than
// that one's patience, and costs no more however often it is tried.
func TestOpenStreamOfADeafGuest(t *testing.T) {
	g, hears := deaf(t)
	try := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		tried := make(chan error, 1)
		go func() {
			_, err := newStdio(ctx, g, []*os.File{devNull(t), devNull(t), devNull(t)}, false, nil)
			tried <- err
		}()
		select {
		case err := <-tried:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("it waits after its deadline")
			return nil
		}
	}
	if err := try(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	before := runtime.NumGoroutine()
	for range 20 {
		if err := try(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	}
	if more := runtime.NumGoroutine() - before; more > 10 {
		t.Errorf("%d goroutines more after 20 attempts", more)
	}
	close(hears)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := g.open(ctx); err != nil {
		t.Errorf("once the guest reads: %v", err)
	}
}

func devNull(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
