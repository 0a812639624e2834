//go:build linux

package monitor

import (
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/console"
)

// streams is a guest that accepts all streams and leaves them alone.
func streams(t *testing.T) *guest {
	t.Helper()
	ours, theirs := net.Pipe()
	host, err := api.Host(ours)
	if err != nil {
		t.Fatal(err)
	}
	config := yamux.DefaultConfig()
	config.EnableKeepAlive, config.LogOutput = false, io.Discard
	inside, err := yamux.Client(theirs, config)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for err := error(nil); err == nil; {
			_, err = inside.Accept()
		}
	}()
	t.Cleanup(func() { host.Close(); inside.Close() })
	return &guest{session: host, opening: make(chan struct{}, 1)}
}

// While somebody reads stdin its descriptor stays that, whoever closes it: the
// number of a closed one is the next file's. A read that blocks, because what
// was there went to another reader, delays nobody.
func TestCloseWhileStdinIsRead(t *testing.T) {
	pty, err := console.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Master.Close()
	slave := int(pty.Slave.Fd())
	// One byte makes such a terminal readable, and the read waits for two.
	term, err := unix.IoctlGetTermios(slave, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	term.Cc[unix.VMIN], term.Cc[unix.VTIME] = 2, 255
	if err := unix.IoctlSetTermios(slave, unix.TCSETS, term); err != nil {
		t.Fatal(err)
	}
	s, err := newStdio(t.Context(), streams(t), []*os.File{pty.Slave}, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	readable := func() (n int) {
		if n, err = unix.IoctlGetInt(slave, unix.TIOCINQ); err != nil || time.Now().After(deadline) {
			t.Fatalf("%d bytes in the terminal, %v", n, err)
		}
		runtime.Gosched()
		return n
	}
	if _, err := pty.Master.Write([]byte("1")); err != nil {
		t.Fatal(err)
	}
	for readable() == 0 {
	}
	s.run()
	for readable() != 0 { // until read(2) has taken it
	}
	s.close()
	if _, err := unix.FcntlInt(uintptr(slave), unix.F_GETFD, 0); err != nil {
		t.Errorf("the descriptor is closed while it is read from: %v", err)
	}
	if _, err := pty.Master.Write([]byte("2")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.read:
	case <-time.After(10 * time.Second):
		t.Fatal("stdin is still read")
	}
	// And then it is closed: the master hears that there is no slave.
	hungUp := make(chan error, 1)
	go func() { _, err := io.ReadAll(pty.Master); hungUp <- err }()
	select {
	case <-hungUp:
	case <-time.After(10 * time.Second):
		t.Fatal("the terminal stays open")
	}
}
