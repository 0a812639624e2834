//go:build linux

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/vmm"
)

// ErrTooMany: the namespace has more interfaces than the machine has NICs.
var ErrTooMany = errors.New("more network interfaces than the machine has NICs")

// Guest is the machine's agent, as far as it concerns the network.
type Guest interface {
	// Index is that of a NIC in the guest, by the MAC that it was made with; 0
	// if there is none.
	Index(mac net.HardwareAddr) int
	// Rtnetlink gives rtnetlink requests to the guest's kernel, one after
	// another, and returns its answer to each: 0 or an error number.
	Rtnetlink(ctx context.Context, messages [][]byte) ([]unix.Errno, error)
}

// Network connects one machine to one namespace. One goroutine at a time uses
// it.
type Network struct {
	ns     *Namespace
	reader *reader
	nics   []*nic
	// guest is what the guest has: at first only NICs that are set aside.
	guest state
	// resolving: the namespace has a DNS server, which may ask others.
	resolving bool
}

// nic is one of the machine's NICs.
type nic struct {
	mac  net.HardwareAddr // it was made with
	tap  netlink.Link
	link netlink.Link // interface that it stands for, or nil
}

// Open makes a tap for each of a machine's NICs in ns, which it takes over, also
// when it fails. It returns the NICs with the taps' files, which are for the
// driver: the caller closes them. Without anybody who has its file, as when
// monitor and VMM are killed, a tap is gone, too.
func Open(ns *Namespace, nics []vmm.NIC) (_ *Network, connected []vmm.NIC, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, ns.Close())
		}
	}()
	r, err := newReader(ns)
	if err != nil {
		return nil, nil, err
	}
	var taps []tap
	err = ns.Do(func() (err error) {
		taps, err = newTaps(r.handle, len(nics))
		return err
	})
	if err != nil {
		r.close()
		return nil, nil, err
	}
	n := &Network{ns: ns, reader: r}
	connected = slices.Clone(nics)
	for i, t := range taps {
		n.nics = append(n.nics, &nic{mac: nics[i].MAC, tap: t.link})
		n.guest.nics = append(n.guest.nics, nicState{name: spareName(i)})
		connected[i].File = t.file
	}
	return n, connected, nil
}

// Namespace is the container's.
func (n *Network) Namespace() *Namespace { return n.ns }

// Close gives up the namespace: what was done to its interfaces is undone, and
// the taps are deleted, also from under a VMM.
func (n *Network) Close() error {
	var errs []error
	for _, c := range n.nics {
		if c.link != nil {
			errs = append(errs, unredirect(n.reader.handle, c.link))
		}
	}
	n.reader.close()
	return errors.Join(append(errs, n.ns.Do(deleteTaps), n.ns.Close())...)
}

// Sync makes the guest's network what the namespace's is. It may be called
// again whenever that may have changed; nothing is asked of the guest if it has
// not. After an error, what could be done is done, and the next Sync does the
// rest.
func (n *Network) Sync(ctx context.Context, g Guest) error {
	s, err := n.reader.read()
	if err != nil {
		return err
	}
	errs := slices.Clone(s.unfit)
	n.release(s)
	errs = append(errs, n.attach(s)...)
	return errors.Join(append(errs, n.tell(ctx, g, s))...)
}

// release frees the NICs whose interfaces are gone.
func (n *Network) release(s *snapshot) {
	for _, c := range n.nics {
		if c.link == nil || s.link(c.link.Attrs().Index) != nil {
			continue
		}
		// The interface took its part of the redirection with it, unless it is
		// only down: then it goes as the tap's does. A tap that is gone was the
		// machine's.
		_ = unredirect(n.reader.handle, c.link)
		_ = unredirect(n.reader.handle, c.tap)
		_ = n.reader.handle.LinkSetDown(c.tap)
		c.link = nil
	}
}

func (s *snapshot) link(index int) netlink.Link {
	for _, l := range s.links {
		if l.Attrs().Index == index {
			return l
		}
	}
	return nil
}

