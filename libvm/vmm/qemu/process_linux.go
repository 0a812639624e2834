package qemu

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/runm/runm/libvm/trace"
)

const (
	// stderrTail is how much of a program's last words is kept, in bytes.
	stderrTail = 16 << 10
	// stderrGrace is how long a dead program's stderr may stay open because
	// somebody else inherited it.
	stderrGrace = time.Second
)

// process is a child that dies with this process. It has a session of its own,
// so no terminal signals it, /dev/null for stdin and stdout, and of our
// descriptors only those it was given.
type process struct {
	name   string
	cmd    *exec.Cmd
	stderr *tail
	done   chan struct{} // closed when the child has been reaped
	err    error         // valid after done: why it ended, nil for status 0
}

// program is what launch starts.
type program struct {
	name  string // for errors
	path  string
	args  []string
	env   []string   // besides PATH, HOME and LC_ALL
	files []*os.File // become the descriptors 3, 4, …; the caller closes them
	// confine, when set, runs on the thread that forks, just before, and may
	// restrict it for good.
	confine func() error
	// spans gets the child's life; nil for nobody.
	spans *trace.Recorder
}

// launch starts a child. Every child must be awaited through done.
func launch(prog program) (*process, error) {
	p := &process{name: prog.name, stderr: newTail(stderrTail), done: make(chan struct{})}
	p.cmd = exec.Command(prog.path, prog.args...)
	p.cmd.Stderr = p.stderr
	p.cmd.ExtraFiles = prog.files
	p.cmd.WaitDelay = stderrGrace
	// What the caller has in its environment is not the child's business.
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "LC_ALL=C"}, prog.env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go p.run(prog, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%s: %w", prog.name, err)
	}
	return p, nil
}

// run keeps its thread until the child has ended: the kernel sends the
// parent-death signal when the thread that forked ends, not when the process
// does (prctl(2), PR_SET_PDEATHSIG). The thread is never unlocked, so it ends
// with run: nothing else may run on what confine has left of it.
func (p *process) run(prog program, started chan<- error) {
	runtime.LockOSThread()
	var err error
	if prog.confine != nil {
		err = prog.confine()
	}
	began := trace.Now()
	if err == nil {
		err = p.cmd.Start()
	}
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	prog.spans.Child(p.pid(), p.name, began)
	close(p.done)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the child at once. It may be called again, also after the end:
// os.Process never signals a pid that was reaped.
func (p *process) kill() { _ = p.cmd.Process.Kill() }

// end describes an ended child that should not have ended, in its own words.
func (p *process) end() error {
	words := string(bytes.TrimSpace(p.stderr.Bytes()))
	if words == "" {
		words = "it said nothing"
	}
	if p.err == nil {
		return fmt.Errorf("%s ended before the machine: %s", p.name, words)
	}
	return fmt.Errorf("%s: %w: %s", p.name, p.err, words)
}
