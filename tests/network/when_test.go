//go:build linux

package network

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/tests/internal/programs"
)

// TestBeforeCreate: as Podman and CRI do it, a namespace by path that is ready
// before create. Everything of its interface is the machine's, and nothing is
// left in it.
func TestBeforeCreate(t *testing.T) {
	l := newLab(t)
	ns := l.netns()
	ns.plug("eth0", "10.77.0.2/24", "10.77.0.3/24", "fd00:77::2/64")
	ns.sh(`ip link set eth0 mtu 1400
		ip route add default via 10.77.0.1
		ip route add 10.99.0.0/16 via 10.77.0.254 metric 7 mtu 1300
		ip route add blackhole 10.98.0.0/16
		ip route add default via fd00:77::1
		ip route add 10.97.0.0/16 via 10.77.0.253 table 100
		ip rule add from 10.77.0.3 lookup 100
		ip neigh add 10.77.0.254 lladdr 02:00:00:00:00:99 dev eth0 nud permanent`)
	c := l.container(ns.path)
	c.run()
	ping(c, "10.77.0.1", "fd00:77::1")
	ping(l.out, "10.77.0.2", "10.77.0.3", "fd00:77::2")

	link := c.sh("ip link show eth0; ip addr show eth0")
	l.contains(link, ns.mac("eth0"), "mtu 1400", "inet 10.77.0.2/24", "10.77.0.3/24", "fd00:77::2/64")
	l.contains(c.sh("ip route; ip route show table 100; ip -6 route"),
		"default via 10.77.0.1 dev eth0", "10.99.0.0/16 via 10.77.0.254 dev eth0  metric 7", "blackhole 10.98.0.0/16",
		"10.77.0.0/24 dev eth0", "10.97.0.0/16 via 10.77.0.253", "default via fd00:77::1 dev eth0", "fd00:77::/64 dev eth0")
	l.contains(c.sh("ip rule; ip neigh"), "from 10.77.0.3 lookup 100", "10.77.0.254 dev eth0 lladdr 02:00:00:00:00:99", "PERMANENT")
	if v6, want := lines(c.sh("ip -6 route")), lines(ns.sh("ip -6 route")); v6 < want {
		t.Errorf("%d IPv6 routes, the namespace has %d", v6, want)
	}

	l.must(l.try("delete", "--force", c.id).err)
	l.contains(ns.sh("ip addr show eth0"), "10.77.0.2/24") // the client's, and stays
	for _, left := range []string{"tc qdisc show dev eth0 ingress", "ip -br link show type tun"} {
		if out := ns.sh(left); out != "" {
			t.Errorf("%s: %q is left", left, out)
		}
	}
	// The namespace is in use again, as for a restarted container.
	again := l.container(ns.path)
	again.run()
	ping(l.out, "10.77.0.2")
}

func lines(s string) int { return strings.Count(s, "\n") }

// pinger is where a ping can be sent from.
type pinger interface{ sh(string) string }

// ping wants an answer from each address. The first packet may have to wait
// for the address to be resolved.
func ping(from pinger, to ...string) {
	for _, ip := range to {
		from.sh("busybox ping -c 2 -W 10 " + ip)
	}
}

// TestHook: as nerdctl and Docker 20 do it, a hook adds the interface while
// create runs, to the namespace of the pid that it is told.
func TestHook(t *testing.T) {
	l := newLab(t)
	c := l.container("")
	hook := filepath.Join(l.dir, "hook")
	l.must(programs.Write(hook, fmt.Appendf(nil, `#!/bin/sh -e
pid=$(sed 's/.*"pid": *\([0-9]*\).*/\1/')
nsenter --net=%s ip link add port0 type veth peer name eth0 netns $pid
nsenter --net=%[1]s ip link set port0 master br0 up
nsenter --net=/proc/$pid/ns/net sh -ec 'ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.77.0.1'
`, l.out.path)))
	c.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: hook, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}}}
	c.run()
	ping(c, "10.77.0.1")
	ping(l.out, "10.77.0.2")
	l.contains(c.sh("ip route"), "default via 10.77.0.1 dev eth0")
}

// TestBeforeStart: as Docker 28 does it, after create. The process finds the
// interface when it begins.
func TestBeforeStart(t *testing.T) {
	l := newLab(t)
	c := l.container("")
	c.spec.Process.Args = []string{"/bin/sh", "-c", "ip addr show eth0; ping -c 1 -W 10 10.77.0.1; sleep 1000"}
	c.create()
	c.netns().plug("eth0", "10.77.0.2/24")
	c.start()
	l.waitFor("ping", func() bool {
		out := c.read("output")
		return strings.Contains(out, "inet 10.77.0.2/24") && strings.Contains(out, " 0% packet loss")
	})
}

