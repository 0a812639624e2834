//go:build linux

package monitor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/undo"
	"github.com/runm/runm/libvm/vmm"
)

// rpcTimeout bounds a call that the agent answers from memory. The guest is
// hostile: silence must not hang a command.
const rpcTimeout = 20 * time.Second

// guest is a booted machine and the conversation with its agent.
type guest struct {
	machine vmm.Machine
	session *yamux.Session
	agent   api.AgentService
	client  *ttrpc.Client
	// booted: the machine is none that was cloned.
	booted bool
	// gone gets the machine's end, once.
	gone chan error
	// opening is held by whoever opens a stream.
	opening chan struct{}
	// broken is what the guest did for which its machine was ended.
	broken atomic.Pointer[error]
	// hello is what the agent said first.
	hello *api.HelloResponse
	// unanswered counts requests.
	unanswered atomic.Int64
	calls      calls
	clock      clock
	leaving    leaving
}

// newGuest waits for the agent of a machine that was started, whose share is the
// given one. started is told of the machine first. On error nothing of the
// machine is left.
func newGuest(ctx context.Context, machine vmm.Machine, share vmm.Share, debug bool, started func(vmm.Machine) error) (_ *guest, err error) {
	g := &guest{machine: machine, gone: make(chan error, 1), opening: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	var u undo.Stack
	u.Push(func() error {
		machine.Kill()
		<-ended
		return nil
	})
	defer func() {
		if err != nil {
			err = errors.Join(err, u.Run())
		}
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		err := machine.Wait()
		switch broken := g.broken.Load(); {
		case broken != nil:
			err = *broken
		case err == nil:
			err = errors.New("the machine has ended")
		}
		cancel(err)
		g.gone <- err
		ended <- err
	}()
	if err := started(machine); err != nil {
		return nil, err
	}
	stream, err := machine.Dial(ctx)
	if err != nil {
		return nil, g.failure(ctx, fmt.Errorf("connect to the agent: %w", err))
	}
	u.Push(func() error {
		_ = stream.Close() // the session may have done so
		return nil
	})
	if err := g.greet(ctx, stream, share, debug); err != nil {
		return nil, g.failure(ctx, err)
	}
	u.Keep()
	return g, nil
}

// greet opens the conversation.
func (g *guest) greet(ctx context.Context, stream io.ReadWriteCloser, share vmm.Share, debug bool) (err error) {
	if g.session, err = api.Host(stream); err != nil {
		return fmt.Errorf("agent stream: %w", err)
	}
	go g.watch()
	rpc, err := g.open(ctx)
	if err != nil {
		return fmt.Errorf("agent stream: %w", err)
	}
	g.client = ttrpc.NewClient(rpc, ttrpc.WithUnaryClientInterceptor(g.intercept))
	g.agent = api.NewAgentClient(g.client)
	entropy := make([]byte, 64)
	if _, err := rand.Read(entropy); err != nil {
		return fmt.Errorf("entropy: %w", err)
	}
	g.hello, err = g.agent.Hello(ctx, &api.HelloRequest{
		Version: api.Version,
		// That of the machine's start: it waits for the agent. It is corrected
		// while nobody waits, before the container is started (followClock).
		UnixNano:  time.Now().UnixNano(),
		Entropy:   entropy,
		ShareType: string(share.Type),
		ShareTag:  share.Tag,
		Debug:     debug,
	})
	if err != nil {
		return fmt.Errorf("agent: %w", rpcError(err))
	}
	if g.hello.Version != api.Version {
		return &agentError{codes.FailedPrecondition, fmt.Sprintf(
			"agent speaks version %d of the protocol, runm version %d: rebuild the initramfs", g.hello.Version, api.Version)}
	}
	return nil
}

// open opens a stream, within ctx. The library waits for as long as a guest does
// not read, or does not accept; who does so waits alone, and all others for their
// turn: a guest costs no more however often it is tried.
func (g *guest) open(ctx context.Context) (*yamux.Stream, error) {
	select {
	case g.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, errNoStream(ctx)
	}
	opened := make(chan error, 1)
	var st *yamux.Stream
	go func() {
		var err error
		st, err = g.session.OpenStream()
		<-g.opening
		opened <- err
	}()
	select {
	case err := <-opened:
		return st, err
	case <-ctx.Done():
		go func() {
			if err := <-opened; err == nil {
				st.Close()
			}
		}()
		return nil, errNoStream(ctx)
	}
}

func errNoStream(ctx context.Context) error {
	return fmt.Errorf("the guest does not take a stream: %w", context.Cause(ctx))
}

// watch ends the machine of a guest that breaks the protocol. A session may also
// end because the machine does, which then says why.
func (g *guest) watch() {
	_, err := g.session.Accept() // nothing is accepted: its error is the session's
	for _, wrong := range []error{api.ErrFrame, yamux.ErrRecvWindowExceeded, yamux.ErrUnexpectedFlag} {
		if errors.Is(err, wrong) {
			err = fmt.Errorf("the guest's stream: %w", err)
			g.broken.Store(&err)
			g.machine.Kill()
			return
		}
	}
}

// endGrace bounds how long a machine whose stream has broken may take to end,
// and to say why.
const endGrace = 3 * time.Second

// failure says why the machine did not get to where err came up: with the
// machine's own end, if it has ended, and what the guest printed last. What the
// agent itself said needs no more.
func (g *guest) failure(ctx context.Context, err error) error {
	var said *agentError
	if errors.As(err, &said) {
		return err
	}
	select {
	case cause := <-g.gone:
		g.gone <- cause // whoever else waits sees it too
		err = fmt.Errorf("the guest's agent did not answer: %w", cause)
	case <-ctx.Done():
		err = fmt.Errorf("the guest's agent did not answer: %w", context.Cause(ctx))
	case <-time.After(endGrace):
	}
	return withConsole(err, g.machine)
}

// withConsole adds to err what the guest printed last.
func withConsole(err error, m vmm.Machine) error {
	if text := consoleTail(m.Console()); text != "" {
		return fmt.Errorf("%w; the guest's console ends with: %s", err, text)
	}
	return err
}

// consoleTail makes the guest's last words fit to be shown: one line, no
// control characters, at most 600 bytes.
func consoleTail(console []byte) string {
	lines := bytes.Split(bytes.TrimSpace(console), []byte("\n"))
	lines = lines[max(0, len(lines)-6):]
	var out []string
	for _, l := range lines {
		clean := strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return -1
			}
			return r
		}, string(l))
		if clean != "" {
			out = append(out, clean)
		}
	}
	text := strings.Join(out, " | ")
	return text[max(0, len(text)-600):]
}

