//go:build linux

package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestHostNetwork: a container that wants the host's network is refused, with
// what to do instead, and has loopback only where it says that this will do.
func TestHostNetwork(t *testing.T) {
	l := newLab(t)
	host, err := os.Open("/proc/thread-self/ns/net") // that of our children
	l.must(err)
	defer host.Close()
	for name, namespaces := range map[string][]specs.LinuxNamespace{
		"without a network namespace": {{Type: specs.PIDNamespace}},
		"by path":                     {{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), host.Fd())}},
	} {
		c := l.container("")
		c.spec.Linux.Namespaces = namespaces
		err := c.tryCreate().err
		if err == nil {
			t.Fatalf("%s: created", name)
		}
		l.contains(err.Error(), "no network namespace but the host's", "publish its ports", "dev.runm.host-network=loopback")

		c.spec.Annotations = map[string]string{"dev.runm.host-network": "loopback"}
		c.run()
		log, err := os.ReadFile(filepath.Join(l.root(), c.id, "log"))
		l.must(err)
		l.contains(string(log), "a machine cannot share the host's network: the container has loopback only")
		if links := strings.Fields(c.sh("ls /sys/class/net")); len(links) != 1 || links[0] != "lo" {
			t.Errorf("%s: interfaces %q, want lo", name, links)
		}
		c.sh("ping -c 1 127.0.0.1")
	}
}

// TestNone: `--network none` is a namespace that stays empty.
func TestNone(t *testing.T) {
	l := newLab(t)
	c := l.container("")
	c.run()
	if up := c.sh("ip -o addr"); strings.Count(up, "\n") != 2 || !strings.Contains(up, "127.0.0.1/8") || !strings.Contains(up, "::1/128") {
		t.Errorf("addresses: %s", up)
	}
	c.sh("ping -c 1 127.0.0.1; ping -c 1 ::1")
	if routes := c.sh("ip route; ip -6 route | grep -v '^multicast\\|dev lo'; true"); routes != "" {
		t.Errorf("routes: %s", routes)
	}
}

// TestShared: a second container in a namespace is in the same machine; where it
// cannot join that one, because another --root has it, it is refused by name.
// Nothing of it is left, and the first goes on.
func TestShared(t *testing.T) {
	l := newLab(t)
	first := l.container("")
	first.run()
	ns := first.netns()
	ns.plug("eth0", "10.77.0.2/24")
	l.waitFor("the first one's network", func() bool { return strings.Contains(first.sh("ip addr"), "10.77.0.2/24") })

	stranger := l.container(ns.path)
	root := filepath.Join(l.dir, "other")
	err := stranger.tryCreateIn(root).err
	if err == nil {
		t.Fatal("created in another root")
	}
	l.contains(err.Error(), "another machine is in this network namespace")
	if left, err := filepath.Glob(filepath.Join(root, "*")); err != nil || len(left) > 0 {
		t.Errorf("left in the other root: %q, %v", left, err)
	}
	ping(l.out, "10.77.0.2")

	second := l.container(ns.path)
	second.run()
	l.contains(second.sh("ip addr"), "10.77.0.2/24")
	serving := first.background("nc -l -p 80 -e echo hello")
	first.waitListens(80)
	l.contains(second.sh("nc -w 5 127.0.0.1 80 </dev/null"), "hello")
	serving()
	// The network is the machine's, and stays with it.
	l.must(l.try("delete", "--force", first.id).err)
	ping(l.out, "10.77.0.2")
	ping(second, "10.77.0.1")
}

// TestTooMany: an interface beyond the machine's NICs fails start, which can be
// tried again without it.
func TestTooMany(t *testing.T) {
	l := newLab(t)
	c := l.container("")
	c.spec.Annotations = map[string]string{"dev.runm.nics": "1"}
	c.create()
	c.netns().plug("eth0", "10.77.0.2/24")
	c.netns().plug("eth1", "10.77.0.3/24")
	err := l.try("start", c.id).err
	if err == nil {
		t.Fatal("started")
	}
	l.contains(err.Error(), "more network interfaces than the machine has NICs: there is none for eth1", "dev.runm.nics")
	c.netns().sh("ip link del eth1")
	c.start()
	ping(l.out, "10.77.0.2")
}

// TestKilled: when the monitor is killed, the taps go with the machine; what is
// left in a namespace that lives on does not hinder the next container.
func TestKilled(t *testing.T) {
	l := newLab(t)
	ns := l.netns()
	ns.plug("eth0", "10.77.0.2/24")
	c := l.container(ns.path)
	c.run()
	l.must(unix.Kill(l.monitor(c.id), unix.SIGKILL))
	l.must(l.try("delete", "--force", c.id).err)
	l.waitFor("no taps", func() bool { return ns.sh("ip -br link show type tun") == "" })
	next := l.container(ns.path)
	next.run()
	ping(l.out, "10.77.0.2")
}

// TestNamespaceGone: a client takes the interface away before it removes the
// container; the end is as clean as ever.
func TestNamespaceGone(t *testing.T) {
	l := newLab(t)
	c := l.container("")
	c.create()
	c.netns().plug("eth0", "10.77.0.2/24")
	c.start()
	c.netns().sh("ip link del eth0")
	l.must(l.try("kill", c.id, "KILL").err)
	l.must(l.try("delete", "--force", c.id).err)
}
