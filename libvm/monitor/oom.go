//go:build linux

package monitor

import (
	"errors"
	"fmt"
	"os"

	"github.com/runm/runm/libvm/proc"
)

// oomScoreAdj is the one of c's machine, if it has it alone: process.oomScoreAdj,
// which is the container's share of what the host has to decide when memory runs
// out. Where config.json has none, runc leaves what the caller has; but the caller
// may be a daemon that must not be killed, and a machine is a container's memory:
// it is never less likely to be killed than an ordinary process.
func (m *monitor) oomScoreAdj(c *container) int {
	if p := c.state.Spec.Process; p != nil && p.OOMScoreAdj != nil {
		return *p.OOMScoreAdj
	}
	return max(0, m.inherited)
}

// scoreHolder gives c's holder what config.json says, if it does: "If
// `oomScoreAdj` is not set, the runtime MUST NOT change the value" (config.md).
func (m *monitor) scoreHolder(c *container) error {
	if p := c.state.Spec.Process; p == nil || p.OOMScoreAdj == nil {
		return nil
	}
	return c.score(c.state.Holder, *c.state.Spec.Process.OOMScoreAdj)
}

// scoreMachine is called when c has come into a machine that runs, or has gone.
// The machine has the greatest of its containers' scores: a pod's sandbox alone
// has -998 in Kubernetes.
func (m *monitor) scoreMachine(c *container) error {
	if m.guest == nil || len(m.containers) == 0 {
		return nil
	}
	score := -1000
	for _, c := range m.containers {
		score = max(score, m.oomScoreAdj(c))
	}
	return eachProcess(m.guest.machine, func(id proc.ID) error { return c.score(id, score) })
}

// score sets a process's oom_score_adj. What takes a privilege that runm has not
// is a warning: runc, too, goes on without it, where it is not root.
func (c *container) score(id proc.ID, adj int) error {
	err := id.SetOOMScoreAdj(adj)
	switch {
	case errors.Is(err, os.ErrProcessDone):
		return nil // as for eachProcess
	case errors.Is(err, os.ErrPermission):
		c.log.Warnf("process.oomScoreAdj: %d for %v: it takes CAP_SYS_RESOURCE on the host. The host keeps the score that it has.", adj, err)
		return nil
	case err != nil:
		return fmt.Errorf("process.oomScoreAdj: %w", err)
	}
	return nil
}
