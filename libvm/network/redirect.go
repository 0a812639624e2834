//go:build linux

package network

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// filterPriority marks our filters among others': it is that of what takes all,
// and those before it are for exceptions, one for each protocol.
const (
	filterPriority = 0x726d
	exceptions     = 3
)

// redirect sends what arrives at from out of to.
func redirect(h *netlink.Handle, from, to netlink.Link) error {
	name := from.Attrs().Name
	if err := addIngress(h, from); err != nil {
		return fmt.Errorf("redirect %s: %w", name, err)
	}
	// u32 without a key matches everything. It is the classifier that every
	// kernel has.
	err := h.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from.Attrs().Index, Parent: ingressHandle(),
			Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{netlink.NewMirredAction(to.Attrs().Index)},
	})
	if err != nil {
		return errors.Join(
			fmt.Errorf("redirect %s to %s: %w; it takes the kernel's cls_u32 and act_mirred", name, to.Attrs().Name, err),
			unredirect(h, from))
	}
	return nil
}

// ownPorts are the ports, as a value and the mask of what is fixed in it, from
// which the namespace's own programs ask DNS servers elsewhere; the range is
// that of net.ipv4.ip_local_port_range.
const (
	ownPorts      = 0xff00
	ownPortsMask  = 0xff00
	ownPortsRange = "65280 65535"
)

// exempt leaves answers of DNS servers to the namespace's own programs to them:
// what comes from port 53 to one of ownPorts. Fragments and IP options do not
// occur in them, or they are the guest's. Who has asked must know its neighbour:
// such answers are for both. It may be called again, as after an error.
func exempt(h *netlink.Handle, l, tap netlink.Link) error {
	const fromTo, toMask = 53<<16 | ownPorts, 0xffff0000 | ownPortsMask
	both := &netlink.MirredAction{
		ActionAttrs:  netlink.ActionAttrs{Action: netlink.TC_ACT_OK},
		MirredAction: netlink.TCA_EGRESS_MIRROR, Ifindex: tap.Attrs().Index,
	}
	filters := []exception{
		{unix.ETH_P_ARP, both, []netlink.TcU32Key{{Off: 4, Mask: 0x0000ffff, Val: 2}}}, // a reply, RFC 826
		{unix.ETH_P_IPV6, both, []netlink.TcU32Key{ // neighbour advertisement, RFC 4861
			{Off: 4, Mask: 0x0000ff00, Val: unix.IPPROTO_ICMPV6 << 8},
			{Off: 40, Mask: 0xff000000, Val: 136 << 24},
		}},
	}
	for _, transport := range []uint32{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		filters = append(filters,
			exception{unix.ETH_P_IP, nil, []netlink.TcU32Key{ // RFC 791
				{Off: 0, Mask: 0x0f000000, Val: 5 << 24},         // header of 5 words
				{Off: 4, Mask: 0x00001fff},                       // the first fragment
				{Off: 8, Mask: 0x00ff0000, Val: transport << 16}, // protocol
				{Off: 20, Mask: toMask, Val: fromTo},             // ports
			}},
			exception{unix.ETH_P_IPV6, nil, []netlink.TcU32Key{ // RFC 8200
				{Off: 4, Mask: 0x0000ff00, Val: transport << 8}, // next header
				{Off: 40, Mask: toMask, Val: fromTo},
			}})
	}
	// u32 knows no EEXIST: a filter that is there would be there twice.
	for _, f := range filters {
		err := h.FilterDel(f.on(l)) // and all others of the protocol
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("let DNS answers through on %s anew: %w", l.Attrs().Name, err)
		}
	}
	for _, f := range filters {
		if err := h.FilterAdd(f.on(l)); err != nil {
			return fmt.Errorf("let DNS answers through on %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// exception is what an interface does not redirect.
type exception struct {
	protocol uint16         // of the frame
	action   netlink.Action // nil: it goes on as if there were no filter
	keys     []netlink.TcU32Key
}

func (e exception) on(l netlink.Link) *netlink.U32 {
	priority := map[uint16]uint16{unix.ETH_P_ARP: 3, unix.ETH_P_IP: 2, unix.ETH_P_IPV6: 1}
	f := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: l.Attrs().Index, Parent: ingressHandle(),
			Priority: filterPriority - priority[e.protocol], Protocol: e.protocol,
		},
		Sel: &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL, Nkeys: uint8(len(e.keys)), Keys: e.keys},
	}
	if e.action == nil {
		f.ClassId = netlink.MakeHandle(1, 1) // a class alone is the end of it
	} else {
		f.Actions = []netlink.Action{e.action}
	}
	return f
}

func ingressHandle() uint32 { return netlink.MakeHandle(0xffff, 0) }

func ingress(l netlink.Link) netlink.Qdisc {
	return &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.Attrs().Index, Handle: ingressHandle(), Parent: netlink.HANDLE_INGRESS,
	}}
}

// addIngress gives l an ingress qdisc. One that a machine left behind, whose
// monitor was killed, is replaced; somebody else's is not touched.
func addIngress(h *netlink.Handle, l netlink.Link) error {
	err := h.QdiscAdd(ingress(l))
	if !errors.Is(err, unix.EEXIST) {
		return wrap("ingress qdisc", err)
	}
	filters, err := h.FilterList(l, ingressHandle())
	if err != nil {
		return fmt.Errorf("ingress filters: %w", err)
	}
	for _, f := range filters {
		if p := f.Attrs().Priority; p > filterPriority || p < filterPriority-exceptions {
			return errors.New("somebody else's ingress filters are on it, and what arrives can only go one way")
		}
	}
	if err := unredirect(h, l); err != nil {
		return err
	}
	return wrap("ingress qdisc", h.QdiscAdd(ingress(l)))
}

// unredirect takes l's ingress qdisc away, and the filters with it. One that is
// gone already, with its interface or without, is no error.
func unredirect(h *netlink.Handle, l netlink.Link) error {
	err := h.QdiscDel(ingress(l))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return wrap("remove ingress qdisc of "+l.Attrs().Name, err)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
