//go:build linux

package script

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/console"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdDialogue runs a command on a terminal and talks to it:
//
//	dialogue N FILE command [args...]
//
// The command must end with status N. The lines of FILE are, in their order,
// `< TEXT` (wait until the terminal shows TEXT), `> TEXT` (type TEXT and
// return), `^ C` (type control-C), `~ 100x40` (resize the window). The window
// is 80x24 at first. What the terminal showed is in the file transcript.
func cmdDialogue(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: dialogue N FILE command [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	term, err := newTerminal(ts, args[2:])
	ts.Check(err)
	err = term.talk(lines([]byte(ts.ReadFile(args[1]))))
	status := term.end(err != nil)
	ts.Check(os.WriteFile(ts.MkAbs("transcript"), []byte(term.text()), 0o644))
	if err != nil {
		ts.Fatalf("%v; the terminal showed:\n%s", err, term.text())
	}
	if status != want {
		ts.Fatalf("exit status %d, want %d; the terminal showed:\n%s", status, want, term.text())
	}
}

// terminal is a pty, and a command that has it.
type terminal struct {
	master console.Console
	cmd    *exec.Cmd
	closed chan struct{} // nobody has the slave any more

	mu    sync.Mutex
	shown strings.Builder
	more  chan struct{} // one slot: something was shown
	read  int           // how much of shown is talked about
}

func newTerminal(ts *testscript.TestScript, line []string) (*terminal, error) {
	master, slavePath, err := console.NewPty()
	if err != nil {
		return nil, err
	}
	if err := master.Resize(console.WinSize{Width: 80, Height: 24}); err != nil {
		return nil, err
	}
	slave, err := os.OpenFile(slavePath, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	cmd := exec.Command(line[0], line[1:]...)
	if line[0] == "runm" {
		cmd.Path, cmd.Err = ts.Getenv("WORK")+"/bin/runm", nil
	}
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "TERM=xterm"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t := &terminal{master: master, cmd: cmd, closed: make(chan struct{}), more: make(chan struct{}, 1)}
	go t.watch()
	return t, nil
}

func (t *terminal) watch() {
	defer close(t.closed)
	buf := make([]byte, 4096)
	for {
		n, err := t.master.Read(buf)
		t.mu.Lock()
		t.shown.Write(buf[:n])
		t.mu.Unlock()
		select {
		case t.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (t *terminal) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shown.String()
}

func (t *terminal) talk(script []string) error {
	for _, line := range script {
		kind, text, _ := strings.Cut(line, " ")
		var err error
		switch kind {
		case "":
		case "<":
			err = t.expect(text)
		case ">":
			_, err = io.WriteString(t.master, text+"\r")
		case "^":
			_, err = t.master.Write([]byte{text[0] & 0x1f})
		case "~":
			var size console.WinSize
			if _, err = fmt.Sscanf(text, "%dx%d", &size.Width, &size.Height); err == nil {
				err = t.master.Resize(size)
			}
		default:
			err = fmt.Errorf("no such line")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	return nil
}

// expect waits until text is shown, after what was expected before.
func (t *terminal) expect(text string) error {
	deadline := time.After(patience)
	for {
		shown := t.text()
		if i := strings.Index(shown[t.read:], text); i >= 0 {
			t.read += i + len(text)
			return nil
		}
		select {
		case <-t.more:
		case <-t.closed:
			if !strings.Contains(t.text()[t.read:], text) {
				return io.ErrUnexpectedEOF
			}
		case <-deadline:
			return os.ErrDeadlineExceeded
		}
	}
}

// end waits for the command, at most patience, and returns its status.
func (t *terminal) end(kill bool) int {
	grace := patience
	if kill {
		grace = 0
	}
	timer := time.AfterFunc(grace, func() { _ = t.cmd.Process.Kill() })
	_ = t.cmd.Wait()
	timer.Stop()
	select {
	case <-t.closed:
	case <-time.After(settle):
	}
	t.master.Close()
	return t.cmd.ProcessState.ExitCode()
}
