//go:build linux

package validation

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Each host stand-in program of the suite has a twin here that looks into the
// container:
//
//	linux_cgroups_cpus, _relative_cpus          TestCPUInside
//	linux_cgroups_memory, _relative_memory      TestMemoryInside, TestOutOfMemoryInside
//	linux_cgroups_pids, _relative_pids          TestPidsInside
//	linux_cgroups_devices, _relative_devices    TestDevicesInside
//	linux_ns_nopath                             TestNewNamespacesInside, TestUserNamespaceInside
//	linux_ns_itype                              TestNoNamespacesInside
//	linux_ns_path                               TestNetworkPathInside
//	delete_resources, _only_create_resources    TestDeleteCgroup (host)
//	linux_cgroups_blkio, _relative_blkio        TestThrottleOnHost
//	linux_cgroups_hugetlb, _relative_hugetlb    TestHugepagesOnHost
//	linux_cgroups_network, _relative_network    TestNetClassOnHost
//
// The last three limits are the host's alone: guests have one virtual disk and
// network, and no huge pages of the host (docs/oci-support.md).

// v1Here is why runc cannot show what a cgroup v2 file says.
const v1Here = "containers of this machine see cgroup v1"

// values reads "name=value" lines.
func values(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, "="); ok {
			m[name] = strings.Join(strings.Fields(value), " ")
		}
	}
	return m
}

// want asserts some values of a container's output.
func want(t *testing.T, text string, expected map[string]string) {
	t.Helper()
	got := values(text)
	for name, value := range expected {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
	if t.Failed() {
		t.Logf("output:\n%s", text)
	}
}

// The quota holds: a loop of 2 s is throttled.
func TestCPUInside(t *testing.T) {
	t.Parallel()
	onlyRunm(t, v1Here)
	c := newContainer(t, `cd /sys/fs/cgroup
echo max=$(cat cpu.max); echo weight=$(cat cpu.weight)
end=$(($(date +%s) + 2)); while [ $(date +%s) -lt $end ]; do :; done
grep -q '^nr_throttled [1-9]' cpu.stat && echo throttled=yes`)
	shares, quota, period := uint64(2048), int64(20000), uint64(100000)
	c.spec.Linux.Resources.CPU = &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period}
	out := c.run()
	want(t, out, map[string]string{"max": "20000 100000", "throttled": "yes"})
	// 1024 shares are runc's default weight: 100, or 39 before runc 1.4.
	if w, err := strconv.Atoi(values(out)["weight"]); err != nil || w <= 39 {
		t.Errorf("cpu.weight %q, want more than that of 1024 shares", values(out)["weight"])
	}
}

func TestMemoryInside(t *testing.T) {
	t.Parallel()
	onlyRunm(t, v1Here)
	c := newContainer(t, `cd /sys/fs/cgroup; for f in max low swap.max; do echo $f=$(cat memory.$f); done`)
	const limit int64 = 50593792 // the suite's: 48.25 MiB, a whole number of pages
	const half = limit / 2 / 4096 * 4096
	c.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(limit), Reservation: new(half), Swap: new(limit)}
	out := c.run()
	want(t, out, map[string]string{"max": "50593792", "low": strconv.FormatInt(half, 10)})
	// Without a swap device the kernel may have no such file.
	if s := values(out)["swap.max"]; s != "0" && s != "" {
		t.Errorf("memory.swap.max is %s, want 0: limit and limit with swap are the same", s)
	}
}

// A process that takes more than the limit is killed, and nothing else is.
func TestOutOfMemoryInside(t *testing.T) {
	t.Parallel()
	onlyRunm(t, v1Here)
	c := newContainer(t, `tail -c 100m /dev/zero >/dev/null; echo status=$?
echo kills=$(sed -n 's/^oom_kill //p' /sys/fs/cgroup/memory.events)`)
	c.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(32 << 20))}
	want(t, c.run(), map[string]string{"status": "137", "kills": "1"})
}

func TestPidsInside(t *testing.T) {
	t.Parallel()
	onlyRunm(t, v1Here)
	c := newContainer(t, `echo max=$(cat /sys/fs/cgroup/pids.max)
(for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done) 2>/dev/null
echo now=$(cat /sys/fs/cgroup/pids.current)
grep -q '^max [1-9]' /sys/fs/cgroup/pids.events && echo refused=yes`)
	c.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(8))}
	want(t, c.run(), map[string]string{"max": "8", "refused": "yes"})
}

