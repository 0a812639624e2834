//go:build linux

package network

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// A message is one rtnetlink request for the guest's kernel.
type message struct {
	data []byte // struct nlmsghdr and what follows
	what string // what it asks for, for errors
	// harmless are the errors that mean that there was nothing to do.
	harmless []unix.Errno
}

func newMessage(kind int, flags uint16, payload []byte, what string, harmless ...unix.Errno) message {
	data := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(payload)))
	data = native.AppendUint16(data, uint16(kind))
	data = native.AppendUint16(data, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	data = native.AppendUint32(data, 0) // the agent numbers them
	data = native.AppendUint32(data, 0)
	return message{append(data, payload...), what, harmless}
}

// addition makes e; it is fine if it is there.
func addition(e entry) message {
	flags := uint16(unix.NLM_F_CREATE)
	switch e.add {
	case unix.RTM_NEWADDR, unix.RTM_NEWNEIGH:
		flags |= unix.NLM_F_REPLACE
	case unix.RTM_NEWROUTE:
		// There may be several to one destination, and the guest's own.
		flags |= unix.NLM_F_APPEND
	case unix.RTM_NEWRULE:
		flags |= unix.NLM_F_EXCL
	}
	return newMessage(e.add, flags, []byte(e.payload), e.what, unix.EEXIST)
}

// removal takes e away. What went with its interface or its address is gone.
func removal(e entry) message {
	return newMessage(e.add+1, 0, []byte(e.payload), "remove "+e.what,
		unix.ESRCH, unix.ENOENT, unix.ENODEV, unix.EADDRNOTAVAIL, unix.ENETUNREACH)
}

// spareName is a bare NIC's.
func spareName(i int) string { return api.SpareNIC + strconv.Itoa(i) }

// changes are the requests that turn the guest's network from one state into
// another. indexes are those of the guest's NICs. Without nics in from nobody
// knows how they are.
func changes(from, to state, indexes []int) []message {
	if from.nics == nil {
		from.nics = make([]nicState, len(to.nics))
	}
	var list []message
	had, has := set(from.entries), set(to.entries)
	unaddressed := slices.ContainsFunc(from.entries, func(e entry) bool { return e.add == unix.RTM_NEWADDR && !has[e] })
	for i := len(from.entries) - 1; i >= 0; i-- {
		// Without its source address a route is not the same, and cannot be
		// added beside what is left of it.
		if e := from.entries[i]; !has[e] || unaddressed && keepsWithoutSource(e) {
			list = append(list, removal(e))
		}
	}
	// First out of the way, then into place: names are swapped safely.
	raised := false
	for i, n := range to.nics {
		was := from.nics[i]
		switch {
		case was == n, was.name == spareName(i):
		case was.name == "":
			list = append(list, setLink(indexes[i], nicState{name: spareName(i)}))
		case was.name != n.name:
			list = append(list, raise(indexes[i], was.name, false), setLink(indexes[i], nicState{name: spareName(i)}))
		}
	}
	for i, n := range to.nics {
		was := from.nics[i]
		if was == n || n.name == spareName(i) {
			continue
		}
		list = append(list, setLink(indexes[i], n))
		if n.up != was.up || was.name != n.name {
			list = append(list, raise(indexes[i], n.name, n.up))
			raised = raised || n.up
		}
	}
	for _, e := range to.entries {
		// An interface that was down has lost its routes. An address that goes
		// takes its secondary ones along, unless they are promoted, and the last
		// one of IPv4 all routes and neighbours (net/ipv4/devinet.c,
		// fib_frontend.c); which it was there is the guest's to know.
		if raised || unaddressed || from.unsure || !had[e] {
			list = append(list, addition(e))
		}
	}
	return list
}

// keepsWithoutSource reports whether e is a route that stays when its source
// address goes, and has none then: IPv6's (rt6_remove_prefsrc of
// net/ipv6/route.c). One of IPv4 goes too.
func keepsWithoutSource(e entry) bool {
	if e.add != unix.RTM_NEWROUTE || e.payload[0] != unix.AF_INET6 {
		return false
	}
	attrs, err := attributes([]byte(e.payload), unix.SizeofRtMsg)
	return err == nil && slices.ContainsFunc(attrs, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == unix.RTA_PREFSRC
	})
}

// union is a and what b has besides.
func union(a, b []entry) []entry {
	all, had := slices.Clone(a), set(a)
	for _, e := range b {
		if !had[e] {
			all = append(all, e)
		}
	}
	return all
}

func set(entries []entry) map[entry]bool {
	m := make(map[entry]bool, len(entries))
	for _, e := range entries {
		m[e] = true
	}
	return m
}

// setLink gives a NIC its name, and MAC and MTU if n has them.
func setLink(index int, n nicState) message {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	payload := appendAttr(info.Serialize(), unix.IFLA_IFNAME, append([]byte(n.name), 0))
	if n.mac != "" {
		payload = appendAttr(payload, unix.IFLA_ADDRESS, []byte(n.mac))
	}
	if n.mtu != 0 {
		payload = appendAttr(payload, unix.IFLA_MTU, native.AppendUint32(nil, uint32(n.mtu)))
	}
	// Link-local addresses are the namespace's, like all others.
	mode := appendAttr(nil, unix.IFLA_INET6_ADDR_GEN_MODE, []byte{addrGenNone})
	payload = appendAttr(payload, unix.IFLA_AF_SPEC|unix.NLA_F_NESTED, appendAttr(nil, unix.AF_INET6|unix.NLA_F_NESTED, mode))
	return newMessage(unix.RTM_SETLINK, 0, payload, "interface "+n.name)
}

// raise turns a NIC on or off.
func raise(index int, name string, up bool) message {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index, info.Change = int32(index), unix.IFF_UP
	what := fmt.Sprintf("interface %s down", name)
	if up {
		info.Flags = unix.IFF_UP
		what = fmt.Sprintf("interface %s up", name)
	}
	return newMessage(unix.RTM_SETLINK, 0, info.Serialize(), what)
}

// failure is what of the guest's answers is worth an error.
func failure(messages []message, answers []unix.Errno) error {
	if len(answers) != len(messages) {
		return fmt.Errorf("the guest answered %d of %d requests", len(answers), len(messages))
	}
	var errs []error
next:
	for i, errno := range answers {
		if errno == 0 {
			continue
		}
		for _, h := range messages[i].harmless {
			if errno == h {
				continue next
			}
		}
		errs = append(errs, fmt.Errorf("%s in the guest: %w", messages[i].what, errno))
	}
	return errors.Join(errs...)
}

// addrGenNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenNone = 1
