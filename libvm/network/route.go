//go:build linux

package network

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// native is the byte order of netlink's numbers.
var native = binary.NativeEndian

// loopbackIndex is lo's, in every namespace (init_net and net/core/dev.c).
const loopbackIndex = 1

// route takes what is not the kernel's own business: neither the table of local
// addresses, nor what a router's advertisement gave and will give the guest.
func (t *translator) route(payload []byte) error {
	attrs, err := attributes(payload, unix.SizeofRtMsg)
	if err != nil {
		return err
	}
	h := nl.DeserializeRtMsg(payload)
	types := []uint8{unix.RTN_UNICAST, unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW}
	if !slices.Contains(types, h.Type) || h.Table == unix.RT_TABLE_LOCAL || h.Protocol == unix.RTPROT_RA ||
		h.Flags&unix.RTM_F_CLONED != 0 || expires(attrs) {
		return nil
	}
	r := route{to: "default"}
	for _, a := range attrs {
		if !t.attribute(&r, a, int(h.Dst_len)) {
			return nil // another interface's
		}
	}
	out := bytes.Clone(payload[:unix.SizeofRtMsg])
	native.PutUint32(out[8:], h.Flags&unix.RTNH_F_ONLINK)
	e := entry{unix.RTM_NEWROUTE, string(append(out, r.attrs...)), "route " + r.to}
	switch {
	case r.gateway:
		t.gatewayed = append(t.gatewayed, e)
	case h.Protocol == unix.RTPROT_KERNEL && r.link != 0 && r.dst != nil:
		to, err := prefixOf(r.dst, int(h.Dst_len))
		if err != nil {
			return err
		}
		c := &connected{entry: e}
		t.order = append(t.order, c)
		t.connected[prefix{r.link, to}] = c
	default:
		t.direct = append(t.direct, e)
	}
	return nil
}

// route is what becomes of a route's attributes.
type route struct {
	attrs   []byte // the guest's
	dst     []byte
	to      string // for errors
	link    int    // the guest's index, 0 for none or several
	gateway bool
}

// attribute adds a to r. It reports false for a route through an interface that
// the guest does not have.
func (t *translator) attribute(r *route, a syscall.NetlinkRouteAttr, length int) bool {
	value := a.Value
	switch a.Attr.Type {
	case unix.RTA_OIF:
		link, ok := t.link(value)
		if !ok {
			return false
		}
		r.link = link
		value = native.AppendUint32(nil, uint32(link))
	case unix.RTA_MULTIPATH:
		hops, ok := t.hops(value)
		if !ok {
			return false
		}
		r.gateway, value = true, hops
	case unix.RTA_DST:
		r.dst, r.to = value, fmt.Sprintf("%s/%d", ip(value), length)
	case unix.RTA_GATEWAY, unix.RTA_VIA:
		r.gateway = true
	case unix.RTA_SRC, unix.RTA_PRIORITY, unix.RTA_PREFSRC, unix.RTA_METRICS, unix.RTA_FLOW,
		unix.RTA_TABLE, unix.RTA_PREF, unix.RTA_ENCAP_TYPE, unix.RTA_ENCAP:
	default:
		return true // of the namespace's own: caches, ids, hardware
	}
	r.attrs = appendAttr(r.attrs, a.Attr.Type, value)
	return true
}

// link is the guest's index for the one in value.
func (t *translator) link(value []byte) (int, bool) {
	if len(value) != 4 {
		return 0, false
	}
	index := int(native.Uint32(value))
	if index == loopbackIndex {
		return loopbackIndex, true
	}
	link, ok := t.index[index]
	return link, ok
}

// hops translates the next hops of a route: each a struct rtnexthop with
// attributes.
func (t *translator) hops(value []byte) ([]byte, bool) {
	out := bytes.Clone(value)
	for rest := out; len(rest) >= unix.SizeofRtNexthop; {
		length := int(native.Uint16(rest))
		if length < unix.SizeofRtNexthop || length > len(rest) {
			return nil, false
		}
		link, ok := t.link(rest[4:8])
		if !ok {
			return nil, false
		}
		rest[2] &= unix.RTNH_F_ONLINK
		native.PutUint32(rest[4:], uint32(link))
		rest = rest[min(align(length), len(rest)):]
	}
	return out, true
}

// expires reports whether an IPv6 route has a lifetime: a router gave it.
func expires(attrs []syscall.NetlinkRouteAttr) bool {
	for _, a := range attrs {
		// struct rta_cacheinfo: 2 numbers, then the rest of its life.
		if a.Attr.Type == unix.RTA_CACHEINFO && len(a.Value) >= 12 && native.Uint32(a.Value[8:]) != 0 {
			return true
		}
	}
	return false
}

// align is RTA_ALIGN of linux/rtnetlink.h.
func align(n int) int { return (n + 3) &^ 3 }

// appendAttr appends an attribute of rtnetlink(7).
func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = native.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = native.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, align(len(value))-len(value))...)
}
