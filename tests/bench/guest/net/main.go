//go:build linux

// Net is the other end of the network's measure: the init of a bare machine, or
// a container's process. It serves port 7, TCP and UDP.
package main

import (
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

const (
	address = ":7"
	block   = 128 << 10
)

func main() {
	err := error(nil)
	if os.Getenv("BARE") != "" {
		err = configure("eth0", [4]byte{10, 78, 0, 2})
	}
	if err == nil {
		err = serve()
	}
	fmt.Fprintln(os.Stderr, "net:", err)
	os.Exit(1)
}

// configure gives an interface an address of class A and turns it on.
func configure(name string, ip [4]byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := ifr.SetInet4Addr(ip[:]); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr); err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

func serve() error {
	udp, err := net.ListenPacket("udp4", address)
	if err != nil {
		return err
	}
	go echo(udp)
	tcp, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	for {
		c, err := tcp.Accept()
		if err != nil {
			return err
		}
		go stream(c.(*net.TCPConn))
	}
}

func echo(c net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(buffer[:n], from)
	}
}

// stream does what the first byte says: read to the end, or write until nobody
// reads.
func stream(c *net.TCPConn) {
	defer c.Close()
	buffer := make([]byte, block)
	if _, err := io.ReadFull(c, buffer[:1]); err != nil {
		return
	}
	for err := error(nil); err == nil; {
		if buffer[0] == 'r' {
			_, err = c.Read(buffer[1:])
		} else {
			_, err = c.Write(buffer)
		}
	}
}
