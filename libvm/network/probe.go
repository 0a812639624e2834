//go:build linux

package network

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Probe tries, in a network namespace that ends with it, what a container's
// network takes of this host. The error says what is missing.
func Probe() error {
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
