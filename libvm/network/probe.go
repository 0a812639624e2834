//go:build linux

package network

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Probe tries what a container's network takes of this host. The error says what
// is missing.
func Probe() error {
	return inNewNamespace(func(ns *Namespace) error {
		r, err := newReader(ns)
		if err != nil {
			return err
		}
		defer r.close()
		taps, err := newTaps(r.handle, 2)
		if err != nil {
			return err
		}
		defer closeTaps(taps)
		return redirect(r.handle, taps[0].link, taps[1].link)
	})
}

// ProbeLoopback tries what ListenLoopback takes.
func ProbeLoopback() error {
	return inNewNamespace(func(ns *Namespace) error {
		l, err := ns.ListenLoopback()
		if err != nil {
			return err
		}
		return l.Close()
	})
}

// inNewNamespace calls f on a thread in a network namespace that ends with it.
func inNewNamespace(f func(*Namespace) error) error {
	home, err := OpenNamespace("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	// A thread in home that may change its namespace: Do brings it back.
	return home.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		ns, err := OpenNamespace("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer ns.Close()
		return f(ns)
	})
}
