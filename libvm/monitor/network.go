//go:build linux

package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/network"
	"github.com/runm/runm/libvm/vmm"
)

// settleTime is how long the namespace must be quiet before a change is carried
// into the guest: a client makes an interface in several steps. In one that is
// never quiet (a routing daemon's) a change waits for settleLimit at most.
const (
	settleTime  = 20 * time.Millisecond
	settleLimit = 200 * time.Millisecond
)

// settling fires when changes are to be carried over.
type settling struct {
	*time.Timer
	latest time.Time // when it fires in any case; zero without a change
}

func newSettling() *settling {
	t := time.NewTimer(settleTime)
	t.Stop()
	return &settling{Timer: t}
}

// changed puts it off, within the limit.
func (s *settling) changed() {
	now := time.Now()
	if s.latest.IsZero() {
		s.latest = now.Add(settleLimit)
	}
	s.Reset(min(settleTime, s.latest.Sub(now)))
}

// carried: what comes next is another change.
func (s *settling) carried() { s.latest = time.Time{} }

// wiring keeps the guest's network like the namespace's, beside the owner. A
// machine without NICs has none.
type wiring struct {
	net    *network.Network
	m      *monitor
	syncs  chan chan<- error // asks for one, and for its result
	quit   chan struct{}
	closed chan error // the result of closing, once
	// resolving: the guest has been offered the namespace's DNS server.
	resolving bool
}

// openTaps gives each NIC of cfg its tap, as soon as the holder has a network
// namespace. It returns nil when there is no NIC.
func (m *monitor) openTaps(ctx context.Context, cfg *vmm.Config) (*network.Network, error) {
	if len(cfg.NICs) == 0 {
		return nil, nil
	}
	var ns *network.Namespace
	select {
	case ns = <-m.namespace:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	n, nics, err := network.Open(ns, cfg.NICs)
	if err != nil {
		return nil, err
	}
	cfg.NICs = nics // the driver's from here on
	m.log.Debug("taps are made")
	return n, nil
}

// findNamespace opens the holder's network namespace for openTaps.
func (m *monitor) findNamespace(pid int) error {
	if len(m.setup.Plan.Machine.NICs) == 0 {
		return nil
	}
	ns, err := network.OpenNamespace(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	m.namespace <- ns
	return nil
}

// wire starts to keep the guest's network like n's namespace's.
func (m *monitor) wire(n *network.Network) *wiring {
	w := &wiring{net: n, m: m, syncs: make(chan chan<- error), quit: make(chan struct{}), closed: make(chan error, 1)}
	go w.run()
	return w
}

// run owns the network until close.
func (w *wiring) run() {
	changed, stop, err := w.net.Watch()
	if err != nil {
		w.m.log.Error(err)
	} else {
		defer stop()
	}
	defer func() { w.closed <- w.net.Close() }()
	loopback, err := w.net.Namespace().ListenLoopback()
	if err != nil {
		w.m.log.Warn("network: what connects to 127.0.0.1 in the namespace (kubectl port-forward) finds nobody: ", err)
	} else {
		ctx, cancel := context.WithCancel(context.Background())
		defer func() {
			cancel()
			if err := loopback.Close(); err != nil {
				w.m.log.Warn("network: ", err)
			}
		}()
		loopback.Serve(ctx, w.dial)
	}
	// What is there already needs no settling.
	w.follow()
	settled := newSettling()
	for {
		select {
		case _, ok := <-changed:
			if !ok {
				w.m.log.Error("network: its changes are no longer heard of; restart the container to have them")
				changed = nil
				continue
			}
			settled.changed()
		case <-settled.C:
			settled.carried()
			w.follow()
		case result := <-w.syncs:
			result <- w.sync()
		case <-w.quit:
			return
		}
	}
}

// follow carries a change into the guest. Before start its errors are not the
// last word.
func (w *wiring) follow() {
	if err := w.sync(); err != nil {
		w.m.log.Warn("network: ", err)
	}
}

// sync makes the guest's network what the namespace's is.
func (w *wiring) sync() error {
	ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	err := w.net.Sync(ctx, w)
	if !w.resolving {
		err = errors.Join(err, w.resolve(ctx))
	}
	return err
}

// await is sync, for the owner's helpers.
func (w *wiring) await(ctx context.Context) error {
	if w == nil {
		return nil
	}
	result := make(chan error, 1)
	select {
	case w.syncs <- result:
	case <-ctx.Done():
		return fmt.Errorf("network: %w", ctx.Err())
	}
	select {
	case err := <-result:
		if err != nil {
			return fmt.Errorf("network: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("network: %w", ctx.Err())
	}
}

// close undoes what was done to the namespace's interfaces. The machine has
// ended, so nobody waits for the guest.
func (w *wiring) close() {
	if w == nil {
		return
	}
	close(w.quit)
	if err := <-w.closed; err != nil {
		w.m.log.Warn("network: ", err)
	}
}

// resolve offers the namespace's DNS server to the guest, once there is one.
func (w *wiring) resolve(ctx context.Context) error {
	found, err := w.net.FindResolver()
	if err != nil || !found {
		return err
	}
	stream, err := w.m.guest.open(ctx)
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	go w.net.Namespace().Resolve(stream)
	err = w.m.awake(ctx, func() error {
		_, err := w.m.guest.agent.Resolver(ctx, &api.ResolverRequest{Stream: stream.StreamID()})
		return rpcError(err)
	})
	if err != nil {
		stream.Close()
		return err
	}
	w.resolving = true
	return nil
}

// dial implements network.Dial. Where the machine is paused it waits, as a
// connection to a paused process does.
func (w *wiring) dial(ctx context.Context, to netip.AddrPort) (io.ReadWriteCloser, error) {
	stream, err := w.m.guest.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	_, err = w.m.guest.agent.Connect(ctx, &api.ConnectRequest{
		Stream: stream.StreamID(), Address: to.Addr().AsSlice(), Port: uint32(to.Port()),
	})
	return stream, rpcError(err)
}

// Index implements network.Guest.
func (w *wiring) Index(mac net.HardwareAddr) int {
	for _, n := range w.m.guest.hello.Nics {
		if bytes.Equal(n.Mac, mac) {
			return int(n.Index)
		}
	}
	return 0
}

// Rtnetlink implements network.Guest.
func (w *wiring) Rtnetlink(ctx context.Context, messages [][]byte) (answers []unix.Errno, err error) {
	err = w.m.awake(ctx, func() error {
		resp, err := w.m.guest.agent.Rtnetlink(ctx, &api.RtnetlinkRequest{Messages: messages})
		if err != nil {
			return rpcError(err)
		}
		for _, errno := range resp.Errnos {
			answers = append(answers, unix.Errno(errno))
		}
		w.m.log.WithField("messages", len(messages)).Debug("the guest's network is changed")
		return nil
	})
	return answers, err
}
