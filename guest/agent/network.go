//go:build linux

package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/types"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

var errRtnetlink = errors.New("malformed rtnetlink message")

func (s *server) Interfaces(context.Context, *api.Empty) (*api.InterfacesResponse, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	var resp api.InterfacesResponse
	for _, i := range list {
		if i.Flags&net.FlagLoopback == 0 {
			resp.Interfaces = append(resp.Interfaces, &api.Interface{Address: i.HardwareAddr, Index: uint32(i.Index)})
		}
	}
	return &resp, nil
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
