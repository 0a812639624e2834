//go:build linux

package template

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/network"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/vmm"
)

// A template is made by a process of its own, so that nobody waits for it: it
// outlives the create that starts it, keeps none of its files, and is the last
// whom the host's scheduler serves. One that somebody waits for is served as its
// caller is.

// Arg0 is the name under which runm is this process.
const Arg0 = "runm-template"

// Descriptors of the builder.
const (
	fdOrder  = 3 + iota // where the Order comes from
	fdResult            // where the error's text goes, or /dev/null
)

const (
	// lowest is the priority of a builder that nobody waits for, and of its machine.
	lowest = 19
	// buildTimeout bounds a build: on a busy host the lowest priority gets little.
	buildTimeout = 10 * time.Minute
	// retryAfter is how long no template of a shape is made in the background
	// after one could not be made, or not be cloned.
	retryAfter = 10 * time.Minute
)

// Order is what a builder is to make.
type Order struct {
	Store   Store      `json:"store"`
	Machine vmm.Config `json:"machine"`
	// QEMU and Virtiofsd are the driver's programs.
	QEMU      string `json:"qemu"`
	Virtiofsd string `json:"virtiofsd"`
}

// NewDriver makes the driver of an order; main chooses which there are.
type NewDriver func(o Order) vmm.Driver

// Begin starts to make a template in the background. Nobody hears of its end:
// what went wrong is in the store (Store.LastFailure).
func Begin(o Order) error {
	cmd, err := start(o, nil)
	if err != nil {
		return err
	}
	// A caller that outlives it, an attached run, must not keep a zombie.
	go func() { _ = cmd.Wait() }()
	return nil
}

// Run makes a template and waits for it. The end of ctx ends it.
func Run(ctx context.Context, o Order) error {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ours.Close()
	cmd, err := start(o, theirs)
	theirs.Close()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) })()
	text, err := io.ReadAll(ours)
	werr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case len(text) > 0:
		return errors.New(string(text))
	default:
		return errors.Join(err, werr)
	}
}

func start(o Order, result *os.File) (*exec.Cmd, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	attr := &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNET}
	if result == nil {
		result = null
	} else {
		attr.Pdeathsig = syscall.SIGTERM
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer theirs.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{Arg0}, Dir: "/",
		Env:        []string{"PATH=" + os.Getenv("PATH"), "HOME=/"},
		ExtraFiles: []*os.File{ours, result}, SysProcAttr: attr,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start to make a template: %w", err)
	}
	ours.Close() // else a builder that is gone would not be noticed
	// A pipe takes 64 KiB at once.
	if err := json.NewEncoder(theirs).Encode(o); err != nil {
		_ = cmd.Process.Kill()
		return nil, errors.Join(fmt.Errorf("start to make a template: %w", err), cmd.Wait())
	}
	return cmd, nil
}

// Main is the builder's life.
func Main(newDriver NewDriver) int {
	proc.SetName(Arg0)
	result := os.NewFile(fdResult, "result")
	err := run(newDriver, result)
	if err != nil {
		fmt.Fprint(result, err)
		return 1
	}
	return 0
}

func run(newDriver NewDriver, result *os.File) error {
	for fd := fdOrder; fd <= fdResult; fd++ {
		unix.CloseOnExec(fd)
	}
	// What leaked into create must not live as long as this.
	if err := proc.CloseLeaked(fdResult + 1); err != nil {
		return err
	}
	st, err := result.Stat()
	if err != nil {
		return err
	}
	// Its caller may be a daemon that must not be killed.
	if err := ordinary(); err != nil {
		return err
	}
	wanted := st.Mode()&os.ModeNamedPipe != 0 // somebody waits
	if !wanted {
		if err := yield(os.Getpid()); err != nil {
			return err
		}
	}
	var o Order
	in := os.NewFile(fdOrder, "order")
	defer in.Close()
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return fmt.Errorf("order: %w", err)
	}
	d, ok := newDriver(o).(vmm.Cloner)
	if !ok {
		return fmt.Errorf("templates: %w", vmm.ErrNotSupported)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), buildTimeout,
		fmt.Errorf("not made within %v", buildTimeout))
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	return o.make(ctx, d, wanted)
}

// ordinary makes this process, and the machine that it starts, at least as likely
// to be killed where memory runs out as an ordinary one.
func ordinary() error {
	adj, err := proc.OOMScoreAdj()
	if err != nil || adj >= 0 {
		return err
	}
	self, err := proc.Self()
	if err != nil {
		return err
	}
	return self.SetOOMScoreAdj(0)
}

// yield lets a process of its own session run when nobody else wants to. The
// session counts, too, where the scheduler groups by sessions (sched(7), "The
// autogroup feature"): all of a group together get what one process outside does.
func yield(pid int) error {
	if err := yieldThreads(pid); err != nil {
		return fmt.Errorf("priority: %w", err)
	}
	err := os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte(strconv.Itoa(lowest)), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("priority: %w", err)
	}
	return nil
}

// yieldThreads lowers all threads: each has a priority of its own
// (setpriority(2)), which those have that it makes, and what it forks.
func yieldThreads(pid int) error {
	for done := map[string]bool{}; ; {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has ended: whoever waits for it says why
		}
		if err != nil {
			return err
		}
		before := len(done)
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := unix.Setpriority(unix.PRIO_PROCESS, tid, lowest); err != nil && err != unix.ESRCH {
				return os.NewSyscallError("setpriority", err)
			}
			done[t.Name()] = true
		}
		if len(done) == before {
			return nil // the others were made by one of these
		}
	}
}

func (o Order) make(ctx context.Context, d vmm.Cloner, wanted bool) error {
	shape, err := d.Shape(&o.Machine)
	if err != nil {
		return err
	}
	if !wanted && o.Store.failedLately(Key(shape)) {
		return nil
	}
	cfg := o.Machine
	if len(cfg.NICs) > 0 {
		ns, err := network.OpenNamespace("/proc/self/ns/net") // this process's own
		if err != nil {
			return err
		}
		taps, nics, err := network.Open(ns, cfg.NICs)
		if err != nil {
			return err
		}
		defer taps.Close()
		cfg.NICs = nics // the driver's from here on
	}
	err = o.Store.Make(ctx, d, &cfg, wanted)
	if errors.Is(err, ErrBusy) {
		return err
	}
	// A store that cannot be used has been complained of.
	return cmp.Or(err, o.Store.noteFailure(Key(shape), err))
}
