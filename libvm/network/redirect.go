//go:build linux

package network

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// filterPriority marks our filters among others'.
const filterPriority = 0x726d

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
		if f.Attrs().Priority != filterPriority {
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
