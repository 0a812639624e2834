//go:build linux

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var errProcess = errors.New("invalid process")

// logLevel is that of libcontainer's init: logrus.WarnLevel as a number.
const logLevel = "3"

// newProcess makes a libcontainer process of a specification's, stdio apart.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	switch {
	case p == nil:
		return nil, fmt.Errorf("%w: missing", errProcess)
	case len(p.Args) == 0:
		return nil, fmt.Errorf("%w: args must not be empty", errProcess)
	case !filepath.IsAbs(p.Cwd):
		return nil, fmt.Errorf("%w: cwd %q must be an absolute path", errProcess, p.Cwd)
	}
	limits, err := rlimits(p.Rlimits)
	if err != nil {
		return nil, err
	}
	affinity, err := configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	if err != nil {
		return nil, fmt.Errorf("execCPUAffinity: %w", err)
	}
	env := p.Env
	if env == nil {
		// A list without elements is lost in JSON, and without a list
		// libcontainer does not set HOME.
		env = []string{}
	}
	noNewPrivileges := p.NoNewPrivileges
	lp := &libcontainer.Process{
		Args:             p.Args,
		Env:              env,
		Cwd:              p.Cwd,
		UID:              int(p.User.UID),
		GID:              int(p.User.GID),
		AdditionalGroups: groups(p.User.AdditionalGids),
		Capabilities:     capabilities(p.Capabilities),
		NoNewPrivileges:  &noNewPrivileges,
		Rlimits:          limits,
		Scheduler:        p.Scheduler,
		IOPriority:       p.IOPriority,
		CPUAffinity:      affinity,
		LogLevel:         logLevel,
	}
	if size := p.ConsoleSize; size != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(size.Width), uint16(size.Height)
	}
	return lp, nil
}

func groups(gids []uint32) []int {
	out := make([]int, 0, len(gids))
	for _, gid := range gids {
		out = append(out, int(gid))
	}
	return out
}

// capabilities keeps nil: libcontainer then takes the container's.
func capabilities(c *specs.LinuxCapabilities) *configs.Capabilities {
	if c == nil {
		return nil
	}
	return &configs.Capabilities{
		Bounding:    c.Bounding,
		Effective:   c.Effective,
		Inheritable: c.Inheritable,
		Permitted:   c.Permitted,
		Ambient:     c.Ambient,
	}
}

// rlimits translates a process's limits, those of defaultRlimits added. None
// stay none: libcontainer then takes the container's.
func rlimits(in []specs.POSIXRlimit) ([]configs.Rlimit, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]configs.Rlimit, 0, len(in)+2)
	for _, l := range in {
		number, ok := rlimitNumber(l.Type)
		if !ok {
			return nil, fmt.Errorf("%w: rlimit %q", errProcess, l.Type)
		}
		out = append(out, configs.Rlimit{Type: number, Hard: l.Hard, Soft: l.Soft})
	}
	return defaultRlimits(out), nil
}

// defaultRlimits adds what a container would otherwise inherit from the agent,
// which has raised its own: NOFILE for itself, MEMLOCK as cilium/ebpf needs it.
// The values are those of a usual host.
func defaultRlimits(limits []configs.Rlimit) []configs.Rlimit {
	for _, d := range []configs.Rlimit{
		{Type: unix.RLIMIT_NOFILE, Soft: 1024, Hard: 1048576},
		{Type: unix.RLIMIT_MEMLOCK, Soft: 8 << 20, Hard: 8 << 20},
	} {
		if !slices.ContainsFunc(limits, func(l configs.Rlimit) bool { return l.Type == d.Type }) {
			limits = append(limits, d)
		}
	}
	return limits
}

// rlimitNumber knows the names of getrlimit(2).
func rlimitNumber(name string) (int, bool) {
	n, ok := map[string]int{
		"RLIMIT_AS":         unix.RLIMIT_AS,
		"RLIMIT_CORE":       unix.RLIMIT_CORE,
		"RLIMIT_CPU":        unix.RLIMIT_CPU,
		"RLIMIT_DATA":       unix.RLIMIT_DATA,
		"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
		"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
		"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
		"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
		"RLIMIT_NICE":       unix.RLIMIT_NICE,
		"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
		"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
		"RLIMIT_RSS":        unix.RLIMIT_RSS,
		"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
		"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
		"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
		"RLIMIT_STACK":      unix.RLIMIT_STACK,
	}[name]
	return n, ok
}

// A proc is one started process of a container: its init or an exec.
type proc struct {
	lp  *libcontainer.Process
	pid int
	io  *stdio

	started atomic.Int64  // when init's execve was seen, by monotonic; 0 before
	exited  chan struct{} // closed when the process ended
	sent    chan struct{} // closed when its output is sent, too; status is set before
	status  uint32        // exit code, or 128 + signal
}

// watch waits for the process, for its whole life. ended runs once it is gone.
func (p *proc) watch(reap *reaper, ended func()) {
	state, err := p.lp.Wait()
	reap.waited(p.pid)
	p.status = exitStatus(state)
	if state == nil {
		logf("wait for process %d: %v", p.pid, err)
	}
	close(p.exited)
	ended()
	p.io.flush()
	p.io.finish()
	close(p.sent)
}

// exitStatus is what shells make of a process's end. A process nobody could wait
// for counts as killed.
func exitStatus(state *os.ProcessState) uint32 {
	const bySignal = 128
	if state == nil {
		return bySignal + uint32(unix.SIGKILL)
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return bySignal + uint32(ws.Signal())
	}
	return uint32(state.ExitCode())
}
