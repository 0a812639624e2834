//go:build linux && !patched

package agent

import (
	"errors"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// Go's tools see the module's libcontainer, which has no spares; hack/agent.sh
// builds the agent with the patched one.

var errUnpatched = errors.New("libcontainer was built without guest/patches")

type spareInit struct{}

func newSpare() (*spareInit, error) { return nil, errUnpatched }

func (*spareInit) Pid() int                                         { return 0 }
func (*spareInit) End()                                             {}
func (*spareInit) Fits(*configs.Config, *libcontainer.Process) bool { return false }

func startSpare(*libcontainer.Container, *libcontainer.Process, *spareInit) error {
	return errUnpatched
}