// attach gives each new interface a NIC, and each old one its present MTU.
func (n *Network) attach(s *snapshot) (errs []error) {
	for _, l := range s.links {
		c := n.find(func(c *nic) bool { return c.link != nil && c.link.Attrs().Index == l.Attrs().Index })
		if c != nil {
			if c.link.Attrs().MTU != l.Attrs().MTU {
				errs = append(errs, wrap("MTU of "+c.tap.Attrs().Name, n.reader.handle.LinkSetMTU(c.tap, l.Attrs().MTU)))
			}
			c.link = l
			continue
		}
		if c = n.find(func(c *nic) bool { return c.link == nil }); c == nil {
			errs = append(errs, fmt.Errorf("%w: there is none for %s, all %d are taken; raise nics in /etc/runm/config.toml, or dev.runm.nics of the container",
				ErrTooMany, l.Attrs().Name, len(n.nics)))
			continue
		}
		if err := n.connect(c, l); err != nil {
			errs = append(errs, err)
			continue
		}
		c.link = l
	}
	return errs
}

func (n *Network) find(f func(*nic) bool) *nic {
	if i := slices.IndexFunc(n.nics, f); i >= 0 {
		return n.nics[i]
	}
	return nil
}

// connect redirects between an interface and a NIC's tap.
func (n *Network) connect(c *nic, l netlink.Link) error {
	h := n.reader.handle
	if err := h.LinkSetMTU(c.tap, l.Attrs().MTU); err != nil {
		return fmt.Errorf("MTU of %s: %w", c.tap.Attrs().Name, err)
	}
	if err := h.LinkSetUp(c.tap); err != nil {
		return fmt.Errorf("turn on %s: %w", c.tap.Attrs().Name, err)
	}
	if err := redirect(h, c.tap, l); err != nil {
		return err
	}
	if err := redirect(h, l, c.tap); err != nil {
		return errors.Join(err, unredirect(h, c.tap))
	}
	if !n.resolving {
		return nil
	}
	if err := exempt(h, l, c.tap); err != nil {
		return errors.Join(err, unredirect(h, l), unredirect(h, c.tap))
	}
	return nil
}

// tell makes the guest's network what the snapshot is.
func (n *Network) tell(ctx context.Context, g Guest, s *snapshot) error {
	to := state{}
	index, up, indexes := map[int]int{}, map[int]bool{}, []int{}
	for i, c := range n.nics {
		guest := g.Index(c.mac)
		if guest == 0 {
			return fmt.Errorf("the guest has no NIC with the address %s", c.mac)
		}
		indexes = append(indexes, guest)
		if c.link == nil {
			to.nics = append(to.nics, nicState{name: spareName(i)})
			continue
		}
		a := c.link.Attrs()
		index[a.Index], up[guest] = guest, isUp(c.link)
		to.nics = append(to.nics, nicState{name: a.Name, mac: string(a.HardwareAddr), mtu: a.MTU, up: isUp(c.link)})
	}
	var err error
	if to.entries, err = s.translate(index, up); err != nil {
		return err
	}
	messages := changes(n.guest, to, indexes)
	if len(messages) == 0 {
		return nil
	}
	// Until the guest has answered it may have both.
	n.guest = state{entries: union(n.guest.entries, to.entries), unsure: true}
	raw := make([][]byte, len(messages))
	for i, m := range messages {
		raw[i] = m.data
	}
	answers, err := g.Rtnetlink(ctx, raw)
	if err != nil {
		return err
	}
	if err := failure(messages, answers); err != nil {
		return err
	}
	n.guest = to
	return nil
}

// Watch sends on the channel that it returns when something of the namespace's
// network may have changed, until stop is called. Nothing is told twice that
// nobody has received. The channel is closed when there is nothing to be heard
// any more.
func (n *Network) Watch() (changed <-chan struct{}, stop func(), err error) {
	s, err := nl.SubscribeAt(n.ns.handle(), -1, unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return nil, nil, fmt.Errorf("watch network namespace: %w", err)
	}
	ch := make(chan struct{}, 1)
	go func() {
		defer close(ch)
		for {
			_, _, err := s.Receive()
			// So much happened that the kernel had to drop some of it.
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return // stopped, or it is of no use
			}
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}()
	return ch, s.Close, nil
}
