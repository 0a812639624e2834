//go:build linux

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/vmm"
)

// newNamespace makes a network namespace that ends with the test.
func newNamespace(t *testing.T) *Namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces take root")
	}
	var ns *Namespace
	made := make(chan error)
	go func() {
		// The thread is not given back: it ends with the namespace.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = OpenNamespace(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() }) // Network may have closed it
	return ns
}

// again opens ns once more.
func again(t *testing.T, ns *Namespace) *Namespace {
	t.Helper()
	copied, err := OpenNamespace(path(ns))
	if err != nil {
		t.Fatal(err)
	}
	return copied
}

func path(ns *Namespace) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd()) }

// sh runs a shell script in ns and returns what it printed.
func sh(t *testing.T, ns *Namespace, script string) string {
	t.Helper()
	out, err := exec.Command("nsenter", "--net="+path(ns), "sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// fakeGuest is a guest whose kernel is a namespace of this one.
type fakeGuest struct {
	t     *testing.T
	ns    *Namespace
	index map[string]int // of NICs, by their MACs
	asks  int            // counts calls of Rtnetlink
	fail  error          // is what the next one comes to
}

// newGuest makes a guest with n NICs, and says which.
func newGuest(t *testing.T, n int) (*fakeGuest, []vmm.NIC) {
	t.Helper()
	g := &fakeGuest{t: t, ns: newNamespace(t), index: map[string]int{}}
	var nics []vmm.NIC
	for i := range n {
		mac := api.NICMAC(byte(i))
		nics = append(nics, vmm.NIC{MAC: mac})
		index := 10 + i
		g.index[mac.String()] = index
		sh(t, g.ns, fmt.Sprintf("ip link add spare%d index %d address %s type veth peer name other%[1]d; ip link set other%[1]d up", i, index, mac))
	}
	return g, nics
}

func (g *fakeGuest) Index(mac net.HardwareAddr) int { return g.index[mac.String()] }

func (g *fakeGuest) Rtnetlink(_ context.Context, messages [][]byte) (answers []unix.Errno, err error) {
	g.asks++
	if g.fail != nil {
		err, g.fail = g.fail, nil
		return nil, err
	}
	err = g.ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, m := range messages {
			if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				return err
			}
			answer := make([]byte, 4096)
			if _, _, err := unix.Recvfrom(fd, answer, 0); err != nil {
				return err
			}
			answers = append(answers, unix.Errno(-int32(native.Uint32(answer[unix.SizeofNlMsghdr:]))))
		}
		return nil
	})
	return answers, err
}

// connected is a namespace, a guest with n NICs, and what connects them.
func connectedGuest(t *testing.T, n int) (*Namespace, *fakeGuest, *Network) {
	t.Helper()
	ns := newNamespace(t)
	g, nics := newGuest(t, n)
	net, nics, err := Open(again(t, ns), nics)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := net.Close(); err != nil {
			t.Error(err)
		}
		for _, c := range nics {
			c.File.Close()
		}
	})
	return ns, g, net
}

