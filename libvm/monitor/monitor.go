//go:build linux

// Package monitor is the host process that owns one machine: its share, its
// VMM, its control socket, and the container's files for input and output.
//
// One goroutine owns the state (loop.go); what takes time runs beside it and
// reports. What must be undone is undone by the monitor, because the commands
// may be killed at any time. What dies with the monitor, and is therefore
// never left behind, is its mount namespace, its children (PDEATHSIG) and its
// open files.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/cgroup"
	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/holder"
	"github.com/runm/runm/libvm/network"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/share"
	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/libvm/undo"
	"github.com/runm/runm/libvm/vmm"
)

// Arg0 is the name under which runm is this process.
const Arg0 = "runm-monitor"

// Descriptors the monitor is started with.
const (
	fdCreate = 3 + iota
	fdHolder
	fdStdio // stdin, stdout, stderr; or the slave of the terminal and twice /dev/null
)

// grace bounds how long a process that was killed may take to end.
const grace = 10 * time.Second

// monitor is the owner's state. Only the goroutine of run touches it.
type monitor struct {
	setup  *Setup
	driver vmm.Driver
	log    *logrus.Logger

	create   *control.Conn // nil once the container is committed
	holder   *control.Conn
	listener *net.UnixListener
	dir      store.Dir
	state    *store.State
	cgroup   *cgroup.Cgroup
	guest    *guest  // nil until booted
	wiring   *wiring // nil without NICs, and until booted
	vcpus    vcpus
	undo     undo.Stack

	containers map[string]*container
	execs      int // counts up, names execs

	// waiting are the requests to be answered when create is through.
	waiting []request

	requests chan request
	results  chan func() // run by the owner
	joined   chan struct{}
	// namespace gets the holder's network namespace, if the machine has NICs.
	namespace chan *network.Namespace
}

// container is one of the machine's containers; there is one but in a pod.
type container struct {
	id     string
	status specs.ContainerState
	// ending: init has ended or was sent SIGKILL; its output and its files may
	// still be on the way. Set from any goroutine.
	ending atomic.Bool
	// beforePause is the status that resume restores.
	beforePause specs.ContainerState
	stdio       *stdio
	// pending are signals that came while the machine was paused.
	pending []Request
	// waiters are answered at the container's end.
	waiters []request
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
	fail := func(err error) int {
		_ = create.Send(Step{Kind: StepFailed, Error: err.Error()})
		return 1
	}
	var setup Setup
	if _, err := create.Recv(&setup); err != nil {
		return fail(err)
	}
	files := []*os.File{}
	n := 3
	if setup.Plan.Guest.Process.Terminal {
		n = 1
	}
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
	m := &monitor{
		setup: &setup, driver: newDriver(&setup), create: create, holder: hold,
		containers: map[string]*container{},
		requests:   make(chan request), results: make(chan func(), 16), joined: make(chan struct{}),
		namespace: make(chan *network.Namespace, 1),
	}
	return m.main(files)
}

func (m *monitor) main(files []*os.File) int {
	err := m.accept()
	if err == nil {
		err = m.run(files)
	}
	if err == nil {
		return 0
	}
	m.fail(err)
	return 1
}

// fail undoes everything and then tells create why, so that when create's user
// reads the error nothing is left.
func (m *monitor) fail(cause error) {
	if err := m.undo.Run(); err != nil {
		cause = fmt.Errorf("%w (and while cleaning up: %w)", cause, err)
	}
	if m.create != nil {
		_ = m.create.Send(Step{Kind: StepFailed, Error: cause.Error()})
	}
}

// accept takes the id: from here on the state directory is the monitor's.
func (m *monitor) accept() error {
	dir, err := store.Create(m.setup.Root, m.setup.ID)
	if err != nil {
		return err
	}
	m.dir = dir
	m.undo.Push(dir.Remove)
	m.undo.Push(func() error { return share.Remove(m.shareDir()) })
	m.openLog()
	self, err := proc.Self()
	if err != nil {
		return err
	}
	m.state = &store.State{
		ID: m.setup.ID, Bundle: m.setup.Bundle, Rootfs: m.setup.Plan.Rootfs.Source,
		Created: time.Now().UTC(), Owner: m.setup.Owner, Spec: m.setup.Spec,
		Systemd: m.setup.Systemd, Monitor: self,
		GuestMemoryBytes: int64(m.setup.Plan.Machine.MemoryMiB) << 20,
	}
	m.state.OverheadBytes = overhead(m.state.GuestMemoryBytes, m.setup.Spec)
	if err := dir.Save(m.state); err != nil {
		return err
	}
	if m.listener, err = control.Listen(string(dir)); err != nil {
		return err
	}
	m.undo.Push(m.listener.Close)
	if err := os.Mkdir(m.shareDir(), 0o700); err != nil {
		return fmt.Errorf("staging directory: %w", err)
	}
	m.cgroup, err = cgroup.New(m.setup.ID, m.setup.Spec, m.setup.Systemd, hostOverhead(m.state), nil)
	if err != nil {
		return err
	}
	m.log.Debug("monitor has accepted the container")
	return m.create.Send(Step{Kind: StepAccepted})
}