// A node that no rule allows can be made, by CAP_MKNOD and a rule for m, but
// not opened; one that is allowed can be read, and only as far as allowed.
func TestDevicesInside(t *testing.T) {
	t.Parallel()
	c := newContainer(t, `cd /tmp
try() { mknod $1 c $2 $3 && echo $1=made; head -c 0 $1 2>err && echo $1=read || sed "s/.*: /$1=/" err; }
try zero 1 5; try mem 1 1; try kmsg 1 11
(: >kmsg) 2>err && echo write=yes || sed "s/.*: /write=/" err`)
	zero, kmsg, one := int64(5), int64(11), int64(1)
	c.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "c", Major: &one, Minor: &zero, Access: "rw"},
		{Allow: true, Type: "c", Major: &one, Minor: &kmsg, Access: "r"},
	}
	c.spec.Mounts = append(c.spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}})
	caps := c.spec.Process.Capabilities
	caps.Bounding = append(caps.Bounding, "CAP_SYSLOG") // to read kmsg at all
	caps.Permitted, caps.Effective = caps.Bounding, caps.Bounding
	const denied = "Operation not permitted" // busybox's EPERM
	want(t, c.run(), map[string]string{"zero": "read", "mem": denied, "kmsg": "read", "write": denied})
}

// TestNewNamespacesInside: everything new, as linux_ns_nopath.
func TestNewNamespacesInside(t *testing.T) {
	t.Parallel()
	c := newContainer(t, `echo pid=$$; echo hostname=$(hostname); echo cgroup=$(cat /proc/self/cgroup | tail -n 1)
echo processes=$(ls /proc | grep -c '^[0-9]*$'); echo links=$(ls /sys/class/net | tr '\n' ' ')
ipcs -q 2>/dev/null | grep -c '^0x' | sed 's/^/queues=/'; mount -t tmpfs x /tmp 2>/dev/null && echo mounted=yes
for n in cgroup ipc mnt net pid uts; do echo ns_$n=$(readlink /proc/self/ns/$n); done
echo boot=$(cat /proc/sys/kernel/random/boot_id)`)
	c.spec.Hostname = "inside"
	out := c.run()
	want(t, out, map[string]string{"pid": "1", "hostname": "inside", "cgroup": "0::/", "queues": "0", "mounted": ""})
	got := values(out)
	if !slices.Contains(strings.Fields(got["links"]), "lo") || strings.Contains(got["links"], "eth") {
		t.Errorf("interfaces %q, want lo and none of the host's", got["links"])
	}
	host, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	c.must(err)
	sameKernel := got["boot"] == strings.TrimSpace(string(host))
	if isRunm(runtimePath(t)) {
		if sameKernel {
			t.Error("the container runs on the host's kernel")
		}
		return // inode numbers of two kernels may be equal
	}
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
		own, err := os.Readlink("/proc/self/ns/" + ns)
		c.must(err)
		if got["ns_"+ns] == own || got["ns_"+ns] == "" {
			t.Errorf("%s namespace %q, the host's is %q", ns, got["ns_"+ns], own)
		}
	}
}

// TestUserNamespaceInside: the maps of linux_ns_nopath, and root is not root
// on the files of the share.
func TestUserNamespaceInside(t *testing.T) {
	t.Parallel()
	c := newContainer(t, `echo uid=$(cat /proc/self/uid_map); echo gid=$(cat /proc/self/gid_map); echo id=$(id -u)
touch /tmp/new && echo touched=yes`)
	c.namespace(specs.UserNamespace, "")
	c.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 2000}}
	c.spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 3000}}
	tmp := filepath.Join(c.rootfs(), "tmp")
	c.must(os.Chmod(tmp, 0o777))
	out := c.run()
	want(t, out, map[string]string{"uid": "0 1000 2000", "gid": "0 1000 3000", "id": "0", "touched": "yes"})
	var st unix.Stat_t
	c.must(unix.Stat(filepath.Join(tmp, "new"), &st))
	if st.Uid != 1000 || st.Gid != 1000 {
		t.Errorf("the new file belongs to %d:%d on the host, want 1000:1000", st.Uid, st.Gid)
	}
}

// TestNoNamespacesInside: none configured, as linux_ns_itype. A container of
// runm then shares its guest's, never the host's.
func TestNoNamespacesInside(t *testing.T) {
	t.Parallel()
	onlyRunm(t, "would share the host's namespaces")
	c := newContainer(t, `echo links=$(ls /sys/class/net | tr '\n' ' '); echo boot=$(cat /proc/sys/kernel/random/boot_id)`)
	c.spec.Linux.Namespaces = nil
	c.spec.Annotations = map[string]string{"dev.runm.host-network": "loopback"}
	out := c.run()
	got := values(out)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	c.must(err)
	if got["boot"] == strings.TrimSpace(string(boot)) || got["boot"] == "" {
		t.Errorf("boot id %q is the host's, or none", got["boot"])
	}
	if !slices.Contains(strings.Fields(got["links"]), "lo") || strings.Contains(got["links"], "eth") {
		t.Errorf("interfaces %q, want lo and none of the host's", got["links"])
	}
}

