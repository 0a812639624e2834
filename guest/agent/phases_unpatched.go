//go:build linux && !patched

package agent

import (
	"context"

	"github.com/opencontainers/runc/libcontainer"
)

// phases is for the patched libcontainer.
func phases(context.Context, *libcontainer.Container, *libcontainer.Process) (done func()) {
	return nothing
}