func (m *monitor) shareDir() string { return filepath.Join(string(m.dir), store.ShareDir) }

// overhead is the memory in bytes that the host's limit must allow beyond the
// container's own: the rest of the guest's memory and the VMM.
func overhead(guest int64, spec *specs.Spec) int64 {
	if l := spec.Linux; l != nil && l.Resources != nil && l.Resources.Memory != nil {
		if limit := l.Resources.Memory.Limit; limit != nil && *limit > 0 {
			guest -= *limit
		}
	}
	return max(0, guest) + cgroup.VMMMemoryBytes
}

func hostOverhead(s *store.State) cgroup.Overhead {
	return cgroup.Overhead{MemoryBytes: s.OverheadBytes, Threads: cgroup.VMMThreads}
}

func (m *monitor) openLog() {
	m.log = logrus.New()
	m.log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	if m.setup.Debug {
		m.log.SetLevel(logrus.DebugLevel)
	}
	f, err := os.OpenFile(filepath.Join(string(m.dir), store.LogFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		f, _ = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	m.log.SetOutput(f)
	// create may have had nowhere to say them.
	for _, w := range m.setup.Plan.Warnings {
		m.log.Warn(w)
	}
}

// boot makes share, taps, machine and container, beside the owner.
func (m *monitor) boot(ctx context.Context, files []*os.File) (_ *booted, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(m.setup.BootSeconds)*time.Second,
		fmt.Errorf("no answer for %d s (boot_timeout_seconds)", m.setup.BootSeconds))
	defer cancel()
	staging, err := share.New(m.shareDir())
	if err != nil {
		return nil, err
	}
	for _, b := range append(m.setup.Plan.Binds, m.setup.Plan.Rootfs) {
		if err := staging.Add(b); err != nil {
			return nil, err
		}
	}
	if err := staging.Alone(m.hostFiles()); err != nil {
		return nil, err
	}
	cfg := m.setup.Plan.Machine
	cfg.Shares[0].Path = staging.Dir
	m.log.Debug("files are staged")
	n, err := m.openTaps(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && n != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	g, err := bootGuest(ctx, m.driver, &cfg, m.setup.Debug, func(v vmm.Machine) error {
		m.log.Debug("machine executes")
		return m.joinMachine(ctx, v)
	})
	if err != nil {
		return nil, err
	}
	m.log.Debug("agent has answered")
	io, err := newStdio(g.session, files, m.setup.Plan.Guest.Process.Terminal)
	if err == nil {
		io.run()
		if err = g.create(ctx, m.setup, io); err == nil {
			m.log.Debug("container is created in the guest")
			return &booted{guest: g, stdio: io, network: n}, nil
		}
		io.close()
	}
	g.end()
	return nil, err
}

// hostFiles are what monitor and VMM need of the host besides the share.
func (m *monitor) hostFiles() (paths, trees []string) {
	paths = []string{"/etc", "/bin", "/lib64", os.TempDir(), filepath.Dir(string(m.dir))}
	trees = []string{"/proc", "/sys", "/dev", "/usr", "/lib"}
	cfg := &m.setup.Plan.Machine
	for _, file := range []string{m.setup.QEMU, m.setup.Virtiofsd, cfg.Kernel, cfg.Initrd} {
		if real, err := filepath.EvalSymlinks(file); err == nil {
			// A program's libraries lie beside it: <prefix>/bin, <prefix>/lib.
			paths = append(paths, filepath.Dir(filepath.Dir(real)))
		}
	}
	return paths, trees
}

// joinMachine moves the machine's processes into the container's cgroup, which
// is there when the holder is in it.
func (m *monitor) joinMachine(ctx context.Context, v vmm.Machine) error {
	p, ok := v.(vmm.Processes)
	if !ok {
		return nil
	}
	select {
	case <-m.joined:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, pid := range p.Pids() {
		// One that has ended will be heard of from the machine, with why.
		if err := m.cgroup.Join(pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// holderRuns puts the holder into the cgroup and writes down who it is.
func (m *monitor) holderRuns(id proc.ID) error {
	m.undo.Push(m.cgroup.Destroy)
	m.state.Holder = id
	m.undo.Push(m.endHolder)
	if err := m.findNamespace(id.Pid); err != nil {
		return err
	}
	if err := m.cgroup.Join(id.Pid); err != nil {
		return err
	}
	m.state.CgroupPaths = m.cgroup.Paths()
	if err := m.dir.Save(m.state); err != nil {
		return err
	}
	close(m.joined)
	m.log.Debug("holder is in the cgroup")
	return m.create.Send(Step{Kind: StepJoined})
}

// endHolder ends the holder of a container that never came to be.
func (m *monitor) endHolder() error {
	m.holder.Close()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := m.state.Holder.Wait(ctx); err != nil {
		return m.state.Holder.Kill(grace)
	}
	return nil
}

// holderExit is the holder's end with the container's status.
func (m *monitor) holderExit(status int) error {
	err := m.holder.Send(holder.Exit{Status: status})
	if err != nil && !m.state.Holder.Alive() {
		err = nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if werr := m.state.Holder.Wait(ctx); werr != nil {
		err = errors.Join(err, m.state.Holder.Kill(grace))
	}
	return err
}