// create makes the container in the guest. One that the guest makes only after ctx
// has ended is removed there as soon as it is made.
func (g *guest) create(ctx context.Context, s *Setup, io *stdio) error {
	spec, err := json.Marshal(s.Plan.Guest)
	if err != nil {
		return fmt.Errorf("encode the guest's spec: %w", err)
	}
	if err := g.leaving.wait(ctx, s.ID); err != nil {
		return err
	}
	answer := make(chan error, 1)
	go func() {
		// Without ctx's end: the answer is wanted however late it is.
		_, err := g.agent.Create(context.WithoutCancel(ctx), &api.CreateRequest{
			Id: s.ID, Spec: spec, Stdio: io.api,
			NoNewKeyring: s.Flags.NoNewKeyring, NoPivot: s.Flags.NoPivot,
		})
		answer <- err
	}()
	select {
	case err = <-answer:
	case <-ctx.Done():
		err = context.Cause(ctx)
		g.leaving.begin(s.ID, func() {
			if err := <-answer; err == nil {
				g.remove(s.ID)
			}
		})
	}
	if err != nil {
		return g.failure(ctx, rpcError(err))
	}
	return nil
}

// remove takes away a container that nobody wants any more. It returns when the
// guest has done so, however long that takes, or the machine has ended.
func (g *guest) remove(id string) {
	ctx := context.Background()
	_, err := g.agent.Signal(ctx, &api.SignalRequest{Id: id, Signal: uint32(unix.SIGKILL), All: true})
	if err == nil {
		_, err = g.agent.Wait(ctx, &api.WaitRequest{Id: id})
	}
	if err == nil {
		_, _ = g.agent.Delete(ctx, &api.ContainerRequest{Id: id})
	}
}

// leaving are the containers that are not wanted any more and are still in the
// guest. Their ids can be used again when they have gone.
type leaving struct {
	mu sync.Mutex
	by map[string]chan struct{} // by id, closed when it has gone
}

// begin lets gone, which returns when the container has gone, run beside.
func (l *leaving) begin(id string, gone func()) {
	done := make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = map[string]chan struct{}{}
	}
	l.by[id] = done
	go func() {
		gone()
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.by, id)
		close(done)
	}()
}

// wait returns when no container called id is about to go.
func (l *leaving) wait(ctx context.Context, id string) error {
	l.mu.Lock()
	done := l.by[id]
	l.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("a container of this id that was given up is still in the guest: %w", context.Cause(ctx))
	}
}

// end kills the machine and waits until it is gone.
func (g *guest) end() {
	g.machine.Kill()
	g.gone <- <-g.gone // whoever else waits sees it too
}

// rpcError takes the agent's own words out of a ttrpc error.
func rpcError(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	return &agentError{code: s.Code(), text: clean(s.Message())}
}

// agentError is an error of the guest's: text to be shown, never trusted.
type agentError struct {
	code codes.Code
	text string
}

func (e *agentError) Error() string { return e.text }

// clean bounds what a hostile guest can print on the user's terminal: one line
// of what Unicode calls graphic. Of the rest some would be obeyed by a terminal
// (C0, C1), some would change how the text beside it reads (bidirectional
// overrides, line separators, characters of no width).
func clean(s string) string {
	const most = 4 << 10
	s = s[:min(len(s), most)]
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && r != '\t' || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
}
