//go:build linux

package network

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTraffic: TCP, UDP and ICMP, IPv4 and IPv6, between container and
// container, outside and container, and by a published port, as Docker has them:
// a bridge, and rules on the host that change the destination. What is sent
// arrives as it was sent, whoever finishes its checksums.
func TestTraffic(t *testing.T) {
	l := newLab(t)
	// A host: its bridge is l.out's, and behind it is a client's machine.
	client := l.netns()
	l.out.sh(`ip link add up0 type veth peer name eth0 netns ` + client.path + `
		ip addr add 192.0.2.1/24 dev up0; ip link set up0 up
		echo 1 >/proc/sys/net/ipv4/ip_forward
		nft add table ip nat
		nft 'add chain ip nat pre { type nat hook prerouting priority -100; }'
		nft 'add chain ip nat post { type nat hook postrouting priority 100; }'
		nft add rule ip nat pre ip daddr 192.0.2.1 tcp dport 8080 dnat to 10.77.0.2:80
		nft add rule ip nat pre ip daddr 192.0.2.1 udp dport 8053 dnat to 10.77.0.2:53
		nft add rule ip nat post ip saddr 10.77.0.0/24 oif up0 masquerade`)
	client.sh("ip link set lo up; ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up")

	var pair [2]*container
	for i := range pair {
		ns := l.netns()
		ns.plug("eth0", fmt.Sprintf("10.77.0.%d/24", i+2), fmt.Sprintf("fd00:77::%d/64", i+2))
		ns.sh("ip route add default via 10.77.0.1; ip -6 route add default via fd00:77::1")
		pair[i] = l.container(ns.path)
		pair[i].run()
	}
	server, other := pair[0], pair[1]
	ping(client, "192.0.2.1")
	ping(server, "10.77.0.1", "10.77.0.3", "192.0.2.2", "fd00:77::3")

	// Not a multiple of anything, and nothing that compresses or repeats.
	data := make([]byte, 3<<20+17)
	state := sha256.Sum256(nil)
	for i := 0; i < len(data); i += copy(data[i:], state[:]) {
		state = sha256.Sum256(state[:])
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	l.must(os.WriteFile(filepath.Join(server.bundle, "rootfs/tmp/data"), data, 0o644))

	for name, c := range map[string]struct {
		from    netns
		address string
	}{
		"from a published port": {client, "192.0.2.1:8080"},
		"from the host":         {l.out, "10.77.0.2:80"},
		"from the host by IPv6": {l.out, "[fd00:77::2]:80"},
	} {
		listening := server.background("nc -l -p 80 </tmp/data")
		var got string
		l.must(c.from.do(func() (err error) {
			got, err = receive(c.address)
			return err
		}))
		if got != sum {
			t.Errorf("%s: what arrives is not what was sent", name)
		}
		listening()
	}

	for _, address := range []string{"10.77.0.1", "fd00:77::1"} {
		toHost(server, address, sum)
	}
	for _, address := range []string{"10.77.0.3", "fd00:77::3"} {
		toContainer(server, other, address, sum)
	}
	datagrams(client, server, "192.0.2.1:8053")
	datagrams(l.out, server, "[fd00:77::2]:53")
	// What the machine has sent and received is counted.
	r := l.try("events", "--stats", server.id)
	l.must(r.err)
	l.contains(r.stdout, `"network_interfaces":[{"Name":"eth0","RxBytes":`)
}

// toHost: the container sends /tmp/data to an address of the bridge.
func toHost(c *container, address, sum string) {
	c.t.Helper()
	var received chan string
	c.must(c.out.do(func() (err error) {
		received, err = acceptOne(net.JoinHostPort(address, "9000"))
		return err
	}))
	c.sh("nc -w 5 " + address + " 9000 </tmp/data")
	if got := <-received; got != sum {
		c.t.Errorf("to the host, %s: what arrives is not what was sent: %s", address, got)
	}
}

// toContainer: one container sends /tmp/data to another.
func toContainer(from, to *container, address, sum string) {
	from.t.Helper()
	received := to.background("nc -l -p 81 -e sh -c 'cat >/tmp/got'")
	to.waitListens(81)
	from.sh("nc -w 5 " + address + " 81 </tmp/data")
	received()
	if got := strings.Fields(to.sh("sha256sum /tmp/got"))[0]; got != sum {
		from.t.Errorf("to another container, %s: what arrives is not what was sent: %s", address, got)
	}
}

// datagrams: UDP to an address and port of the container's, and back.
func datagrams(client netns, server *container, address string) {
	server.t.Helper()
	ended := server.background("guest echo :53")
	var answer string
	server.must(client.do(func() (err error) {
		if answer, err = echo(address, "a datagram"); err != nil {
			return err
		}
		_, err = echo(address, "end")
		return err
	}))
	if answer != "a datagram" {
		server.t.Errorf("UDP to %s: answer %q", address, answer)
	}
	ended()
}

// background runs a script in the container; the function that it returns
// waits for its end.
func (c *container) background(script string) (wait func()) {
	c.t.Helper()
	done := make(chan result, 1)
	go func() { done <- c.try("exec", c.id, "sh", "-c", script) }()
	return func() {
		c.t.Helper()
		if r := <-done; r.err != nil {
			c.t.Error(r.err)
		}
	}
}

// waitListens waits until somebody in the container listens at a TCP port.
func (c *container) waitListens(port int) {
	c.t.Helper()
	c.waitFor(fmt.Sprintf("port %d", port), func() bool {
		return strings.Contains(c.sh("cat /proc/net/tcp /proc/net/tcp6"), fmt.Sprintf(":%04X ", port))
	})
}

// receive connects, until somebody listens, and returns the hash of what comes.
func receive(address string) (string, error) {
	for deadline := time.Now().Add(soon); ; time.Sleep(again) {
		conn, err := net.DialTimeout("tcp", address, soon)
		if err == nil {
			defer conn.Close()
			return hashAll(conn)
		}
		if time.Now().After(deadline) {
			return "", err
		}
	}
}

func hashAll(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(commandTime)); err != nil {
		return "", err
	}
	h := sha256.New()
	_, err := io.Copy(h, conn)
	return fmt.Sprintf("%x", h.Sum(nil)), err
}

// acceptOne listens and delivers the hash of what one connection brings.
func acceptOne(address string) (chan string, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	received := make(chan string, 1)
	go func() {
		defer listener.Close()
		conn, err := listener.Accept()
		if err != nil {
			received <- err.Error()
			return
		}
		defer conn.Close()
		hash, err := hashAll(conn)
		if err != nil {
			hash = err.Error()
		}
		received <- hash
	}()
	return received, nil
}

// echo sends a datagram until it comes back.
func echo(address, text string) (string, error) {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	buffer := make([]byte, 1500)
	for deadline := time.Now().Add(soon); ; {
		if _, err := conn.Write([]byte(text)); err != nil {
			return "", err
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return "", err
		}
		n, err := conn.Read(buffer)
		if err == nil || time.Now().After(deadline) {
			return string(buffer[:n]), err
		}
		time.Sleep(again) // refused: nobody listens yet
	}
}
