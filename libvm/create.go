//go:build linux

package libvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/cgroup"
	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/holder"
	"github.com/runm/runm/libvm/hooks"
	"github.com/runm/runm/libvm/monitor"
	"github.com/runm/runm/libvm/plan"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/share"
	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/libvm/template"
	"github.com/runm/runm/libvm/trace"
	"github.com/runm/runm/libvm/undo"
)

// CreateOpts says what to create.
type CreateOpts struct {
	Root    string // directory of all state, absolute
	ID      string
	Bundle  string
	Systemd bool
	Debug   bool
	// Stdio is stdin, stdout and stderr, or the slave of the terminal alone.
	// It stays the caller's.
	Stdio []*os.File
	// PidFile is written last, "" for none.
	PidFile string
	Config  config.Config
	Flags   monitor.GuestFlags
	// Warnings of the caller's, a sentence each, for the container's log.
	Warnings []string
	// Run: the caller waits for the container's end, so a trace is of all of it.
	Run bool
}

// Prepared is a create that has touched nothing yet.
type Prepared struct {
	opts   CreateOpts
	bundle *bundle.Bundle
	pod    *pod // nil for a machine of its own
	setup  monitor.Setup
}

// Terminal says whether the container wants one.
func (p *Prepared) Terminal() bool { return p.bundle.Spec.Process.Terminal }

// ConsoleSize is process.consoleSize or nil.
func (p *Prepared) ConsoleSize() *specs.Box { return p.bundle.Spec.Process.ConsoleSize }

// SetStdio sets CreateOpts.Stdio, once Terminal says which is wanted.
func (p *Prepared) SetStdio(files []*os.File) { p.opts.Stdio = files }

// Prepare loads, checks and plans; nothing on the host changes.
func Prepare(ctx context.Context, o CreateOpts) (*Prepared, error) {
	if err := bundle.CheckID(o.ID); err != nil {
		return nil, err
	}
	// Checked again, for good, by the monitor; this answer comes sooner.
	if _, err := store.Open(o.Root, o.ID); err == nil {
		return nil, ErrExist
	}
	span := trace.Begin(ctx, "config.json loaded and checked")
	b, err := bundle.Load(o.Bundle)
	span.End()
	if err != nil {
		return nil, err
	}
	defer trace.Begin(ctx, "plan").End()
	cfg, err := o.Config.WithAnnotations(b.Spec.Annotations)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find runm's own files: %w", err)
	}
	assets := cfg.FindAssets(exe)
	pod, err := findPod(o.Root, o.ID, b.Spec)
	if err != nil {
		return nil, err
	}
	h, err := host(b.Spec, cfg, assets)
	if err != nil {
		return nil, err
	}
	if pod != nil {
		h.Pod = &pod.plan
	}
	p, err := plan.Make(o.ID, b, cfg, h)
	if err != nil {
		return nil, err
	}
	properties, err := cgroup.CheckAnnotations(b.Spec.Annotations, o.Systemd)
	if err != nil {
		return nil, err
	}
	p.Warnings = slices.Concat(o.Warnings, p.Warnings, properties)
	for _, w := range p.Warnings {
		logrus.Warn(w)
	}
	for _, u := range b.Unknown {
		logrus.Debugf("config.json: unknown property %s is ignored", u)
	}
	var templates *template.Store
	if cfg.Template == config.TemplateOn {
		store := TemplateStore(cfg)
		templates = &store
	}
	return &Prepared{opts: o, bundle: b, pod: pod, setup: monitor.Setup{
		Root: o.Root, ID: o.ID, Bundle: b.Dir, Plan: *p, Spec: b.Spec, Systemd: o.Systemd,
		Owner: owner(), QEMU: assets.QEMU, Virtiofsd: assets.Virtiofsd,
		Templates: templates, BootSeconds: cfg.BootTimeoutSeconds, Flags: o.Flags, Debug: o.Debug,
	}}, nil
}

