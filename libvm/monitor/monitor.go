//go:build linux

// Package monitor is the host process that owns one machine: its share, its
// VMM, its network, and the containers in it, each with its control socket and
// its files for input and output. There is one container but in a pod.
//
// One goroutine owns the state (Main's loop); what takes time runs beside it
// and reports. What must be undone is undone by the monitor, because the
// commands may be killed at any time. What dies with the monitor, and is
// therefore never left behind, is its mount namespace, its children
// (PDEATHSIG) and its open files.
package monitor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/network"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/share"
	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/libvm/trace"
	"github.com/runm/runm/libvm/vmm"
)

// Arg0 is the name under which runm is this process.
const Arg0 = "runm-monitor"

// Descriptors the monitor is started with: those of its first container.
const (
	fdCreate = 3 + iota
	fdHolder
	fdStdio // stdin, stdout, stderr; or the slave of the terminal and twice /dev/null
)

// grace bounds how long a process that was killed may take to end.
const grace = 10 * time.Second

// monitor is the machine and its containers. Only the owner's goroutine
// touches what has no lock of its own.
type monitor struct {
	// setup is that of the first container, which the machine was made for.
	setup   *Setup
	driver  vmm.Driver
	log     *logrus.Logger
	staging *share.Staging // nil until booted
	guest   *guest         // nil until booted
	wiring  *wiring        // nil without NICs, and until booted
	vcpus   vcpus

	containers map[string]*container
	payer      *container // the one whose cgroup the machine is in
	cgroupOf   func(*store.State) (hostCgroup, error)
	execs      atomic.Int64 // counts up, names execs
	inherited  int          // oom_score_adj of this process, which is of the caller of create

	requests chan request
	results  chan func() // run by the owner
	// joined is closed when the first holder is in its cgroup.
	joined chan struct{}
	// namespace gets the holder's network namespace, if the machine has NICs.
	namespace chan *network.Namespace
	failed    bool // the first container never came to be
	// shareDir is where staging is mounted.
	shareDir string
	ended    bool // the machine, or it is about to
}

// NewDriver makes the driver of a setup; main chooses which there are.
type NewDriver func(s *Setup) vmm.Driver

// Main is the monitor's life. It returns when nothing is left to own.
func Main(newDriver NewDriver) int {
	proc.SetName(Arg0)
	create, err := control.NewConn(os.NewFile(fdCreate, "create"))
	if err != nil {
		return 1
	}
	began := trace.Now()
	fail := func(err error) int {
		_ = create.Send(Step{Kind: StepFailed, Error: err.Error()})
		return 1
	}
	var setup Setup
	received, err := create.Recv(&setup)
	if err != nil {
		return fail(err)
	}
	recorder, _ := setup.Trace.recorder(received)
	if recorder != nil {
		recorder.Add(laneOwner, "process started", setup.Trace.Began, began)
		recorder.Add(laneOwner, "setup received", began, trace.Now())
	}
	var files []*os.File
	n := stdioFiles(setup.Plan.Guest.Process.Terminal)
	for fd := fdStdio; fd < fdStdio+3; fd++ {
		if fd-fdStdio < n {
			files = append(files, os.NewFile(uintptr(fd), "stdio"))
		} else {
			unix.Close(fd)
		}
		unix.CloseOnExec(fd)
	}
	// What leaked into create must not live as long as the container.
	if err := proc.CloseLeaked(fdStdio + 3); err != nil {
		return fail(err)
	}
	hold, err := control.NewConn(os.NewFile(fdHolder, "holder"))
	if err != nil {
		return fail(err)
	}
	score, err := proc.OOMScoreAdj()
	if err != nil {
		return fail(err)
	}
	m := &monitor{
		setup: &setup, driver: newDriver(&setup), containers: map[string]*container{}, cgroupOf: cgroupOf, inherited: score,
		requests: make(chan request), results: make(chan func(), 16),
		joined: make(chan struct{}), namespace: make(chan *network.Namespace, 1),
	}
	c := newContainer(&setup, create, hold, recorder)
	m.admit(c, files, func() (*made, error) { return m.boot(c, files) })
	m.own()
	if err := m.removeShare(); err != nil {
		c.log.Error(err)
	}
	if m.failed {
		return 1
	}
	return 0
}

// own is the owner's loop: it ends with the last container.
func (m *monitor) own() {
	for len(m.containers) > 0 {
		select {
		case r := <-m.requests:
			m.handle(r)
		case f := <-m.results:
			f()
		}
	}
}

// beginGuest is called once, when the machine has booted.
func (m *monitor) beginGuest(b *made) {
	m.guest = b.guest
	if b.network != nil {
		m.wiring = m.wire(b.network)
	}
	clock, err := newAlarm()
	if err != nil {
		m.log.Warn("the guest's clock does not follow the host's: ", err)
	} else {
		go m.keepTime(clock)
	}
	gone := m.guest.gone
	go func() {
		err := <-gone
		gone <- err // whoever else waits sees it too
		clock.close()
		m.results <- func() { m.machineGone(err) }
	}()
}

// machineGone ends the containers of a machine that has ended under them.
func (m *monitor) machineGone(err error) {
	for _, c := range m.containers {
		switch {
		case c.create != nil:
			m.fail(c, withConsole(err, m.guest.machine))
		case c.end != nil: // it had ended in time
			m.finish(c, *c.end)
		default:
			c.log.WithField("console", consoleTail(m.guest.machine.Console())).Warn("the machine has ended: ", err)
			m.finish(c, ended{status: killed})
		}
	}
}

// removeShare takes the staging directory away, once the machine has ended.
func (m *monitor) removeShare() error {
	if m.shareDir == "" {
		return nil
	}
	if err := share.Remove(m.shareDir); err != nil {
		return err
	}
	if err := os.Remove(m.shareDir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("staging directory: %w", err)
	}
	return nil
}

// endMachine ends everything that containers share. The last one's end does.
func (m *monitor) endMachine() {
	if m.ended {
		return
	}
	m.ended = true
	closed := make(chan struct{})
	go func() { // some of both is waiting in the kernel
		defer close(closed)
		m.wiring.close()
	}()
	if m.guest != nil {
		m.guest.end()
	}
	<-closed
}

// first says whether c is the container that the machine was made for.
func (m *monitor) first(c *container) bool { return c.setup == m.setup }

// last says whether c is the only container left.
func (m *monitor) last(c *container) bool {
	return len(m.containers) == 1 && m.containers[c.id] == c
}

// listen hands what comes in on a container's socket to the owner.
func (m *monitor) listen(l *net.UnixListener, id string) {
	for {
		uc, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			conn := control.Accept(uc)
			_ = conn.SetDeadline(time.Now().Add(rpcTimeout))
			r := request{conn: conn}
			var err error
			if r.files, err = conn.Recv(&r.Request); err != nil {
				conn.Close()
				return
			}
			_ = conn.SetDeadline(time.Time{})
			r.trace, r.files = r.Trace.recorder(r.files)
			r.began = trace.Now()
			if r.ID != id {
				r.reply(Reply{Error: fmt.Sprintf("container %q is not served here", r.ID)})
				return
			}
			m.requests <- r
		}()
	}
}