// TestLater: interfaces, addresses and routes of a running container come, change and
// go, as with `docker network connect` and `disconnect`.
func TestLater(t *testing.T) {
	l := newLab(t)
	c := l.container("")
	c.run()
	if out := c.sh("ip -o addr"); strings.Contains(out, "eth") {
		t.Errorf("without an interface: %s", out)
	}
	ns := c.netns()
	shows := func(script, want string, there bool) {
		t.Helper()
		l.waitFor(fmt.Sprintf("%s: %q %v", script, want, there), func() bool {
			return strings.Contains(c.sh(script), want) == there
		})
	}
	ns.plug("eth0", "10.77.0.2/24")
	shows("ip addr", "10.77.0.2/24", true)
	ping(l.out, "10.77.0.2")
	ns.plug("eth1", "10.77.0.3/24")
	shows("ip addr", "10.77.0.3/24", true)
	ping(l.out, "10.77.0.3", "10.77.0.2")

	ns.sh("ip addr add 10.77.0.9/24 dev eth0; ip route add 10.99.0.0/16 via 10.77.0.1")
	shows("ip route", "10.99.0.0/16 via 10.77.0.1", true)
	ping(l.out, "10.77.0.9")
	ns.sh("ip addr del 10.77.0.9/24 dev eth0; ip route del 10.99.0.0/16")
	shows("ip route", "10.99.0.0/16", false)
	shows("ip addr", "10.77.0.9", false)
	ns.sh("ip link set eth1 down; ip link set eth1 name net1; ip link set net1 mtu 1300; ip link set net1 up")
	shows("ip addr show net1 2>&1 || true", "mtu 1300", true)
	shows("ip addr show net1", "10.77.0.3/24", true)
	ping(l.out, "10.77.0.3")

	ns.sh("ip link del net1")
	shows("ip addr", "10.77.0.3/24", false)
	shows("ip link", "net1", false)
	ping(l.out, "10.77.0.2")
	// Its NIC is free for another.
	ns.plug("eth1", "10.77.0.4/24")
	shows("ip addr", "10.77.0.4/24", true)
	ping(l.out, "10.77.0.4")

	// The guest's kernel takes the routes away with an interface's last address.
	ns.sh("ip route add 10.98.0.0/16 via 10.77.0.1 dev eth0")
	shows("ip route", "10.98.0.0/16 via 10.77.0.1 dev eth0", true)
	// All before somebody looks.
	ns.sh(`printf '%s\n' 'addr flush dev eth0' 'addr add 10.77.0.5/24 dev eth0' 'route add 10.98.0.0/16 via 10.77.0.1 dev eth0' | ip -batch -`)
	shows("ip addr", "10.77.0.2/24", false)
	shows("ip route", "10.98.0.0/16 via 10.77.0.1 dev eth0", true)
	ping(l.out, "10.77.0.5")
}

// TestPaused: what changes while the machine stands still is there when it goes
// on.
func TestPaused(t *testing.T) {
	l := newLab(t)
	c := l.container("")
	c.run()
	ns := c.netns()
	l.must(l.try("pause", c.id).err)
	ns.plug("eth0", "10.77.0.2/24")
	l.must(l.try("resume", c.id).err)
	l.waitFor("the address", func() bool { return strings.Contains(c.sh("ip addr"), "10.77.0.2/24") })
	ping(l.out, "10.77.0.2")
}

// TestUserNamespace: the network namespace belongs to the container's user
// namespace, and the interface comes after create.
func TestUserNamespace(t *testing.T) {
	l := newLab(t)
	c := l.container("")
	l.must(os.Chmod(c.bundle, 0o755))
	c.spec.Linux.Namespaces = append(c.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	c.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	c.spec.Linux.GIDMappings = c.spec.Linux.UIDMappings
	l.must(l.command(exec.Command("chown", "-R", "100000:100000", filepath.Join(c.bundle, "rootfs"))).err)
	c.create()
	c.netns().plug("eth0", "10.77.0.2/24", "fd00:77::2/64")
	c.start()
	l.contains(c.sh("ip addr show eth0"), "10.77.0.2/24", "fd00:77::2/64")
	ping(l.out, "10.77.0.2", "fd00:77::2")
}
