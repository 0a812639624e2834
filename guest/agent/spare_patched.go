//go:build linux && patched

package agent

import "github.com/opencontainers/runc/libcontainer"

// What guest/patches/runc-spare.patch adds to libcontainer.

type spareInit = libcontainer.Spare

func newSpare() (*spareInit, error) { return libcontainer.NewSpare(logLevel) }

// startSpare makes lp of a spare that fits.
func startSpare(lc *libcontainer.Container, lp *libcontainer.Process, init *spareInit) error {
	lp.Spare = init
	return lc.Start(lp)
}
