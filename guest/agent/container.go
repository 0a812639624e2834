//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// stateRoot is libcontainer's; it lives in the guest's memory.
const stateRoot = "/run/runm/containers"

// maxID bounds a container's id in bytes. libcontainer checks its characters.
const maxID = 1024

var (
	errID            = errors.New("invalid container ID")
	errRootfs        = errors.New("root.path is not below the share")
	errExecStopped   = errors.New("cannot exec in a stopped container")
	errExecPaused    = errors.New("cannot exec in a paused container")
	errNoContainer   = libcontainer.ErrNotExist
	errNoProcess     = errors.New("process does not exist")
	errProcessExists = errors.New("process with given ID already exists")
	errFinished      = errors.New("process already finished")
	errBeforeExec    = errors.New("container process ended before it could execute its program")
)

// A container is one libcontainer container with the processes started in it.
type container struct {
	id   string
	lc   *libcontainer.Container
	reap *reaper
	// cgroup is the directory of the container's.
	cgroup  string
	filters *deviceFilters
	// spare may become init.
	spare *spare
	// hooked: startContainer hooks run between the end of Create and execve.
	hooked bool
	// late are the limits that init gets right before its execve.
	late []configs.Rlimit

	limits sync.Mutex // one update at a time

	mu       sync.Mutex
	procs    map[string]*proc // by exec id; "" is init; nil while it is started
	finished []string         // exec ids of procs that ended, oldest first
}

// checkID accepts what can name a directory.
func checkID(id string) error {
	if id == "" || len(id) > maxID || strings.Contains(id, "/") {
		return fmt.Errorf("%w: %q", errID, id)
	}
	return nil
}

// decodeSpec reads a config.json and makes it ours: the cgroup is the guest's
// business, and the rootfs must be one that the host shared.
func decodeSpec(id string, content []byte) (*specs.Spec, error) {
	var spec specs.Spec
	if err := json.Unmarshal(content, &spec); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if spec.Process == nil {
		return nil, fmt.Errorf("%w: missing", errProcess)
	}
	if spec.Root == nil || !strings.HasPrefix(filepath.Clean(spec.Root.Path), api.ShareMountpoint+"/") {
		return nil, errRootfs
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	spec.Linux.CgroupsPath = "/" + id
	if h := spec.Hooks; h != nil {
		// All others are the host's.
		spec.Hooks = &specs.Hooks{StartContainer: h.StartContainer}
	}
	return &spec, nil
}

// checkSources refuses to bind what of /proc, /sys and /dev the host has, and this
// kernel does not: who reads libcontainer's "no such file" looks on the host.
func checkSources(mounts []specs.Mount) error {
	for _, m := range mounts {
		if m.Type != "bind" || strings.HasPrefix(m.Source, api.ShareMountpoint+"/") {
			continue
		}
		if _, err := os.Lstat(m.Source); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("mount at %s: %s: no such file or directory in the guest, whose kernel is another than the host's", m.Destination, m.Source)
		}
	}
	return nil
}

// newConfig is libcontainer's configuration for spec.
func newConfig(req *api.CreateRequest, spec *specs.Spec) (*configs.Config, error) {
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:   req.GetId(),
		NoPivotRoot:  req.GetNoPivot(),
		NoNewKeyring: req.GetNoNewKeyring(),
		Spec:         spec,
	})
	if err != nil {
		return nil, err
	}
	if config.OomScoreAdj == nil {
		// Not the agent's -1000, which it would inherit.
		zero := 0
		config.OomScoreAdj = &zero
	}
	config.Rlimits = defaultRlimits(config.Rlimits)
	return config, nil
}

