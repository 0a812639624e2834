//go:build linux

package monitor

import (
	"context"
	"errors"
	"time"

	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/vmm"
)

const (
	// idleMost is what a machine that does nothing may use of the processor in
	// clockEvery.
	idleMost = 300 * time.Millisecond
	// execRest is for how many times clockEvery there must have been no exec. Who
	// probes a container now and then does not wait each time until the VMM has made
	// again what was given back (docs/drivers.md).
	execRest = 10
	// trimStep bounds how long a guest may take to do what a trim needs of it.
	trimStep = 5 * time.Second
)

// idleness watches how much a machine does. Its zero value watches nothing.
type idleness struct {
	m     *monitor
	trims vmm.Trimmer // nil: there is nothing to give back
	vmm   proc.ID
	// What there was when it was last looked at.
	used  time.Duration
	execs int64
	rest  int // how often an idle machine is still left alone
}

// newIdleness begins to watch the machine, if it has anything to give back.
func (m *monitor) newIdleness() *idleness {
	trims, can := m.guest.machine.(vmm.Trimmer)
	p, is := m.guest.machine.(vmm.Processes)
	if !can || !is {
		return &idleness{}
	}
	id, err := proc.Child(p.Pids()[0])
	if err != nil {
		return &idleness{} // it has ended
	}
	i := &idleness{m: m, vmm: id, trims: trims}
	i.idle()
	return i
}

// idle says whether the machine did nothing since it was last asked, and no exec
// for longer.
func (i *idleness) idle() bool {
	used, err := i.vmm.Used()
	if err != nil {
		return false
	}
	worked := used-i.used > idleMost
	i.used = used
	switch execs := i.m.execs.Load(); {
	case execs != i.execs:
		i.execs, i.rest = execs, execRest
	case i.rest > 0:
		i.rest--
	}
	return !worked && i.rest == 0
}

// trim gives back what an idle machine has for speed alone.
func (i *idleness) trim() {
	if i.trims == nil || !i.idle() {
		return
	}
	err := i.m.vcpus.running(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), trimStep)
		defer cancel()
		return i.trims.Trim(ctx)
	})
	switch {
	case err == nil, errors.Is(err, errStands), !i.vmm.Alive(): // of its end others tell
	case errors.Is(err, context.DeadlineExceeded):
		i.m.log.Debug("the guest did not wake up to give memory back: ", err)
	default:
		i.trims = nil
		i.m.log.Warn("an idle machine does not give memory back: ", err)
	}
}