// TestNetworkPathInside: a namespace given by path, as linux_ns_path. Its
// interface is the container's, with name, MAC, MTU and address.
func TestNetworkPathInside(t *testing.T) {
	t.Parallel()
	c := newContainer(t, `echo mac=$(cat /sys/class/net/rvin/address); echo mtu=$(cat /sys/class/net/rvin/mtu)
echo address=$(ip addr show rvin | grep -c 'inet 10.99.7.2/24'); echo lo=$(ip addr | grep -c 'inet 127.0.0.1/8')`)
	path := c.netns(`ip link add rvin address 02:00:00:00:07:02 mtu 1380 type veth peer name rvout
ip link set lo up; ip link set rvin up; ip addr add 10.99.7.2/24 dev rvin`)
	c.namespace(specs.NetworkNamespace, path)
	want(t, c.run(), map[string]string{"mac": "02:00:00:00:07:02", "mtu": "1380", "address": "1", "lo": "1"})
}

// TestMountNamespacePath: a mount namespace given by path. The holder is in it
// and its root is the rootfs all the same; so are createContainer hooks ("MUST be
// executed in the container namespace", config.md), before the root changes.
func TestMountNamespacePath(t *testing.T) {
	t.Parallel()
	onlyRunm(t, "does not change the root of a mount namespace that it joins")
	c := newContainer(t, "sleep 1000")
	other := exec.Command("unshare", "--mount", "sleep", "1000")
	c.must(other.Start())
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	path := fmt.Sprintf("/proc/%d/ns/mnt", other.Process.Pid)
	own, err := os.Readlink("/proc/self/ns/mnt")
	c.must(err)
	var ns string
	for deadline := time.Now().Add(10 * time.Second); ns == "" || ns == own; {
		if time.Now().After(deadline) {
			t.Fatal("unshare has made no mount namespace")
		}
		ns, err = os.Readlink(path)
		c.must(err)
	}
	c.namespace(specs.MountNamespace, path)
	seen := filepath.Join(c.box.dir, "seen")
	c.spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{hook("readlink /proc/self/ns/mnt >" + seen + "; test -e " + c.rootfs())}}
	c.must(c.create())
	pid := c.wantStatus(specs.StateCreated).Pid
	hooked, err := os.ReadFile(seen)
	c.must(err)
	for _, got := range []string{readlink(t, fmt.Sprintf("/proc/%d/ns/mnt", pid)), strings.TrimSpace(string(hooked))} {
		if got != ns {
			t.Errorf("mount namespace %q, want %q", got, ns)
		}
	}
	var root, want unix.Stat_t
	c.must(unix.Stat(fmt.Sprintf("/proc/%d/root", pid), &root))
	c.must(unix.Stat(c.rootfs(), &want))
	if root.Dev != want.Dev || root.Ino != want.Ino {
		t.Errorf("/proc/%d/root is %q, not the rootfs", pid, readlink(t, fmt.Sprintf("/proc/%d/root", pid)))
	}
	var host unix.Stat_t
	c.must(unix.Stat("/", &root))
	c.must(unix.Stat(fmt.Sprintf("/proc/%d/root", other.Process.Pid), &host))
	if root.Dev != host.Dev || root.Ino != host.Ino {
		t.Error("the root of who else is in the namespace has changed")
	}
	_, _, err = c.call("delete", "--force", c.id)
	c.must(err)
}

func readlink(t *testing.T, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// netns makes a network namespace with script, and returns its path, which is
// there as long as the test. It is no mount: tests beside this one copy mounts
// into namespaces of their own, where they stay.
func (c *container) netns(script string) string {
	c.t.Helper()
	made, over := make(chan error), make(chan struct{})
	var thread int
	go func() {
		// The thread is not given back: it ends with the namespace.
		runtime.LockOSThread()
		thread = unix.Gettid()
		made <- unix.Unshare(unix.CLONE_NEWNET)
		<-over
	}()
	c.must(<-made)
	c.t.Cleanup(func() { close(over) })
	path := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), thread)
	c.sh(fmt.Sprintf("nsenter --net=%s sh -ec '%s'", path, script))
	return path
}

var inCgroup = regexp.MustCompile(`(?m)^\d+:([^:]*):(/.*)$`)