// view is what a namespace shows of an interface and all routes and rules.
func view(t *testing.T, ns *Namespace, names ...string) string {
	t.Helper()
	text := sh(t, ns, "ip -o -4 route show table all; ip -o -6 route show table all; ip rule; ip -6 rule; ip -o neigh show nud permanent")
	for _, n := range names {
		text += sh(t, ns, fmt.Sprintf("ip -o addr show %s; ip -o link show %[1]s | grep -o 'mtu [0-9]*\\|link/ether [0-9a-f:]*'", n))
	}
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || slices.Contains(f, "multicast") || strings.Contains(line, "other") {
			continue
		}
		if strings.HasSuffix(f[0], ":") && slices.Contains([]string{"inet", "inet6"}, f[min(2, len(f)-1)]) {
			f = f[1:] // the index
		}
		// Not of what is configured: duplicate address detection, the peer, carrier.
		line = strings.Join(f, " ")
		for _, drop := range []string{" nodad", " tentative", " linkdown", " noprefixroute"} {
			line = strings.ReplaceAll(line, drop, "")
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestSync: whatever becomes of the namespace, the guest is like it after Sync,
// and nothing is asked of the guest when nothing has changed.
func TestSync(t *testing.T) {
	ns, g, n := connectedGuest(t, 2)
	peers := newNamespace(t)
	// Without it a link-local address has its local route later.
	sh(t, ns, `echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
		ip link set lo up; ip link add eth0 type veth peer name x0 netns `+path(peers)+`
		ip link add eth1 type veth peer name x1 netns `+path(peers))
	sh(t, peers, "ip link set x0 up; ip link set x1 up")
	sh(t, g.ns, "ip link set lo up")
	for _, step := range []struct {
		script string
		names  []string
	}{
		{"true", nil},
		{"ip addr add 10.1.0.2/24 brd + dev eth0; ip link set eth0 mtu 1400 up", []string{"eth0"}},
		{"ip route add default via 10.1.0.1", []string{"eth0"}},
		{"ip route add 10.2.0.0/16 via 10.1.0.9 metric 3 mtu 1200; ip route add unreachable 10.3.0.0/16", []string{"eth0"}},
		{"ip route add 10.4.0.0/16 nexthop via 10.1.0.7 weight 2 nexthop via 10.1.0.8", []string{"eth0"}},
		{"ip route add 169.254.1.1 dev eth0 scope link; ip route add 10.5.0.0/16 via 169.254.1.1 src 10.1.0.2", []string{"eth0"}},
		{"ip route add 10.6.0.0/16 via 192.0.2.1 dev eth0 onlink table 7; ip rule add from 10.1.0.0/24 lookup 7 pref 99", []string{"eth0"}},
		{"ip neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent", []string{"eth0"}},
		// As CNI's ptp does it: without the route that the kernel made.
		{"ip addr add 10.7.0.2/16 dev eth0; ip route del 10.7.0.0/16; ip route add 10.7.0.0/16 via 10.1.0.1", []string{"eth0"}},
		{"ip addr add 10.8.0.2/32 dev eth0; ip addr add 10.9.0.2 peer 10.9.0.1/30 dev eth0", []string{"eth0"}},
		{"ip addr add fd00:1::2/64 dev eth0 nodad; ip -6 route add default via fd00:1::1", []string{"eth0"}},
		{"ip -6 route add fd00:2::/64 via fd00:1::9 metric 5; ip -6 rule add from fd00:1::/64 lookup 7", []string{"eth0"}},
		{"ip addr add 10.20.0.2/24 dev eth1; ip link set eth1 up", []string{"eth0", "eth1"}},
		{"ip addr del 10.1.0.2/24 dev eth0; ip addr add 10.1.0.3/24 dev eth0", []string{"eth0", "eth1"}},
		{"ip link set eth0 address 02:00:00:00:00:42", []string{"eth0", "eth1"}},
		{"ip link set eth0 down; ip link set eth1 down; ip link set eth0 name tmp0; ip link set eth1 name eth0; ip link set tmp0 name eth1; ip link set eth0 up; ip link set eth1 up", []string{"eth0", "eth1"}},
		{"ip link set eth1 mtu 1280; ip route replace default via 10.20.0.1", []string{"eth0", "eth1"}},
		{"ip link set eth1 down", []string{"eth0"}},
		{"ip link set eth1 up", []string{"eth0", "eth1"}},
		{"ip link del eth1", []string{"eth0"}},
		{"ip rule del pref 99; ip -6 rule del from fd00:1::/64; ip link del eth0", nil},
	} {
		sh(t, ns, step.script)
		// Link-local addresses come by themselves, a little later: until a Sync has
		// nothing to ask, and finds the guest like the namespace.
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			asks := g.asks
			if err := n.Sync(t.Context(), g); err != nil {
				t.Fatalf("%s: %v", step.script, err)
			}
			asks = g.asks - asks
			got, want := view(t, g.ns, step.names...), view(t, ns, step.names...)
			if asks == 0 && got == want {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("after %s a Sync asks %d times, and the guest has\n%s\nthe namespace\n%s", step.script, asks, got, want)
				break
			}
		}
	}
	// What stands for no interface is out of the way.
	if got := sh(t, g.ns, "ip -br link show type veth"); !strings.Contains(got, "spare0") || !strings.Contains(got, "spare1") || strings.Contains(got, "eth") {
		t.Errorf("without interfaces the guest has %s", got)
	}
}

// TestSyncRemovedAddress: when an address goes, the guest's kernel takes others',
// and routes, with it, other ones than the namespace's kernel did. The guest has
// them again after the same Sync.
func TestSyncRemovedAddress(t *testing.T) {
	const promote = "echo 1 >/proc/sys/net/ipv4/conf/all/promote_secondaries; "
	for name, steps := range map[string][]string{
		// As Calico: the last address that there was takes all IPv4 routes, and
		// the permanent neighbours.
		"one for another": {
			`ip addr add 10.0.0.2/32 dev eth0; ip route add 169.254.1.1 dev eth0 scope link
			ip route add default via 169.254.1.1; ip neigh add 169.254.1.1 lladdr 02:00:00:00:00:09 dev eth0 nud permanent`,
			"ip addr add 10.0.0.3/32 dev eth0; ip addr del 10.0.0.2/32 dev eth0",
		},
		// As CNI's ptp, looked at before and after: the address becomes one
		// without a route, which is another one.
		"one without its route": {
			"ip addr add 10.7.0.2/24 dev eth0; ip route add default via 10.7.0.1",
			`ip route del 10.7.0.0/24; ip route add 10.7.0.1 dev eth0 scope link src 10.7.0.2
			ip route add 10.7.0.0/24 via 10.7.0.1 src 10.7.0.2`,
		},
		"the primary one": {
			promote + "ip addr add 10.7.0.2/24 dev eth0; ip addr add 10.7.0.3/24 dev eth0; ip addr add 10.7.0.4/24 dev eth0; ip route add default via 10.7.0.1",
			"ip addr del 10.7.0.2/24 dev eth0",
		},
		"all, and the same route again": {
			"ip addr add 10.7.0.2/24 dev eth0; ip route add default via 10.7.0.1",
			"ip addr flush dev eth0; ip addr add 10.7.0.9/24 dev eth0; ip route add default via 10.7.0.1",
		},
		// The kernel keeps a route of IPv6, without that address.
		"a source": {
			"ip addr add fd00:1::2/64 dev eth0 nodad; ip -6 route add fd00:2::/64 via fd00:1::1 src fd00:1::2; ip -6 route add fd00:3::/64 via fd00:1::1",
			"ip addr change fd00:1::2/64 dev eth0 metric 7",
		},
	} {
		for _, promoting := range []int{0, 1} { // the guest's kernel
			t.Run(fmt.Sprintf("%s, promoting %d", name, promoting), func(t *testing.T) {
				ns, g, n := connectedGuest(t, 1)
				peers := newNamespace(t)
				// Without link-local addresses, which come by themselves.
				sh(t, ns, `ip link set lo up; ip link add eth0 type veth peer name x0 netns `+path(peers)+`
				ip link set eth0 addrgenmode none up`)
				sh(t, peers, "ip link set x0 up")
				sh(t, g.ns, fmt.Sprintf(`ip link set lo up
				for f in all default spare0; do echo %d >/proc/sys/net/ipv4/conf/$f/promote_secondaries; done`, promoting))
				for _, script := range steps {
					sh(t, ns, script)
					if err := n.Sync(t.Context(), g); err != nil {
						t.Fatalf("%s: %v", script, err)
					}
					if got, want := view(t, g.ns, "eth0"), view(t, ns, "eth0"); got != want {
						t.Errorf("after %s the guest has\n%s\nthe namespace\n%s", script, got, want)
					}
					asks := g.asks
					if err := n.Sync(t.Context(), g); err != nil || g.asks != asks {
						t.Errorf("after %s: a second Sync asks %d times, %v", script, g.asks-asks, err)
					}
				}
			})
		}
	}
}

// TestSyncAfterError: what the guest did not get it gets with the next Sync.
func TestSyncAfterError(t *testing.T) {
	ns, g, n := connectedGuest(t, 1)
	sh(t, ns, "ip link add eth0 type veth peer name x; ip addr add 10.1.0.2/24 dev eth0; ip link set eth0 up")
	lost := errors.New("lost")
	g.fail = lost
	if err := n.Sync(t.Context(), g); !errors.Is(err, lost) {
		t.Fatalf("error %v, want %v", err, lost)
	}
	if err := n.Sync(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	sh(t, ns, "ip addr add 10.1.0.3/24 dev eth0")
	g.fail = lost
	if err := n.Sync(t.Context(), g); !errors.Is(err, lost) {
		t.Fatalf("error %v, want %v", err, lost)
	}
	sh(t, ns, "ip addr del 10.1.0.3/24 dev eth0")
	if err := n.Sync(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if got, want := view(t, g.ns, "eth0"), view(t, ns, "eth0"); got != want {
		t.Errorf("the guest has\n%s\nthe namespace\n%s", got, want)
	}
}

// TestSyncRefuses names what cannot be had, and does the rest.
func TestSyncRefuses(t *testing.T) {
	ns, g, n := connectedGuest(t, 1)
	sh(t, ns, `ip link add eth0 type veth peer name x; ip addr add 10.1.0.2/24 dev eth0; ip link set eth0 up
		ip link add eth1 type veth peer name y; ip link set eth1 up
		ip link add link eth0 name vlan5 type macvlan; ip link set vlan5 up
		ip tuntap add tun0 mode tun; ip link set tun0 up`)
	err := n.Sync(t.Context(), g)
	if !errors.Is(err, ErrTooMany) {
		t.Errorf("error %v, want %v", err, ErrTooMany)
	}
	for _, want := range []string{"eth1", "tun0 has no Ethernet header", "vlan5 lies on eth0"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	if got := sh(t, g.ns, "ip addr show eth0"); !strings.Contains(got, "10.1.0.2/24") {
		t.Errorf("eth0 in the guest: %s", got)
	}
}

// TestShared: a second machine in a namespace is refused, and the first one's
// taps stay.
func TestShared(t *testing.T) {
	ns, _, _ := connectedGuest(t, 1)
	_, nics := newGuest(t, 1)
	_, _, err := Open(again(t, ns), nics)
	if !errors.Is(err, ErrShared) {
		t.Errorf("error %v, want %v", err, ErrShared)
	}
	if got := sh(t, ns, "ip -br link show type tun"); !strings.Contains(got, "runm0") {
		t.Errorf("taps: %q", got)
	}
}

// TestQdiscs: what a killed monitor left is replaced, what is somebody else's is
// not, and Close leaves nothing.
func TestQdiscs(t *testing.T) {
	ns := newNamespace(t)
	sh(t, ns, "ip link add eth0 type veth peer name x; ip link set eth0 up; ip link add eth1 type veth peer name y")
	g, nics := newGuest(t, 2)
	n, nics, err := Open(again(t, ns), nics)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Sync(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	for _, c := range nics {
		c.File.Close() // as the kernel does when the machine dies, and no Close
	}
	if err := n.ns.Close(); err != nil {
		t.Fatal(err)
	}
	g, nics = newGuest(t, 2)
	if n, nics, err = Open(again(t, ns), nics); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, c := range nics {
			c.File.Close()
		}
	}()
	if err := n.Sync(t.Context(), g); err != nil {
		t.Errorf("after a killed monitor: %v", err)
	}
	const foreign = "tc qdisc add dev eth1 ingress; tc filter add dev eth1 ingress prio 5 protocol all u32 match u8 0 0 action mirred egress redirect dev eth1"
	sh(t, ns, foreign+"; ip link set eth1 up")
	if err := n.Sync(t.Context(), g); err == nil || !strings.Contains(err.Error(), "redirect eth1: somebody else's ingress filters") {
		t.Errorf("over somebody's filter: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if got := sh(t, ns, "tc qdisc show dev eth0 ingress"); got != "" {
		t.Errorf("left on eth0: %s", got)
	}
	if got := sh(t, ns, "tc filter show dev eth1 ingress"); !strings.Contains(got, "pref 5 u32") {
		t.Errorf("somebody's filters on eth1: %q", got)
	}
}

// TestTapIsQuiet: the namespace's own stack says nothing to the guest.
func TestTapIsQuiet(t *testing.T) {
	ns, g, n := connectedGuest(t, 1)
	sh(t, ns, "ip link add eth0 type veth peer name x; ip addr add fd00::2/64 dev eth0; ip link set eth0 up")
	if err := n.Sync(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, ns, "ip addr show runm0"); strings.Contains(got, "inet") || !strings.Contains(got, "UP") {
		t.Errorf("the tap: %s", got)
	}
}

// TestWatch tells of each kind of change.
func TestWatch(t *testing.T) {
	ns, _, n := connectedGuest(t, 1)
	sh(t, ns, "ip link add eth0 type veth peer name x")
	changed, stop, err := n.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		stop()
		for range changed { // ends
		}
	}()
	for _, script := range []string{
		"ip link set eth0 up", "ip addr add 10.1.0.2/24 dev eth0", "ip route add 10.2.0.0/16 dev eth0",
		"ip addr add fd00::2/64 dev eth0 nodad", "ip -6 route add fd00:2::/64 dev eth0",
		"ip rule add from 10.1.0.2 lookup 9", "ip -6 rule add from fd00::2 lookup 9", "ip link del eth0",
	} {
		sh(t, ns, script)
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: nothing is told", script)
		}
		for drained := false; !drained; {
			select {
			case <-changed:
			default:
				drained = true
			}
		}
	}
}

func TestIsOurs(t *testing.T) {
	ns := newNamespace(t)
	for p, want := range map[string]bool{
		"/proc/thread-self/ns/net": true, path(ns): false, "/proc/self/ns/uts": false, "/nonsuch": false,
	} {
		if got, err := IsOurs(p); got != want || err != nil {
			t.Errorf("%s: %v, %v, want %v", p, got, err, want)
		}
	}
}

func TestProbe(t *testing.T) {
	newNamespace(t) // skips without root
	if err := errors.Join(Probe(), ProbeLoopback()); err != nil {
		t.Error(err)
	}
}
