//go:build linux

package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"github.com/opencontainers/runc/types"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

var errRtnetlink = errors.New("malformed rtnetlink message")

// setAside gives the machine's NICs names out of the way: the container is to
// have an eth0 only when it has an interface. It returns them.
func setAside() ([]*api.NIC, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	var list []*api.NIC
	// They are there before this program runs, and nothing else is but lo.
	for index := uint32(2); ; index++ {
		name, err := interfaceName(fd, index)
		if errors.Is(err, unix.ENODEV) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("interface %d: %w", index, err)
		}
		mac, err := hardwareAddress(fd, name)
		if err != nil {
			return nil, err
		}
		number := mac[len(mac)-1]
		if !bytes.Equal(mac, api.NICMAC(number)) {
			continue
		}
		if err := rename(fd, name, api.SpareNIC+strconv.Itoa(int(number))); err != nil {
			return nil, err
		}
		list = append(list, &api.NIC{Mac: mac, Index: index})
	}
}

// A request of netdevice(7): a name, and what an ioctl takes or gives.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data [24]byte
}

func interfaceName(fd int, index uint32) (string, error) {
	var r ifreq
	binary.NativeEndian.PutUint32(r.data[:], index)
	if err := r.ioctl(fd, unix.SIOCGIFNAME); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(r.name[:]), nil
}

func hardwareAddress(fd int, name string) (net.HardwareAddr, error) {
	var r ifreq
	copy(r.name[:], name)
	if err := r.ioctl(fd, unix.SIOCGIFHWADDR); err != nil {
		return nil, fmt.Errorf("address of %s: %w", name, err)
	}
	return r.data[2:8], nil // struct sockaddr: the family comes first
}

func rename(fd int, from, to string) error {
	var r ifreq
	copy(r.name[:], from)
	copy(r.data[:unix.IFNAMSIZ-1], to)
	if err := r.ioctl(fd, unix.SIOCSIFNAME); err != nil {
		return fmt.Errorf("rename %s: %w", from, err)
	}
	return nil
}

func (r *ifreq) ioctl(fd int, request uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(r))); errno != 0 {
		return errno
	}
	return nil
}

func (s *server) Rtnetlink(_ context.Context, req *api.RtnetlinkRequest) (*api.RtnetlinkResponse, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	defer unix.Close(fd)
	var resp api.RtnetlinkResponse
	for i, m := range req.GetMessages() {
		errno, err := askKernel(fd, m, uint32(i+1))
		if err != nil {
			return nil, fmt.Errorf("rtnetlink message %d: %w", i, err)
		}
		resp.Errnos = append(resp.Errnos, uint32(errno))
	}
	return &resp, nil
}

// askKernel sends one request and returns the errno of its acknowledgement, a
// struct nlmsgerr: the negative error number comes first.
func askKernel(fd int, message []byte, seq uint32) (unix.Errno, error) {
	if len(message) < unix.SizeofNlMsghdr || binary.NativeEndian.Uint16(message[6:])&unix.NLM_F_ACK == 0 {
		return 0, errRtnetlink
	}
	binary.NativeEndian.PutUint32(message[8:], seq)
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	// An error's answer has the request in it.
	answer := make([]byte, unix.SizeofNlMsghdr+4+unix.SizeofNlMsghdr+len(message))
	for {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return 0, err
		}
		if n < unix.SizeofNlMsghdr+4 {
			return 0, errRtnetlink
		}
		if binary.NativeEndian.Uint16(answer[4:]) == unix.NLMSG_ERROR && binary.NativeEndian.Uint32(answer[8:]) == seq {
			return unix.Errno(-int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:]))), nil
		}
	}
}

// interfaceCounters are those of the container's interfaces, as its own side
// counts them.
func interfaceCounters() ([]*types.NetworkInterface, error) {
	text, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return nil, fmt.Errorf("interface counters: %w", err)
	}
	return parseCounters(string(text)), nil
}

// parseCounters reads /proc/net/dev: after the name 8 counters of what was
// received, then 8 of what was sent, each bytes, packets, errors, dropped, ….
func parseCounters(text string) []*types.NetworkInterface {
	var list []*types.NetworkInterface
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		f := strings.Fields(rest)
		if !ok || len(f) < 12 || name == "lo" || strings.HasPrefix(name, api.SpareNIC) {
			continue
		}
		n := &types.NetworkInterface{Name: name}
		for i, to := range map[int]*uint64{
			0: &n.RxBytes, 1: &n.RxPackets, 2: &n.RxErrors, 3: &n.RxDropped,
			8: &n.TxBytes, 9: &n.TxPackets, 10: &n.TxErrors, 11: &n.TxDropped,
		} {
			*to, _ = strconv.ParseUint(f[i], 10, 64) // the kernel's own
		}
		list = append(list, n)
	}
	return list
}
