//go:build linux

// Package network connects a machine to the interfaces of a network namespace.
//
// The namespace is the container's on the host: its client (CNI, netavark,
// Docker) puts interfaces, addresses and routes into it and goes on believing
// that the container is there. Each interface is paired with a tap, whose other
// end is a NIC of the machine, and what arrives at one leaves by the other (tc:
// ingress, u32, mirred). The guest's NIC is given the interface's name, MAC,
// MTU, addresses, routes and neighbours, by rtnetlink messages made here that
// the agent hands to its kernel.
//
// docs/network.md describes it.
package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is an open network namespace.
type Namespace struct{ file *os.File }

// OpenNamespace opens the namespace at path, a file of nsfs. The caller closes
// it.
func OpenNamespace(path string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return &Namespace{f}, nil
}

// Close gives the descriptor back. The namespace lives as long as others hold
// it.
func (n *Namespace) Close() error { return n.file.Close() }

// Do calls f on a thread that is in the namespace.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("own network namespace: %w", err)
			return
		}
		defer unix.Close(home)
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("join network namespace: %w", err)
			return
		}
		err = f()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			// Else the thread ends here: one in a foreign namespace must not
			// be used by others.
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func (n *Namespace) handle() netns.NsHandle { return netns.NsHandle(n.file.Fd()) }

// IsOurs reports whether path is the network namespace of this process: the
// host's. A path that leads nowhere is nobody's.
func IsOurs(path string) (bool, error) {
	var ours, theirs unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &ours); err != nil {
		return false, fmt.Errorf("own network namespace: %w", err)
	}
	err := unix.Stat(path, &theirs)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return ours.Dev == theirs.Dev && ours.Ino == theirs.Ino, nil
}
