//go:build linux

package monitor

import (
	"context"
	"errors"
	"time"

	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/vmm"
)

// idleMost is what a machine that does nothing may use of the processor in
// clockEvery. A probe of 0.1 s every ten seconds is more, and does not have to wait
// each time until the VMM has made again what was given back.
const idleMost = 300 * time.Millisecond

// trimStep bounds how long a guest may take to do what a trim needs of it.
const trimStep = 5 * time.Second

// idleness watches how much a machine does. Its zero value watches nothing.
type idleness struct {
	m     *monitor
	vmm   proc.ID
	used  time.Duration // when it was last looked at
	trims vmm.Trimmer
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

// idle says whether the machine did nothing since it was last asked.
func (i *idleness) idle() bool {
	used, err := i.vmm.Used()
	if err != nil {
		return false
	}
	before := i.used
	i.used = used
	return used-before <= idleMost
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
	case err == nil, errors.Is(err, errStands):
	case errors.Is(err, context.DeadlineExceeded):
		i.m.log.Debug("the guest did not wake up to give memory back: ", err)
	default:
		i.trims = nil
		i.m.log.Warn("an idle machine does not give memory back: ", err)
	}
}
