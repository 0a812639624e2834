// Guest is the program in the containers of tests/network, for what busybox
// cannot do.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

func main() {
	run, ok := map[string]func(args []string) error{"echo": echo, "resolve": resolve, "bind": bind, "serve": serve}[os.Args[1]]
	if !ok {
		fmt.Fprintln(os.Stderr, "no such command")
		os.Exit(2)
	}
	if err := run(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// echo ADDRESS sends datagrams back until it gets one that says "end".
func echo(args []string) error {
	c, err := net.ListenPacket("udp", args[0])
	if err != nil {
		return err
	}
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(buffer[:n], from); err != nil {
			return err
		}
		if string(buffer[:n]) == "end" {
			return nil
		}
	}
}

// resolve udp|tcp SERVER NAME prints the addresses of a name.
func resolve(args []string) error {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, args[0], args[1])
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	addresses, err := r.LookupHost(ctx, args[2])
	if err != nil {
		return err
	}
	for _, a := range addresses {
		fmt.Println(a)
	}
	return nil
}

// bind ADDRESS takes it for UDP and TCP, and says so.
func bind(args []string) error {
	u, err := net.ListenPacket("udp4", args[0])
	if err != nil {
		return err
	}
	defer u.Close()
	l, err := net.Listen("tcp4", args[0])
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println("bound")
	return nil
}

// serve tcp4|tcp6 ADDRESS answers "re: " and what it was sent, when that has
// ended, until that is "end".
func serve(args []string) error {
	l, err := net.Listen(args[0], args[1])
	if err != nil {
		return err
	}
	defer l.Close()
	ended := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			go func() {
				defer c.Close()
				sent, err := io.ReadAll(c)
				if err == nil {
					_, err = c.Write(append([]byte("re: "), sent...))
				}
				if err == nil && string(sent) == "end" {
					ended <- nil
				}
			}()
		}
	}()
	return <-ended
}
