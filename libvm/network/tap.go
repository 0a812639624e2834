//go:build linux

package network

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// tapPrefix begins the names of our taps in a namespace.
const tapPrefix = "runm"

// tapGroup marks our taps: "runm". They are deleted together, by it: each alone
// would wait for readers of the kernel's lists to be done, some 20 ms.
const tapGroup = 0x72756e6d

// ErrShared: another machine's taps are in the namespace.
var ErrShared = errors.New("another machine is in this network namespace")

// tap is the host's end of a NIC. It lives as long as somebody has its file
// open, and lies in the namespace with the interface it serves.
type tap struct {
	link netlink.Link
	file *os.File
}

// newTaps makes n taps in the namespace, down. It runs on a thread that is in
// it: a tap is born where the thread is that opens /dev/net/tun.
func newTaps(h *netlink.Handle, n int) (taps []tap, err error) {
	defer func() {
		if err != nil {
			closeTaps(taps)
		}
	}()
	for i := range n {
		t, err := newTap(h, fmt.Sprintf("%s%d", tapPrefix, i))
		if err != nil {
			return taps, err
		}
		taps = append(taps, t)
	}
	return taps, nil
}

func closeTaps(taps []tap) {
	for _, t := range taps {
		t.file.Close()
	}
}

func newTap(h *netlink.Handle, name string) (tap, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return tap{}, fmt.Errorf("tap: %w", &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err})
	}
	f := os.NewFile(uintptr(fd), "/dev/net/tun")
	t, err := setUpTap(h, fd, name)
	if err != nil {
		f.Close()
		return tap{}, err
	}
	t.file = f
	return t, nil
}

func setUpTap(h *netlink.Handle, fd int, name string) (tap, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return tap{}, fmt.Errorf("tap %s: %w", name, err)
	}
	// With the virtio header, checksums and large segments cross unfinished
	// and are finished, if at all, where they leave the host.
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	if errors.Is(err, unix.EBUSY) {
		return tap{}, fmt.Errorf("%w (it has %s); runm gives each container a machine of its own, and two machines cannot have one address: give the containers networks of their own", ErrShared, name)
	}
	if err != nil {
		return tap{}, fmt.Errorf("tap %s: %w", name, err)
	}
	link, err := h.LinkByName(name)
	if err != nil {
		return tap{}, fmt.Errorf("tap %s: %w", name, err)
	}
	// The namespace's own stack has nothing to say on it.
	if err := h.LinkSetIP6AddrGenMode(link, addrGenNone); err != nil && !noIPv6(err) {
		return tap{}, fmt.Errorf("tap %s: IPv6 address generation: %w", name, err)
	}
	if err := h.LinkSetGroup(link, tapGroup); err != nil {
		return tap{}, fmt.Errorf("tap %s: group: %w", name, err)
	}
	return tap{link: link}, nil
}

// deleteTaps deletes the taps of the calling thread's namespace, whoever has
// their files. None is fine.
func deleteTaps() error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(tapGroup)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete taps: %w", err)
	}
	return nil
}

// noIPv6 reports whether err is what a kernel without IPv6 answers.
func noIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

func isTap(l netlink.Link) bool {
	return l.Type() == "tuntap" && strings.HasPrefix(l.Attrs().Name, tapPrefix)
}
