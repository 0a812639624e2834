//go:build linux

package network

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// snapshot is what a namespace has that the guest is to have, with the
// namespace's own interface indexes. The entries are rtnetlink(7) payloads as
// the kernel dumped them: a fixed header, then attributes.
type snapshot struct {
	links                 []netlink.Link
	addresses, neighbours [][]byte // struct ifaddrmsg, struct ndmsg
	routes, rules         [][]byte // struct rtmsg, struct fib_rule_hdr
	// unfit are interfaces that no NIC can stand for, with the reason.
	unfit []error
}

// reader reads one namespace.
type reader struct {
	handle *netlink.Handle
	socket *nl.SocketHandle
}

func newReader(ns *Namespace) (*reader, error) {
	h, err := netlink.NewHandleAt(ns.handle(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	s, err := nl.GetNetlinkSocketAt(ns.handle(), -1, unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return &reader{h, &nl.SocketHandle{Socket: s}}, nil
}

func (r *reader) close() {
	r.handle.Close()
	r.socket.Close()
}

// dumpTries bounds how often a dump is repeated that the namespace's changes
// interrupted. The change is an event too, so another reading follows.
const dumpTries = 5

// dump asks for all objects of a kind, whose fixed header has size bytes:
// RTM_GETADDR gives RTM_NEWADDR messages.
func (r *reader) dump(get, size int) (messages [][]byte, err error) {
	for range dumpTries {
		req := nl.NewNetlinkRequest(get, unix.NLM_F_DUMP)
		req.AddRawData(make([]byte, size)) // AF_UNSPEC: of every family
		req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: r.socket}
		// RTM_GETx is two above RTM_NEWx (linux/rtnetlink.h).
		messages, err = req.Execute(unix.NETLINK_ROUTE, uint16(get-2))
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			break
		}
	}
	return messages, err
}

func (r *reader) read() (*snapshot, error) {
	var s snapshot
	for _, one := range []struct {
		what      string
		get, size int
		to        *[][]byte
	}{
		{"addresses", unix.RTM_GETADDR, unix.SizeofIfAddrmsg, &s.addresses},
		{"neighbours", unix.RTM_GETNEIGH, unix.SizeofNdMsg, &s.neighbours},
		{"routes", unix.RTM_GETROUTE, unix.SizeofRtMsg, &s.routes},
		{"rules", unix.RTM_GETRULE, sizeofRuleHeader, &s.rules},
	} {
		var err error
		*one.to, err = r.dump(one.get, one.size)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", one.what, err)
		}
	}
	links, err := r.handle.LinkList()
	for range dumpTries {
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		links, err = r.handle.LinkList()
	}
	if err != nil {
		return nil, fmt.Errorf("read interfaces: %w", err)
	}
	s.choose(links)
	return &s, nil
}

// choose keeps the interfaces that the guest is to have: what is up, or has an
// address. Every namespace has others, down and bare, once the kernel knows
// tunnels (gretap0, sit0).
func (s *snapshot) choose(links []netlink.Link) {
	addressed := map[int]bool{}
	for _, a := range s.addresses {
		addressed[int(nl.DeserializeIfAddrmsg(a).Index)] = true
	}
	here := map[int]string{}
	for _, l := range links {
		here[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		a := l.Attrs()
		switch {
		case isLoopback(l), isTap(l), !isUp(l) && !addressed[a.Index]:
		case a.MasterIndex != 0: // its master's business
		case a.EncapType != "ether":
			s.unfit = append(s.unfit, fmt.Errorf("interface %s has no Ethernet header (%s): a machine cannot have it", a.Name, a.EncapType))
		case a.ParentIndex != 0 && a.NetNsID < 0 && here[a.ParentIndex] != "" && l.Type() != "veth":
			// What arrives for it, its parent's redirection has taken.
			s.unfit = append(s.unfit, fmt.Errorf("interface %s lies on %s in the same namespace: a machine cannot have both", a.Name, here[a.ParentIndex]))
		default:
			s.links = append(s.links, l)
		}
	}
}

func isUp(l netlink.Link) bool       { return l.Attrs().RawFlags&unix.IFF_UP != 0 }
func isLoopback(l netlink.Link) bool { return l.Attrs().RawFlags&unix.IFF_LOOPBACK != 0 }

// sizeofRuleHeader is that of struct fib_rule_hdr (linux/fib_rules.h): family, 5
// bytes, 2 reserved, action, flags.
const sizeofRuleHeader = 12

// isIP reports whether a payload is of IPv4 or IPv6; its family comes first.
func isIP(payload []byte) bool {
	return len(payload) > 0 && (payload[0] == unix.AF_INET || payload[0] == unix.AF_INET6)
}

// attributes are those of an rtnetlink payload, after size bytes of header.
func attributes(payload []byte, size int) ([]syscall.NetlinkRouteAttr, error) {
	if len(payload) < size {
		return nil, fmt.Errorf("rtnetlink: %d bytes, want %d: %w", len(payload), size, unix.EBADMSG)
	}
	list, err := nl.ParseRouteAttr(payload[size:])
	for i := range list {
		list[i].Attr.Type &^= unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	}
	return list, err
}