func owner() string {
	uid := strconv.Itoa(os.Getuid())
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

// Created is a new container and its holder, a child of the caller.
type Created struct {
	*Container
	Holder *holder.Process
}

// Create makes the container (runtime.md, "Create"). Its process has not run
// when it returns. On error, and that is also the end of ctx, nothing is left.
func (p *Prepared) Create(ctx context.Context) (_ *Created, err error) {
	defer trace.Begin(ctx, "create").End()
	var u undo.Stack
	defer func() { err = errors.Join(err, u.Run()) }()

	hooked := false
	u.Push(func() error {
		if hooked {
			// "If any [...] hook fails, the runtime MUST generate an error,
			// stop the container, and continue the lifecycle at step 12"
			// (runtime.md, "Lifecycle"): what hooks have set up they undo.
			poststop(context.WithoutCancel(ctx), p.bundle.Spec, p.state(specs.StateStopped, 0))
		}
		return nil
	})
	holderEnd, monitorEnd, err := control.Pair()
	if err != nil {
		return nil, err
	}
	defer holderEnd.Close()
	span := trace.Begin(ctx, "monitor executed")
	m, err := p.reachMonitor(ctx, monitorEnd)
	span.End()
	monitorEnd.Close()
	if err != nil {
		return nil, err
	}
	// Without its connection to create the monitor undoes everything.
	var h *holder.Process
	u.Push(func() error { return p.abandon(m, h) })
	// Whatever we wait for, the monitor or the holder, ends with the
	// connection.
	uninterrupted := context.AfterFunc(ctx, m.cancel)
	defer uninterrupted()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	// While the monitor starts.
	span = trace.Begin(ctx, "holder executed")
	h, err = holder.Start(holder.Config{
		ID: p.opts.ID, Spec: p.bundle.Spec, Rootfs: p.bundle.Rootfs, Monitor: holderEnd, TTY: p.tty(),
		Trace: trace.From(ctx),
	})
	span.End()
	if err != nil {
		return nil, err
	}
	holderEnd.Close()
	span = trace.Begin(ctx, "wait: monitor accepts")
	if err := m.expect(monitor.StepAccepted); err != nil {
		return nil, err
	}
	span.End()
	span = trace.Begin(ctx, "wait: holder in its cgroup")
	if err := m.send(monitor.Step{Kind: monitor.StepHolder, Holder: h.ID}, monitor.StepJoined); err != nil {
		return nil, err
	}
	span.End()
	span = trace.Begin(ctx, "hooks: prestart, createRuntime")
	state := p.state(specs.StateCreated, h.ID.Pid)
	hooked = true
	if err := p.runtimeHooks(ctx, m, state); err != nil {
		return nil, err
	}
	span.End()
	span = trace.Begin(ctx, "wait: container made in the guest")
	if err := m.expect(monitor.StepReady); err != nil {
		return nil, err
	}
	span.End()
	span = trace.Begin(ctx, "holder prepared: createContainer hooks, root")
	if err := h.Prepare(*state); err != nil {
		return nil, err
	}
	span.End()
	span = trace.Begin(ctx, "limits")
	if err := m.send(monitor.Step{Kind: monitor.StepLimit}, monitor.StepLimited); err != nil {
		return nil, err
	}
	span.End()
	if p.opts.PidFile != "" {
		// No newline: runc writes none, and clients parse it.
		if err := store.WriteFile(p.opts.PidFile, []byte(strconv.Itoa(h.ID.Pid)), 0o644); err != nil {
			return nil, fmt.Errorf("pid file: %w", err)
		}
		u.Push(func() error { return os.Remove(p.opts.PidFile) })
	}
	if !uninterrupted() {
		return nil, context.Cause(ctx)
	}
	span = trace.Begin(ctx, "commit")
	if err := m.send(monitor.Step{Kind: monitor.StepCommit}, monitor.StepCommitted); err != nil {
		return nil, err
	}
	span.End()
	u.Keep()
	m.conn.Close()
	if m.booted && p.setup.Templates != nil {
		span = trace.Begin(ctx, "template's builder executed")
		p.beginTemplate()
		span.End()
	}
	c, err := Load(p.opts.Root, p.opts.ID)
	if err != nil {
		return nil, err
	}
	c.Trace(ctx)
	return &Created{Container: c, Holder: h}, nil
}

// state is what hooks are told.
func (p *Prepared) state(status specs.ContainerState, pid int) *specs.State {
	return &specs.State{
		Version: specs.Version, ID: p.opts.ID, Status: status, Pid: pid,
		Bundle: p.bundle.Dir, Annotations: p.bundle.Spec.Annotations,
	}
}

// runtimeHooks runs the prestart and createRuntime hooks while the machine
// boots; a boot that fails ends them.
func (p *Prepared) runtimeHooks(ctx context.Context, m *monitorProcess, state *specs.State) error {
	h := p.bundle.Spec.Hooks
	if h == nil {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-m.failed:
			m.failed <- err
			cancel(err)
		case <-ctx.Done():
		}
	}()
	//nolint:staticcheck // prestart is deprecated and what Docker uses
	err := hooks.Run(ctx, "prestart", h.Prestart, state)
	if err == nil {
		err = hooks.Run(ctx, "createRuntime", h.CreateRuntime, state)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

func (p *Prepared) tty() *os.File {
	if p.Terminal() {
		return p.opts.Stdio[0]
	}
	return nil
}

// monitorProcess is the monitor as create sees it.
type monitorProcess struct {
	id     proc.ID
	cmd    *exec.Cmd // nil for one that another create started
	conn   *control.Conn
	steps  chan monitor.Step
	failed chan error // the monitor's last word, once
	gone   chan struct{}
	booted bool // as StepCommitted said
}

// cancel tells the monitor that create does not want the container any more.
func (m *monitorProcess) cancel() { _ = m.conn.CloseWrite() }

// reachMonitor starts a monitor, or joins the pod's, and hands it the setup.
func (p *Prepared) reachMonitor(ctx context.Context, holderConn *os.File) (*monitorProcess, error) {
	ours, theirs, err := control.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	m := &monitorProcess{steps: make(chan monitor.Step, 8), failed: make(chan error, 1), gone: make(chan struct{})}
	var trees []*os.File
	began := trace.Now()
	if p.pod == nil {
		err = p.startMonitor(m, theirs, holderConn)
	} else if trees, err = p.openTrees(); err == nil {
		err = p.joinMonitor(m, theirs, holderConn)
	}
	defer control.CloseAll(trees)
	if err != nil {
		ours.Close()
		return nil, err
	}
	if m.conn, err = control.NewConn(ours); err != nil {
		return nil, err
	}
	files := trees
	if r := trace.From(ctx); r != nil {
		p.setup.Trace = &monitor.Trace{ToEnd: p.opts.Run}
		if p.pod == nil {
			p.setup.Trace.Began = began
		}
		files = append(files, r.Out())
	}
	if err := m.conn.Send(p.setup, files...); err != nil {
		m.conn.Close()
		return nil, fmt.Errorf("talk to the monitor: %w", err)
	}
	go m.listen()
	return m, nil
}

// openTrees opens the container's files for a monitor whose mount namespace may
// not have them.
func (p *Prepared) openTrees() (trees []*os.File, err error) {
	for _, b := range p.setup.Plan.Files() {
		tree, err := share.Open(b)
		if err != nil {
			control.CloseAll(trees)
			return nil, err
		}
		trees = append(trees, tree)
	}
	return trees, nil
}

// joinMonitor asks the pod's monitor to take the container in.
func (p *Prepared) joinMonitor(m *monitorProcess, create, holder *os.File) error {
	member := p.pod.member
	conn, err := control.Dial(string(member.dir))
	if err != nil {
		return fmt.Errorf("join the machine of container %q: %w", member.ID(), err)
	}
	defer conn.Close()
	var a monitor.Reply
	err = conn.Send(monitor.Request{Op: monitor.OpJoin, ID: member.ID()}, append([]*os.File{create, holder}, p.opts.Stdio...)...)
	if err == nil {
		_, err = conn.Recv(&a)
	}
	if err == nil {
		err = replyError(&a)
	}
	if err != nil {
		return fmt.Errorf("join the machine of container %q: %w", member.ID(), err)
	}
	m.id = member.State.Monitor
	return nil
}

// startMonitor starts the monitor out of the caller's reach: in a session of
// its own, with a copy of the mount namespace, and none of the caller's files
// but the container's.
func (p *Prepared) startMonitor(m *monitorProcess, create, holder *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	stdio := append([]*os.File{}, p.opts.Stdio...)
	for len(stdio) < 3 {
		stdio = append(stdio, null)
	}
	m.cmd = &exec.Cmd{
		Path: "/proc/self/exe",
		Args: []string{monitor.Arg0, p.opts.ID}, // the id is for ps
		Dir:  "/",
		// Memory is counted for each container: collect early.
		Env:         []string{"PATH=" + os.Getenv("PATH"), "GOGC=50", "HOME=/"},
		ExtraFiles:  append([]*os.File{create, holder}, stdio...),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS},
	}
	if err := m.cmd.Start(); err != nil {
		return fmt.Errorf("start the monitor: %w", err)
	}
	return nil
}

// listen sorts what the monitor says.
func (m *monitorProcess) listen() {
	defer close(m.gone)
	for {
		var s monitor.Step
		if _, err := m.conn.Recv(&s); err != nil {
			if !errors.Is(err, io.EOF) {
				err = fmt.Errorf("monitor: %w", err)
			} else {
				err = errMonitorHasGone
			}
			m.failed <- err
			return
		}
		if s.Kind == monitor.StepFailed {
			m.failed <- stepError(s.Error)
			return
		}
		m.booted = s.Booted
		m.steps <- s
	}
}

// stepError gives the sentinel back that a text lost on its way.
func stepError(text string) error {
	if text == ErrExist.Error() {
		return ErrExist
	}
	return errors.New(text)
}

// expect waits for a step of the monitor.
func (m *monitorProcess) expect(kind monitor.StepKind) error {
	select {
	case err := <-m.failed:
		m.failed <- err
		return err
	case s := <-m.steps:
		if s.Kind != kind {
			// The machine may be ready while another answer is awaited.
			if err := m.expect(kind); err != nil {
				return err
			}
			m.steps <- s
		}
		return nil
	}
}

// send sends a step and waits for the answer.
func (m *monitorProcess) send(s monitor.Step, answer monitor.StepKind) error {
	if err := m.conn.Send(s); err != nil {
		// Its reason is on the way.
		return m.expect(answer)
	}
	return m.expect(answer)
}

// reap waits for the holder, which ends when its monitor has closed its end. What
// it returns ends one whose monitor has not.
func reap(h *holder.Process) (end func()) {
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		_, _ = h.Wait()
	}()
	return func() {
		select {
		case <-reaped:
		case <-time.After(killGrace):
			_ = h.Signal(unix.SIGKILL)
			<-reaped
		}
	}
}

// abandon is for a container that is not wanted: it waits until the monitor has
// undone everything, and the holder, which is nil before it was started, has
// ended. What a monitor that was killed could not undo is undone here.
func (p *Prepared) abandon(m *monitorProcess, h *holder.Process) error {
	defer m.conn.Close()
	m.cancel()
	if h != nil {
		defer reap(h)()
	}
	select {
	case <-m.gone:
	case <-time.After(askTimeout):
		if m.cmd == nil {
			return fmt.Errorf("%w: remove what it leaves with `runm delete --force %s`", errMonitorSilent, p.opts.ID)
		}
		_ = m.cmd.Process.Kill()
	}
	if m.cmd != nil {
		_ = m.cmd.Wait()
		if m.cmd.ProcessState == nil || m.cmd.ProcessState.Exited() {
			return nil
		}
		m.id.Pid = m.cmd.Process.Pid
	} else if m.id.Alive() {
		return nil
	}
	c, err := Load(p.opts.Root, p.opts.ID)
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.State.Monitor.Pid != m.id.Pid {
		return nil // another's
	}
	if err := c.destroy(); err != nil {
		return err
	}
	if err := c.removeCgroup(); err != nil {
		return err
	}
	return c.removeState()
}