// newContainer creates a container and starts its process up to its execve. On
// error nothing is left of it but st.
func (s *server) newContainer(ctx context.Context, st *stdioStreams, req *api.CreateRequest) (*container, error) {
	end := span(ctx, "spec decoded")
	spec, err := decodeSpec(req.GetId(), req.GetSpec())
	end()
	if err != nil {
		return nil, err
	}
	end = span(ctx, "namespaces, shm and sysctls")
	if err := joinNamespaces(spec, s.initPid); err != nil {
		return nil, err
	}
	if err := s.shm.prepare(spec); err != nil {
		return nil, err
	}
	if err := checkSources(spec.Mounts); err != nil {
		return nil, err
	}
	if err := takeGuestSysctls("/proc/sys", spec.Linux); err != nil {
		return nil, err
	}
	end()
	end = span(ctx, "libcontainer's configuration")
	config, err := newConfig(req, spec)
	end()
	if err != nil {
		return nil, err
	}
	config.Cgroups.Path = s.spareCgroups.take(config.Cgroups.Path, config.Cgroups.Resources.Devices)
	end = span(ctx, "libcontainer.Create")
	lc, err := libcontainer.Create(stateRoot, req.GetId(), config)
	end()
	if err != nil {
		return nil, err
	}
	c := &container{
		id: req.GetId(), lc: lc, reap: s.reap, spare: &s.spare, procs: map[string]*proc{},
		cgroup: filepath.Join(cgroupRoot, config.Cgroups.Path), filters: s.filters,
	}
	c.hooked = spec.Hooks != nil && len(spec.Hooks.StartContainer) > 0
	lp, err := newProcess(spec.Process)
	if err == nil {
		lp.Init = true
		c.late = deferLimits(lp, config)
		err = c.launch(ctx, st, "", lp, req.GetStdio())
	}
	if err != nil {
		return nil, errors.Join(err, c.destroy())
	}
	return c, nil
}

// launch starts lp under the name execID. On error it is not running.
func (c *container) launch(ctx context.Context, st *stdioStreams, execID string, lp *libcontainer.Process, want *api.Stdio) (err error) {
	if err := c.reserve(execID); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			c.forget(execID)
		}
	}()
	config := c.lc.Config()
	uid, err := config.HostRootUID()
	if err != nil {
		return fmt.Errorf("root uid: %w", err)
	}
	gid, err := config.HostRootGID()
	if err != nil {
		return fmt.Errorf("root gid: %w", err)
	}
	end := span(ctx, "pipes or terminal")
	sio, err := openStdio(st, want, lp, uid, gid)
	end()
	if err != nil {
		return err
	}
	p := &proc{lp: lp, io: sio, exited: make(chan struct{}), sent: make(chan struct{})}
	if err := c.startProcess(ctx, p); err != nil {
		sio.abort()
		return err
	}
	c.mu.Lock()
	c.procs[execID] = p
	c.mu.Unlock()
	go func() {
		p.watch(c.reap, func() {
			if execID == "" && !config.Namespaces.IsPrivate(configs.NEWPID) {
				c.killRest()
			}
		})
		if execID != "" {
			c.retire(execID)
		}
	}()
	return nil
}

// startProcess starts p and its stdio.
func (c *container) startProcess(ctx context.Context, p *proc) error {
	c.reap.begin()
	defer func() { c.reap.end(p.pid) }()
	end := span(ctx, "process started, up to its execve")
	done := phases(ctx, c.lc, p.lp)
	start := c.lc.Start
	if p.lp.Init {
		start = func(lp *libcontainer.Process) error { return c.startInit(ctx, lp) }
	}
	if err := start(p.lp); err != nil {
		return err
	}
	done()
	end()
	pid, err := p.lp.Pid()
	if err != nil {
		return fmt.Errorf("pid: %w", err)
	}
	if err := p.io.start(); err != nil {
		_ = p.lp.Signal(unix.SIGKILL)
		_, _ = p.lp.Wait()
		return err
	}
	p.pid = pid
	return nil
}

func (c *container) reserve(execID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.procs[execID]; ok {
		return fmt.Errorf("%q: %w", execID, errProcessExists)
	}
	c.procs[execID] = nil
	return nil
}

// maxFinished is how many ended execs a container remembers for a late Wait: a
// health check adds one every few seconds, for ever.
const maxFinished = 256

// retire remembers an ended exec and forgets the oldest.
func (c *container) retire(execID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finished = append(c.finished, execID)
	if len(c.finished) > maxFinished {
		delete(c.procs, c.finished[0])
		c.finished = c.finished[1:]
	}
}

func (c *container) forget(execID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.procs, execID)
}

// proc returns a started process.
func (c *container) proc(execID string) (*proc, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.procs[execID]
	if p == nil {
		return nil, fmt.Errorf("%q: %w", execID, errNoProcess)
	}
	return p, nil
}

