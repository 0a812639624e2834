//go:build linux

package agent

import (
	"context"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
)

// A spare is an init that runs before its container is known. The zero spare is
// none. It is for the first container alone: what a template saves is the time
// of a machine's first init, whose code TCG has not translated yet.
type spare struct {
	reap *reaper

	mu   sync.Mutex
	init *spareInit // nil: none, or none any more
}

// start starts the spare.
func (s *spare) start() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reap.begin()
	pid := 0
	defer func() { s.reap.end(pid) }()
	if s.init, err = newSpare(); err != nil {
		return err
	}
	pid = s.init.Pid()
	return nil
}

// take returns the spare if lp can be made of it, and nil otherwise; then there
// is none any more. The caller starts lp with it, or ends it.
func (s *spare) take(lc *libcontainer.Container, lp *libcontainer.Process) *spareInit {
	s.mu.Lock()
	init := s.init
	s.init = nil
	s.mu.Unlock()
	if init == nil {
		return nil
	}
	if config := lc.Config(); !init.Fits(&config, lp) {
		s.end(init)
		return nil
	}
	return init
}

// end kills a spare that was taken.
func (s *spare) end(init *spareInit) {
	init.End()
	s.reap.waited(init.Pid())
}

// startInit starts the container's init.
func (c *container) startInit(ctx context.Context, lp *libcontainer.Process) error {
	init := c.spare.take(c.lc, lp)
	if init == nil {
		return c.lc.Start(lp)
	}
	defer span(ctx, "made of the spare")()
	err := startSpare(c.lc, lp, init)
	if err != nil {
		c.spare.end(init)
	}
	return err
}
