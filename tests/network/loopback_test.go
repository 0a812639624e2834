//go:build linux

package network

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dial connects in the namespace.
func (n netns) dial(address string) (conn *net.TCPConn, err error) {
	err = n.do(func() error {
		c, err := net.DialTimeout("tcp", address, soon)
		if err == nil {
			conn = c.(*net.TCPConn)
			err = c.SetDeadline(time.Now().Add(commandTime))
		}
		return err
	})
	return conn, err
}

// ask sends text, ends its side, and returns all that comes back.
func (n netns) ask(address, text string) (string, error) {
	conn, err := n.dial(address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	// Of a connection that was reset meanwhile reading tells.
	if err := conn.CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// TestLoopback: who connects to 127.0.0.1 or ::1 inside the container's network
// namespace, as `kubectl port-forward` does through containerd, reaches the
// container's loopback.
func TestLoopback(t *testing.T) {
	l := newLab(t)
	ns := l.netns()
	ns.sh("ip link set lo up")
	ns.plug("eth0", "10.77.0.2/24")
	c := l.container(ns.path)
	c.run()
	defer c.background("guest serve tcp4 127.0.0.1:80")()
	defer c.background("guest serve tcp6 [::1]:81")()
	defer c.background("guest serve tcp4 10.77.0.2:82")()
	for _, port := range []int{80, 81, 82} {
		c.waitListens(port)
	}
	defer func() {
		for _, address := range []string{"127.0.0.1:80", "[::1]:81"} {
			if _, err := ns.ask(address, "end"); err != nil {
				t.Error(err)
			}
		}
		_, err := l.out.ask("10.77.0.2:82", "end")
		l.must(err)
	}()

	// The server answers when it has read to the end: half of the connection
	// is closed then.
	for _, address := range []string{"127.0.0.1:80", "[::1]:81", "127.0.0.1:81", "[::1]:80"} {
		if answer, err := ns.ask(address, "hello"); answer != "re: hello" || err != nil {
			t.Errorf("%s: %q, %v", address, answer, err)
		}
	}
	big := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	if answer, err := ns.ask("127.0.0.1:80", big); answer != "re: "+big || err != nil {
		t.Errorf("%d bytes of %d, %v", len(answer), 4+len(big), err)
	}

	// Nobody is at these ports of the container's loopback, and its other
	// addresses are not meant.
	for _, address := range []string{"127.0.0.1:82", "[::1]:82", "127.0.0.1:9", "127.0.0.2:80"} {
		began := time.Now()
		answer, err := ns.ask(address, "hello")
		if !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
			t.Errorf("%s: %q, %v", address, answer, err)
		}
		if waited := time.Since(began); waited > soon {
			t.Errorf("%s: only after %v", address, waited)
		}
	}
	if _, err := ns.dial(resolverIP + ":80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%s is Docker's, or nobody's: %v", resolverIP, err)
	}

	var all sync.WaitGroup
	for i := range 100 { // more than there are places
		all.Go(func() {
			want := fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i)}))
			if answer, err := ns.ask("127.0.0.1:80", want); answer != "re: "+want || err != nil {
				t.Errorf("one of many: %q, %v", answer, err)
			}
		})
	}
	all.Wait()
}

// TestLoopbackEnds: a connection ends with the container, or with the monitor,
// and then nobody has the namespace's loopback.
func TestLoopbackEnds(t *testing.T) {
	for name, end := range map[string]func(*container){
		"deleted": func(c *container) { c.must(c.try("delete", "--force", c.id).err) },
		"monitor killed": func(c *container) {
			c.must(unix.Kill(c.monitor(c.id), unix.SIGKILL))
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			ns := l.netns()
			ns.sh("ip link set lo up")
			c := l.container(ns.path)
			c.spec.Process.Args = []string{"/bin/guest", "serve", "tcp4", "127.0.0.1:80"}
			c.run()
			c.waitListens(80)
			conn, err := ns.dial("127.0.0.1:80")
			l.must(err)
			defer conn.Close()
			end(c)
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("an open connection: %v", err)
			}
			l.waitFor("a refusal", func() bool {
				_, err := ns.ask("127.0.0.1:80", "hello")
				return errors.Is(err, unix.ECONNREFUSED)
			})
		})
	}
}

// TestLoopbackPaused: who connects to a paused container has the answer when it
// goes on.
func TestLoopbackPaused(t *testing.T) {
	l := newLab(t)
	ns := l.netns()
	ns.sh("ip link set lo up")
	c := l.container(ns.path)
	c.spec.Process.Args = []string{"/bin/guest", "serve", "tcp4", "127.0.0.1:80"}
	c.run()
	c.waitListens(80)
	l.must(c.try("pause", c.id).err)
	conn, err := ns.dial("127.0.0.1:80")
	l.must(err)
	defer conn.Close()
	_, err = io.WriteString(conn, "hello")
	l.must(errors.Join(err, conn.CloseWrite(), conn.SetReadDeadline(time.Now().Add(time.Second))))
	if got, err := io.ReadAll(conn); len(got) > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("paused: %q, %v", got, err)
	}
	l.must(errors.Join(c.try("resume", c.id).err, conn.SetReadDeadline(time.Now().Add(soon))))
	if got, err := io.ReadAll(conn); string(got) != "re: hello" || err != nil {
		t.Errorf("resumed: %q, %v", got, err)
	}
}