// start lets init execve and returns after it happened.
func (c *container) start(ctx context.Context) error {
	init, err := c.proc("")
	if err != nil {
		return err
	}
	if err := setLimits(init.pid, c.late); err != nil {
		return err
	}
	end := span(ctx, "libcontainer: init may go on")
	if err := c.lc.Exec(); err != nil {
		return err
	}
	end()
	end = span(ctx, "execve seen")
	seen, err := awaitExec(init)
	end()
	if err != nil {
		return err
	}
	// "If any startContainer hook fails, the runtime MUST generate an error"
	// (runtime.md, lifecycle). A program that ended between two looks may have
	// chosen the same status, so it is believed only where hooks were run.
	if !seen && c.hooked && init.status == initFailed {
		return errBeforeExec
	}
	init.started.Store(monotonic())
	return nil
}

// awaitExec returns when p runs a program other than the agent's, or has ended;
// seen says that the program was seen. libcontainer tells only that the execve is
// near: startContainer hooks and the execve itself are still to come, and a
// signal in between would meet the wrong program. The kernel has no event for
// it, so this is polled; it takes a few turns.
func awaitExec(p *proc) (seen bool, err error) {
	var self, now unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &self); err != nil {
		return false, fmt.Errorf("own program: %w", err)
	}
	path := "/proc/" + strconv.Itoa(p.pid) + "/exe"
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 2*time.Millisecond) {
		err := unix.Stat(path, &now)
		if err == nil && (now.Dev != self.Dev || now.Ino != self.Ino) {
			return true, nil
		}
		select {
		case <-p.exited:
			return false, nil
		case <-time.After(pause):
		}
	}
}

// initFailed is the status libcontainer.Init exits with.
const initFailed = 255

// exec starts one more process.
func (c *container) exec(ctx context.Context, st *stdioStreams, req *api.ExecRequest) (*proc, error) {
	if req.GetExecId() == "" {
		return nil, fmt.Errorf("%w: no exec ID", errProcess)
	}
	status, err := c.lc.Status()
	if err != nil {
		return nil, err
	}
	switch status {
	case libcontainer.Stopped:
		return nil, errExecStopped
	case libcontainer.Paused:
		return nil, errExecPaused
	}
	var spec specs.Process
	if err := json.Unmarshal(req.GetProcess(), &spec); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	lp, err := newProcess(&spec)
	if err != nil {
		return nil, err
	}
	if sub := req.GetCgroup(); sub != "" {
		lp.SubCgroupPaths = map[string]string{"": sub}
	}
	if err := c.launch(ctx, st, req.GetExecId(), lp, req.GetStdio()); err != nil {
		return nil, err
	}
	return c.proc(req.GetExecId())
}

// signal sends sig to one process.
func (c *container) signal(execID string, sig syscall.Signal) error {
	p, err := c.proc(execID)
	if err != nil {
		return err
	}
	select {
	case <-p.exited:
		return errFinished
	default:
	}
	if execID == "" {
		awaitHandler(p, sig)
		// Knows about paused containers and shared pid namespaces.
		err = c.lc.Signal(sig)
	} else {
		err = p.lp.Signal(sig)
	}
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, libcontainer.ErrNotRunning) || errors.Is(err, unix.ESRCH) {
		return errFinished
	}
	return err
}

// signalAll sends sig to every process there is. None is no error.
func (c *container) signalAll(sig syscall.Signal) error {
	if sig == unix.SIGKILL {
		return c.killAll()
	}
	pids, err := c.lc.Processes()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			return fmt.Errorf("signal %d: %w", pid, err)
		}
	}
	return nil
}

// killAll kills everything in the container's cgroup, frozen or not.
func (c *container) killAll() error {
	err := os.WriteFile(filepath.Join(c.cgroup, "cgroup.kill"), []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("kill: %w", err)
	}
	return nil
}

// killRest is called when init has ended. "If a PID namespace is shared" the
// kernel does not end the others with it.
func (c *container) killRest() {
	if err := c.killAll(); err != nil {
		logf("container %s: %v", c.id, err)
	}
}

// oomKills counts how often the cgroup's processes were OOM killed; 0 when the
// cgroup is gone.
func (c *container) oomKills() uint64 {
	n, err := fs2.OOMKillCount(c.cgroup)
	if err != nil {
		return 0
	}
	return n
}

// delete removes a stopped container. What still held its streams lets go.
func (c *container) delete() error {
	if err := c.destroy(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.procs {
		if p != nil {
			p.io.abort()
		}
	}
	return nil
}

func (c *container) destroy() error {
	c.filters.forget(c.cgroup)
	return c.lc.Destroy()
}