// hostCgroup is the directory of a v1 controller that state.pid is in, or
// skips: the machine may not have the controller mounted.
func (c *container) hostCgroup(controller string, pid int) string {
	c.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	c.must(err)
	for _, m := range inCgroup.FindAllStringSubmatch(string(data), -1) {
		if slices.Contains(strings.Split(m[1], ","), controller) {
			return filepath.Join("/sys/fs/cgroup", controller, m[2])
		}
	}
	c.t.Fatalf("process %d is in no %s cgroup: %s", pid, controller, data)
	return ""
}

// needController skips where a v1 hierarchy is not mounted.
func needController(t *testing.T, controller string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", controller, "cgroup.procs")); err != nil {
		t.Skipf("no cgroup v1 hierarchy %s: %v", controller, err)
	}
}

// hostFile creates the container, reads a file of its cgroup on the host, and
// deletes it.
func (c *container) hostFile(controller, name string) string {
	c.t.Helper()
	needController(c.t, controller)
	c.must(c.create())
	pid := c.wantStatus(specs.StateCreated).Pid
	data, err := os.ReadFile(filepath.Join(c.hostCgroup(controller, pid), name))
	c.must(err)
	_, _, err = c.call("delete", "--force", c.id)
	c.must(err)
	return strings.TrimSpace(string(data))
}

func TestThrottleOnHost(t *testing.T) {
	t.Parallel()
	needController(t, "blkio")
	number := blockDevice(t)
	c := newContainer(t, "true")
	var major, minor int64
	if _, err := fmt.Sscanf(number, "%d:%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	device := specs.LinuxThrottleDevice{Rate: 102400}
	device.Major, device.Minor = major, minor
	c.spec.Linux.Resources.BlockIO = &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{device}}
	if got := c.hostFile("blkio", "blkio.throttle.read_bps_device"); got != number+" 102400" {
		t.Errorf("throttle %q, want %q", got, number+" 102400")
	}
}

// blockDevice is the number of a block device of the machine.
func blockDevice(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("/sys/block/*/dev")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("no block device")
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func TestHugepagesOnHost(t *testing.T) {
	t.Parallel()
	needController(t, "hugetlb")
	c := newContainer(t, "true")
	c.spec.Linux.Resources.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}
	if got := c.hostFile("hugetlb", "hugetlb.2MB.limit_in_bytes"); got != "4194304" {
		t.Errorf("limit %s, want 4194304", got)
	}
}

func TestNetClassOnHost(t *testing.T) {
	t.Parallel()
	needController(t, "net_cls")
	c := newContainer(t, "true")
	c.spec.Linux.Resources.Network = &specs.LinuxNetwork{ClassID: new(uint32(255))}
	if got := c.hostFile("net_cls", "net_cls.classid"); got != "255" {
		t.Errorf("class %s, want 255", got)
	}
}

// TestDeleteCgroup: the cgroup on the host that create made goes with delete,
// one that was there before stays (delete_resources, and the other way round
// delete_only_create_resources).
func TestDeleteCgroup(t *testing.T) {
	t.Parallel()
	needController(t, "pids")
	c := newContainer(t, "sleep 1000")
	parent := filepath.Join("/sys/fs/cgroup/pids", c.id+"-parent")
	c.must(os.Mkdir(parent, 0o755))
	// The same below the other hierarchies is made by the runtime on the way.
	t.Cleanup(func() {
		dirs, err := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", filepath.Base(parent)))
		c.must(err)
		for _, dir := range dirs {
			_ = os.Remove(dir) // one in use stays, and the leak check names it
		}
	})
	c.spec.Linux.CgroupsPath = "/" + c.id + "-parent/made"
	c.must(c.create())
	dir := c.hostCgroup("pids", c.wantStatus(specs.StateCreated).Pid)
	if dir != filepath.Join(parent, "made") {
		t.Errorf("state.pid is in %s, want %s", dir, filepath.Join(parent, "made"))
	}
	c.must(c.delete())
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s: %v, want it gone when delete returns", dir, err)
	}
	if _, err := os.Stat(parent); err != nil {
		t.Errorf("a cgroup that create did not make: %v", err)
	}
}

// What the process wrote is in the files when state says stopped, also when
// the machine is busy: the suite reads them then.
func TestOutputWhenStopped(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			c := newContainer(t, "seq 1 5000; echo end >&2")
			c.must(c.create())
			pid := c.wantStatus(specs.StateCreated).Pid
			c.must(c.start())
			c.wait(pid)
			stdout, stderr := c.out()
			if lines := strings.Count(stdout, "\n"); lines != 5000 || stderr != "end\n" {
				t.Errorf("%d lines and %q, want 5000 and end", lines, stderr)
			}
			c.must(c.delete())
		})
	}
}
