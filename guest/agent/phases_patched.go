//go:build linux && patched

package agent

import (
	"context"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"

	"github.com/runm/runm/guest/api"
)

// What guest/patches/runc-trace.patch adds to libcontainer.

// phases has the start of lp recorded with the call. done is called when
// it has been started.
func phases(ctx context.Context, lc *libcontainer.Container, lp *libcontainer.Process) (done func()) {
	r := recorderOf(ctx)
	if r == nil {
		return nothing
	}
	lp.Phases = &libcontainer.Phases{}
	return func() {
		r.addPhases(lp.Phases.Parent, false)
		// Where time has an offset of its own, init's clock is not the agent's.
		if config := lc.Config(); !config.Namespaces.Contains(configs.NEWTIME) {
			r.addPhases(lp.Phases.Init, true)
		}
		lp.Phases = nil
	}
}

func (r *recorder) addPhases(list []libcontainer.Phase, init bool) {
	for _, p := range list {
		r.add(&api.Span{Name: p.Name, Begin: p.Begin, End: p.End, Init: init})
	}
}
