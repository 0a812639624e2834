//go:build linux

package monitor

import (
	"context"
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/cgroup"
	"github.com/runm/runm/libvm/plan"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/store"
)

// The machine is in the cgroup of one of its containers, the payer: the first
// one's, and when that ends its heir's.

// overhead is the memory in bytes that the host's limit must allow beyond the
// container's own: the rest of the guest's memory and the VMM, which both are in
// the payer's cgroup.
func (m *monitor) overhead(c *container, spec *specs.Spec) int64 {
	if c != m.payer {
		return cgroup.VMMMemoryBytes // plenty for a holder
	}
	return max(0, c.state.GuestMemoryBytes-memoryLimit(spec)) + cgroup.VMMMemoryBytes
}

// memoryLimit is a container's in bytes, 0 for none.
func memoryLimit(spec *specs.Spec) int64 {
	if spec.Linux == nil || spec.Linux.Resources == nil {
		return 0
	}
	return plan.MemoryLimit(spec.Linux.Resources.Memory)
}

// heir is the oldest container but the payer, nil if there is none that is not
// just being created.
func (m *monitor) heir() *container {
	var heir *container
	for _, c := range m.containers {
		if c != m.payer && c.create == nil && (heir == nil || c.state.Created.Before(heir.state.Created)) {
			heir = c
		}
	}
	return heir
}

// moveMachine puts the machine into the cgroup of c, so that the payer's can be
// removed.
func (m *monitor) moveMachine(c *container) error {
	m.payer = c
	c.state.OverheadBytes = m.overhead(c, c.state.Spec)
	cg, err := m.cgroupOf(c.state)
	if err != nil {
		return err
	}
	if err := cg.Limit(); err != nil {
		return err
	}
	c.cgroup = cg
	if err := c.dir.Save(c.state); err != nil {
		return err
	}
	return eachProcess(m.guest.machine, func(id proc.ID) error { return enter(cg, id) })
}

// enter puts one of the machine's processes into a cgroup, unless it has ended.
func enter(cg hostCgroup, id proc.ID) error {
	err := cg.Join(id.Pid)
	if errors.Is(err, unix.ESRCH) || err != nil && !id.Alive() { // systemd has errors of its own
		return nil
	}
	return err
}

// hostCgroup is a container's cgroup on the host: a cgroup.Cgroup but in tests.
type hostCgroup interface {
	Join(pid int) error
	Limit() error
	Pids() ([]int, error)
	Paths() map[string]string
	OutOfMemory(ctx context.Context) error
	Destroy() error
}

// cgroupOf is the cgroup on the host that s describes.
func cgroupOf(s *store.State) (hostCgroup, error) {
	over := cgroup.Overhead{MemoryBytes: s.OverheadBytes, Threads: cgroup.VMMThreads}
	return cgroup.New(s.ID, plan.HostSpec(s.Spec), s.Systemd, over, s.CgroupPaths)
}

// outOfMemory shows on the host that the guest was out of memory, as long as the
// container's client watches: until its holder ends. Where it has paid for a
// machine that goes on, the memory is still charged to its cgroup, whose limit
// cannot be lowered then.
func (c *container) outOfMemory(paid bool) {
	if paid {
		c.log.Warn("the container's client will not hear that it was out of memory: the pod's machine was in its cgroup")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := c.cgroup.OutOfMemory(ctx); err != nil {
		c.log.Warn("the container's client will not hear that it was out of memory: ", err)
	}
}
