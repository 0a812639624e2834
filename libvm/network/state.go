//go:build linux

package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// state is what the guest's network is to be, in the guest's own indexes.
type state struct {
	nics    []nicState // by NIC
	entries []entry    // in the order in which they can be added
	// unsure: any of it may be missing, because the guest did not say.
	unsure bool
}

// nicState is one NIC. A bare one stands for no interface: it is down, and has
// a name out of the way.
type nicState struct {
	name string
	mac  string // the bytes of a MAC
	mtu  int
	up   bool
}

// entry is an address, neighbour, route or rule: an rtnetlink message but for
// its header. It is equal to another if its bytes are.
type entry struct {
	add     int // RTM_NEWADDR, …; RTM_DELx is one above (linux/rtnetlink.h)
	payload string
	what    string // for errors
}

// translate turns what the namespace has into the guest's. index gives the
// guest's index of an interface of the namespace; what belongs to others is
// left out. up are the interfaces, by the guest's index, that are up.
func (s *snapshot) translate(index map[int]int, up map[int]bool) ([]entry, error) {
	t := translator{index: index, up: up, connected: map[prefix]*connected{}}
	for _, one := range []struct {
		list [][]byte
		f    func([]byte) error
	}{
		// Routes first: they say which of them the guest's kernel will make
		// itself, for an address.
		{s.routes, t.route}, {s.addresses, t.address}, {s.neighbours, t.neighbour}, {s.rules, t.rule},
	} {
		for _, payload := range one.list {
			if !isIP(payload) {
				continue
			}
			if err := one.f(payload); err != nil {
				return nil, err
			}
		}
	}
	for _, c := range t.order {
		if !c.made {
			t.direct = append(t.direct, c.entry)
		}
	}
	return slices.Concat(t.addresses, t.neighbours, t.direct, t.gatewayed, t.rules), nil
}

type translator struct {
	index map[int]int
	up    map[int]bool
	// connected are the routes that the namespace's kernel made for an address;
	// order has them as they came.
	connected map[prefix]*connected
	order     []*connected

	addresses, neighbours, rules []entry
	direct, gatewayed            []entry // routes without and with a gateway
}

// connected is the route to an address's network. made: the guest's kernel will
// make it too.
type connected struct {
	entry
	made bool
}

// prefix is where a connected route leads.
type prefix struct {
	link int // the guest's index
	to   netip.Prefix
}

func (t *translator) address(payload []byte) error {
	const size = unix.SizeofIfAddrmsg
	attrs, err := attributes(payload, size)
	if err != nil {
		return err
	}
	h := nl.DeserializeIfAddrmsg(payload)
	link, ok := t.index[int(h.Index)]
	if !ok {
		return nil
	}
	flags := uint32(h.Flags)
	var local, peer, kept []byte
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFA_FLAGS:
			flags = native.Uint32(a.Value)
			continue
		case unix.IFA_LOCAL:
			local = a.Value
		case unix.IFA_ADDRESS:
			peer = a.Value
		case unix.IFA_BROADCAST, unix.IFA_LABEL, unix.IFA_RT_PRIORITY:
		default:
			continue
		}
		kept = appendAttr(kept, a.Attr.Type, a.Value)
	}
	v6 := h.Family == unix.AF_INET6
	if v6 && flags&unix.IFA_F_PERMANENT == 0 || flags&unix.IFA_F_DADFAILED != 0 {
		// A router's advertisement gave it, and the guest hears those itself.
		return nil
	}
	if local == nil {
		local = peer
	}
	keep := flags & (unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN)
	if v6 {
		// The namespace's kernel has looked for duplicates. Its own question
		// must not be taken for one by the guest.
		keep |= unix.IFA_F_NODAD
	}
	network, err := prefixOf(peer, int(h.Prefixlen))
	if err != nil {
		return err
	}
	if hasPrefixRoute(flags, h.Prefixlen, v6) {
		if c := t.connected[prefix{link, network}]; c != nil {
			c.made = true
		} else if t.up[link] {
			// Somebody took the route away that the kernel made.
			keep |= unix.IFA_F_NOPREFIXROUTE
		}
	}
	out := []byte{h.Family, h.Prefixlen, 0, h.Scope}
	out = native.AppendUint32(out, uint32(link))
	out = append(out, kept...)
	out = appendAttr(out, unix.IFA_FLAGS, native.AppendUint32(nil, keep))
	t.addresses = append(t.addresses, entry{unix.RTM_NEWADDR, string(out), fmt.Sprintf("address %s/%d", ip(local), h.Prefixlen)})
	return nil
}

// hasPrefixRoute reports whether the kernel makes a connected route for such an
// address (net/ipv4/devinet.c, net/ipv6/addrconf.c).
func hasPrefixRoute(flags uint32, length uint8, v6 bool) bool {
	return flags&unix.IFA_F_NOPREFIXROUTE == 0 && (v6 || length < 32 && flags&unix.IFA_F_SECONDARY == 0)
}

func (t *translator) neighbour(payload []byte) error {
	const size = unix.SizeofNdMsg
	attrs, err := attributes(payload, size)
	if err != nil {
		return err
	}
	// struct ndmsg: family, 3 bytes, index, state (2 bytes), flags, type.
	link, ok := t.index[int(native.Uint32(payload[4:]))]
	state := native.Uint16(payload[8:])
	if !ok || state&unix.NUD_PERMANENT == 0 {
		return nil // learnt; the guest learns its own
	}
	out := bytes.Clone(payload[:size])
	native.PutUint32(out[4:], uint32(link))
	what := "neighbour"
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.NDA_DST:
			what = "neighbour " + ip(a.Value)
			fallthrough
		case unix.NDA_LLADDR:
			out = appendAttr(out, a.Attr.Type, a.Value)
		}
	}
	t.neighbours = append(t.neighbours, entry{unix.RTM_NEWNEIGH, string(out), what})
	return nil
}

// rule takes what somebody added to the three rules that every namespace has.
// It names interfaces by their names, which are the guest's too.
func (t *translator) rule(payload []byte) error {
	attrs, err := attributes(payload, sizeofRuleHeader)
	if err != nil {
		return err
	}
	out := bytes.Clone(payload[:sizeofRuleHeader])
	flags := native.Uint32(out[8:])
	native.PutUint32(out[8:], flags&unix.FIB_RULE_INVERT)
	for _, a := range attrs {
		if a.Attr.Type == unix.FRA_PROTOCOL && len(a.Value) == 1 && a.Value[0] == unix.RTPROT_KERNEL {
			return nil
		}
		out = appendAttr(out, a.Attr.Type, a.Value)
	}
	t.rules = append(t.rules, entry{unix.RTM_NEWRULE, string(out), fmt.Sprintf("rule of table %d", out[4])})
	return nil
}

// prefixOf is the network of an address.
func prefixOf(addr []byte, length int) (netip.Prefix, error) {
	a, ok := netip.AddrFromSlice(addr)
	if !ok {
		return netip.Prefix{}, fmt.Errorf("rtnetlink: address of %d bytes: %w", len(addr), unix.EBADMSG)
	}
	p, err := a.Prefix(length)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("rtnetlink: %w", err)
	}
	return p, nil
}

// ip is the text of an address.
func ip(b []byte) string {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return fmt.Sprintf("%x", b)
	}
	return a.String()
}
