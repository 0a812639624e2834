//go:build linux

// Package holder is the host process whose pid is the container's pid.
//
// It is in the namespaces and the cgroup that config.json names, its root is
// the container's, and it waits: what signals it gets go to the container's
// init, it ends with the container's status, and when it is killed the monitor
// ends the machine. Clients reap, signal, inspect and enter it; nobody else
// can supply such a process (it must be a child of create).
package holder

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/trace"
)

// Arg0 is the name under which runm is this process.
const Arg0 = "runm-holder"

// Descriptors of the holder.
const (
	fdMonitor = 3 + iota // connection to the monitor
	fdCreate             // connection to create, until it is prepared
	fdMountNS            // mount namespace to join, or /dev/null
	fdTTY                // slave of the container's terminal, or /dev/null
	fdTrace              // where spans go, or /dev/null
)

// Event is what the holder tells the monitor.
type Event struct {
	// Signal arrived, to be forwarded. 0: none.
	Signal int `json:"signal,omitempty"`
	// Width and Height of the terminal changed. 0: not.
	Width  uint16 `json:"width,omitempty"`
	Height uint16 `json:"height,omitempty"`
	// Copied answers Order.Copy; Error says what went wrong, "" for nothing.
	Copied bool   `json:"copied,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Order is what the monitor tells the holder.
type Order struct {
	// Copy: fill a machine's memory, whose file comes first, from a template's,
	// which comes second. The kernel charges memory to the cgroup of whoever
	// touches it first, and the holder is in the container's.
	Copy bool `json:"copy,omitempty"`
	// Status is what to end with, otherwise.
	Status int `json:"status"`
}

// Prepare is create's one request: the last steps before the process is what
// clients expect to find.
type Prepare struct {
	// Hooks are the createContainer hooks, run in the container's namespaces
	// before the root changes (config.md).
	Hooks []specs.Hook `json:"hooks"`
	State specs.State  `json:"state"`
	// Pivot: the mount namespace is new, so the root is pivoted; else it is
	// changed for this process alone.
	Pivot bool `json:"pivot"`
	// Proc: show the pid namespace at /proc.
	Proc bool `json:"proc"`
	// Hostname of a new UTS namespace, "" for none.
	Hostname string `json:"hostname,omitempty"`
	// Began is when create began to start the holder, in nanoseconds since 1970
	// UTC, for the trace.
	Began int64 `json:"began,omitempty"`
}

// Prepared answers Prepare.
type Prepared struct {
	Error string `json:"error,omitempty"`
}

// Config is a holder to be started.
type Config struct {
	ID     string // shown by ps, used for nothing
	Spec   *specs.Spec
	Rootfs string // absolute
	// Monitor is the holder's end of its connection to the monitor; TTY the
	// slave of the terminal or nil. Both stay the caller's.
	Monitor, TTY *os.File
	Trace        *trace.Recorder // nil for none
}

// Process is a started holder.
type Process struct {
	ID   proc.ID
	cmd  *exec.Cmd
	conn *control.Conn
	spec *specs.Spec
	ns   int
	// began is Prepare's.
	began int64
}

// Start starts the holder as a child of the caller. It ends by itself when the
// monitor does.
func Start(c Config) (*Process, error) {
	var list []specs.LinuxNamespace
	var program []string
	if p := c.Spec.Process; p != nil {
		program = p.Args
	}
	attr := &syscall.SysProcAttr{Setsid: true}
	if l := c.Spec.Linux; l != nil {
		list = l.Namespaces
		attr.UidMappings = mappings(l.UIDMappings)
		attr.GidMappings = mappings(l.GIDMappings)
		attr.GidMappingsEnableSetgroups = true
		if len(l.UIDMappings) > 0 && mapsRoot(l.UIDMappings) && mapsRoot(l.GIDMappings) {
			attr.Credential = &syscall.Credential{}
		}
	}
	ns, err := openNamespaces(list)
	if err != nil {
		return nil, err
	}
	defer ns.close()
	attr.Cloneflags = uintptr(ns.create)

	began := trace.Now()
	ours, theirs, err := control.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	orNull := func(f *os.File) *os.File {
		if f == nil {
			return null
		}
		return f
	}
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        proc.Arguments(Arg0, c.ID, program),
		Env:         runtimeEnv(),
		ExtraFiles:  []*os.File{c.Monitor, theirs, orNull(ns.join[unix.CLONE_NEWNS]), orNull(c.TTY), orNull(c.Trace.Out())},
		SysProcAttr: attr,
	}
	if err := ns.start(c.Rootfs, cmd.Start); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the container's host process: %w", err)
	}
	conn, err := control.NewConn(ours)
	if err != nil {
		return nil, err
	}
	id, err := proc.Find(cmd.Process.Pid)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Process{ID: id, cmd: cmd, conn: conn, spec: c.Spec, ns: ns.create, began: began}, nil
}

// runtimeEnv keeps Go small and quiet: one thread's worth of work, and no
// SIGURG of its own among the signals to forward.
func runtimeEnv() []string {
	return []string{"GOMAXPROCS=1", "GOGC=25", "GODEBUG=asyncpreemptoff=1"}
}

// Prepare runs the createContainer hooks in the holder and changes its root.
func (p *Process) Prepare(state specs.State) error {
	req := Prepare{
		State: state,
		Began: p.began,
		Pivot: p.ns&unix.CLONE_NEWNS != 0,
		// Also a joined pid namespace, as in a pod, is not the host's.
		Proc: p.ns&unix.CLONE_NEWNS != 0 && hasNamespace(p.spec, specs.PIDNamespace),
	}
	if p.ns&unix.CLONE_NEWUTS != 0 {
		req.Hostname = p.spec.Hostname
	}
	if p.spec.Hooks != nil {
		req.Hooks = p.spec.Hooks.CreateContainer
	}
	var answer Prepared
	err := p.conn.Send(req)
	if err == nil {
		_, err = p.conn.Recv(&answer)
	}
	p.conn.Close()
	if err != nil {
		return fmt.Errorf("the container's host process has ended: %w", err)
	}
	if answer.Error != "" {
		return fmt.Errorf("%s", answer.Error)
	}
	return nil
}

// Wait waits for the holder, a child, and returns its exit status.
func (p *Process) Wait() (int, error) {
	err := p.cmd.Wait()
	state := p.cmd.ProcessState
	if state == nil {
		return -1, err
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}

// Signal sends sig to the holder, which forwards it.
func (p *Process) Signal(sig unix.Signal) error { return p.ID.Signal(sig) }

func hasNamespace(s *specs.Spec, t specs.LinuxNamespaceType) bool {
	if s.Linux == nil {
		return false
	}
	for _, n := range s.Linux.Namespaces {
		if n.Type == t {
			return true
		}
	}
	return false
}
