package api

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// Streams that the host has closed are not kept for a guest that never closes
// them, and neither is what it has sent on them.
func TestStreamsThatTheGuestKeeps(t *testing.T) {
	config := streamConfig()
	if limit := config.StreamCloseTimeout; limit <= 0 || limit > time.Minute {
		t.Errorf("they are kept for %v, want at most a minute", limit)
	}
	config.StreamCloseTimeout = min(config.StreamCloseTimeout, 50*time.Millisecond)
	ours, theirs := net.Pipe()
	host, err := yamux.Server(&frames{ReadWriteCloser: ours}, config)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	keeps := yamux.DefaultConfig()
	keeps.EnableKeepAlive, keeps.LogOutput = false, io.Discard
	guest, err := yamux.Client(theirs, keeps)
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	go func() {
		for {
			st, err := guest.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = st.Write(make([]byte, 64<<10)) }()
		}
	}()
	const many = 50
	for range many {
		st, err := host.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		st.Close()
		read := make(chan error, 1)
		go func() { _, err := io.Copy(io.Discard, st); read <- err }()
		select {
		case err := <-read:
			if err != nil {
				t.Errorf("who reads it gets %v, want its end", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("who reads it never gets its end")
		}
	}
	// Who reads the last one may get its end before the session forgets it.
	for deadline := time.Now().Add(10 * time.Second); host.NumStreams() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d streams are kept", host.NumStreams(), many)
		}
	}
	if host.IsClosed() {
		t.Error("the session has ended")
	}
}
