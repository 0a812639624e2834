//go:build linux

package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// same are the namespaces that tell whether two containers are in one machine
// and see each other, and the boot that the machine came from.
const same = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; cat /proc/sys/kernel/random/boot_id"

// sandbox is a container that others join.
func (b *box) sandbox() *container {
	c := b.container(same + "; echo up; exec sleep 1000")
	c.must(os.Symlink("busybox", c.path("rootfs/bin/readlink")))
	c.spec.Hostname = "the-pod"
	return c
}

// member is a container that joins sandbox's machine, as containerd's CRI plugin
// asks for it, with the namespaces of sandbox that kinds names.
func (sandbox *container) member(script string, kinds ...specs.LinuxNamespaceType) *container {
	sandbox.t.Helper()
	c := sandbox.container(script)
	c.must(os.Symlink("busybox", c.path("rootfs/bin/readlink")))
	c.spec.Annotations = map[string]string{
		"io.kubernetes.cri.container-type": "container",
		"io.kubernetes.cri.sandbox-id":     sandbox.id,
	}
	files := map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.PIDNamespace: "pid",
	}
	for _, kind := range kinds {
		for i := range c.spec.Linux.Namespaces {
			if ns := &c.spec.Linux.Namespaces[i]; ns.Type == kind {
				ns.Path = fmt.Sprintf("/proc/%d/ns/%s", sandbox.hostPids()["holder"], files[kind])
			}
		}
	}
	return c
}

func (c *container) lines(n int) []string {
	c.t.Helper()
	lines := strings.Split(c.read("stdout"), "\n")
	if len(lines) < n {
		c.t.Fatalf("%d lines, want %d: %q", len(lines), n, lines)
	}
	return lines[:n]
}

// Containers of a pod are in one machine and share what config.json says; each
// has its own output, exit status, files and end.
func TestPod(t *testing.T) {
	t.Parallel()
	sandbox := newBox(t).sandbox()
	// A tmpfs of the host, as clients give one to all containers of a pod. It is
	// only asked for its size.
	shm := specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "nosuid"}}
	sandbox.spec.Process.Args[2] = "echo shared >/dev/shm/word; " + sandbox.spec.Process.Args[2]
	cgroup := []specs.Mount{
		{Destination: "/sys", Type: "sysfs", Source: "sysfs"},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}},
	}
	sandbox.spec.Mounts = append(sandbox.spec.Mounts, append(cgroup, shm)...)
	sandbox.up()
	shared := []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}
	first := sandbox.member(same+"; cat /proc/sys/kernel/hostname /dev/shm/word /proc/sys/kernel/msgmax; exit 7", shared...)
	first.spec.Linux.Sysctl = map[string]string{"kernel.msgmax": "12345"}
	first.spec.Mounts = append(first.spec.Mounts, shm)
	first.save()
	if code := first.end(first.spawn("run", "run", "--bundle", first.bundle, first.id), commandTime); code != 7 {
		t.Errorf("status %d, want 7: %s", code, first.read("run.stderr"))
	}
	want, got := sandbox.lines(5), strings.Split(first.read("run.stdout"), "\n")
	if len(got) < 8 {
		t.Fatalf("printed %q", got)
	}
	for i, what := range []string{"net", "ipc", "uts", "pid", "boot id"} {
		if alike := got[i] == want[i]; alike != (what != "pid") {
			t.Errorf("%s: %s, the sandbox has %s", what, got[i], want[i])
		}
	}
	if got[5] != "the-pod" {
		t.Errorf("hostname %q, want the sandbox's", got[5])
	}
	if got[6] != "shared" {
		t.Errorf("/dev/shm has %q, want what the sandbox wrote", got[6])
	}
	if got[7] != "12345" {
		t.Errorf("kernel.msgmax of the joined namespace is %q", got[7])
	}

	// One that joins by a namespace alone, as `docker --pid container:` does,
	// with a file that was made after the machine was.
	source := sandbox.box.path("late")
	sandbox.must(os.WriteFile(source, []byte("late\n"), 0o644))
	second := sandbox.member("cat /mnt/late; kill -0 1 && echo up; exec sleep 1000", specs.PIDNamespace)
	second.spec.Annotations = nil
	second.must(os.WriteFile(second.path("rootfs/mnt/late"), nil, 0o644))
	second.spec.Mounts = append(append(second.spec.Mounts, cgroup...),
		specs.Mount{Destination: "/mnt/late", Type: "bind", Source: source, Options: []string{"bind", "ro"}})
	limit := int64(7)
	second.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	second.up()
	contains(t, second.read("stdout"), "late\n")
	if a, b := second.hostPids()["monitor"], sandbox.hostPids()["monitor"]; a != b {
		t.Errorf("monitor %d, the sandbox has %d", a, b)
	}
	if out := sandbox.runs("exec", sandbox.id, "sh", "-c", "cat /proc/[0-9]*/cmdline"); strings.Count(out, "sleep") != 2 {
		t.Errorf("the sandbox's pid namespace has %q, want two sleeps", out)
	}
	// Its own limits, its own pause.
	for c, want := range map[*container]string{second: "7\n", sandbox: "max\n"} {
		if got := c.runs("exec", c.id, "cat", "/sys/fs/cgroup/pids.max"); got != want {
			t.Errorf("%s: pids.max %q, want %q", c.id, got, want)
		}
	}
	second.runs("pause", second.id)
	second.wantStatus("paused")
	sandbox.runs("exec", sandbox.id, "true")
	second.runs("resume", second.id)
	second.runs("delete", "--force", second.id)
	sandbox.wantStatus(specs.StateRunning)
	sandbox.runs("delete", "--force", sandbox.id)
	sandbox.wantNothing()
}

// The machine goes with its last container, whichever that is.
func TestPodOutlivesItsSandbox(t *testing.T) {
	t.Parallel()
	sandbox := newBox(t).sandbox()
	sandbox.up()
	members := []*container{
		sandbox.member("echo up; exec sleep 1000", specs.NetworkNamespace),
		sandbox.member("echo up; exec sleep 1000", specs.NetworkNamespace),
	}
	for _, c := range members {
		c.up()
	}
	sandbox.runs("delete", "--force", sandbox.id)
	for _, c := range members {
		c.wantStatus(specs.StateRunning)
		if out := c.runs("exec", c.id, "echo", "alive"); out != "alive\n" {
			t.Errorf("exec printed %q", out)
		}
	}
	late := sandbox.container("exec sleep 1000")
	late.spec.Annotations = members[0].spec.Annotations
	contains(t, late.refused(), sandbox.id, "no running container")
	// The files of who is gone are gone from the machine, and those of others can
	// come, by the namespace of who is left.
	monitor := members[0].hostPids()["monitor"]
	if mounts := readProc(t, monitor, "mountinfo"); strings.Contains(mounts, sandbox.id) {
		t.Errorf("the monitor still has files of %s:\n%s", sandbox.id, mounts)
	}
	late.spec.Annotations = nil
	late.spec.Linux.Namespaces = members[0].spec.Linux.Namespaces
	for i := range late.spec.Linux.Namespaces {
		if ns := &late.spec.Linux.Namespaces[i]; ns.Type == specs.NetworkNamespace {
			ns.Path = fmt.Sprintf("/proc/%d/ns/net", members[0].hostPids()["holder"])
		}
	}
	late.spec.Process.Args[2] = "echo up; exec sleep 1000"
	late.save()
	late.up()
	if got := late.hostPids()["monitor"]; got != monitor {
		t.Errorf("monitor %d, want %d", got, monitor)
	}
	// The id is free again, in another machine.
	sandbox.up()
	if got := sandbox.hostPids()["monitor"]; got == monitor {
		t.Error("a container with no namespace of another's is in its machine")
	}
	sandbox.runs("delete", "--force", sandbox.id)
	late.runs("delete", "--force", late.id)

	members[0].runs("kill", members[0].id, "KILL")
	members[0].waitStopped(soon)
	members[0].runs("delete", members[0].id)
	members[1].wantStatus(specs.StateRunning)
	if mounts := readProc(t, monitor, "mountinfo"); strings.Contains(mounts, members[0].id) || strings.Contains(mounts, late.id) {
		t.Errorf("the monitor still has files of who is gone:\n%s", mounts)
	}
	members[1].runs("delete", "--force", members[1].id)
	sandbox.wantNothing()
}

func readProc(t *testing.T, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// An attached run of the machine's first container began before there was a pod;
// its end leaves the others alone.
func TestPodOutlivesAttachedRun(t *testing.T) {
	t.Parallel()
	sandbox := newBox(t).sandbox()
	sandbox.save()
	run := sandbox.spawn("run", "run", "--bundle", sandbox.bundle, sandbox.id)
	sandbox.prints("run.stdout", "up\n")
	member := sandbox.member("echo up; exec sleep 1000", specs.NetworkNamespace)
	member.up()
	sandbox.runs("kill", sandbox.id, "KILL")
	if code := sandbox.end(run, commandTime); code != 137 {
		t.Errorf("status %d, want 137: %s", code, sandbox.read("run.stderr"))
	}
	member.wantStatus(specs.StateRunning)
	if out := member.runs("exec", member.id, "echo", "alive"); out != "alive\n" {
		t.Errorf("exec printed %q", out)
	}
	member.runs("delete", "--force", member.id)
	sandbox.wantNothing()
}

// refused asserts that create fails and leaves no state; others of the box may
// be there.
func (c *container) refused() string {
	c.t.Helper()
	if r := c.finish(c.creation()); r.code == 0 {
		c.t.Fatal("create succeeded")
	}
	if _, err := os.Stat(filepath.Join(c.state, c.id)); !errors.Is(err, os.ErrNotExist) {
		c.t.Errorf("state directory: %v, want it gone", err)
	}
	return c.read("stderr")
}

// A member's create that fails or is killed leaves the pod as it was.
func TestPodKilledCreate(t *testing.T) {
	t.Parallel()
	sandbox := newBox(t).sandbox()
	sandbox.up()
	bad := sandbox.member("true", specs.NetworkNamespace)
	bad.spec.Process.Args = []string{"/bin/nonsuch"}
	contains(t, bad.refused(), "/bin/nonsuch", "no such file or directory")
	hook := sandbox.member("true", specs.NetworkNamespace)
	hook.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{hook.hook("exit 3")}}
	contains(t, hook.refused(), "exit status 3")
	for _, ms := range []int{0, 5, 10, 20, 35, 60, 100, 150, 250, 400, 600} {
		c := sandbox.member("exec sleep 1000", specs.NetworkNamespace)
		cmd := c.creation()
		c.must(cmd.Start())
		// The moment is the input of this test, not a wait for something.
		time.Sleep(time.Duration(ms) * time.Millisecond)
		_ = cmd.Process.Kill()
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) {
			c.must(err)
			c.wantStatus(specs.StateCreated)
			c.runs("delete", c.id)
		}
		waitFor(t, "the state directory goes", soon, func() bool {
			_, err := os.Stat(filepath.Join(c.state, c.id))
			return errors.Is(err, os.ErrNotExist)
		})
	}
	sandbox.wantStatus(specs.StateRunning)
	if out := sandbox.runs("exec", sandbox.id, "echo", "alive"); out != "alive\n" {
		t.Errorf("exec printed %q", out)
	}
	sandbox.runs("delete", "--force", sandbox.id)
	sandbox.wantNothing()
}

// A sandbox that ends while its first member is being created has nobody to leave
// the machine to: both are gone.
func TestPodEndsDuringCreate(t *testing.T) {
	t.Parallel()
	sandbox := newBox(t).sandbox()
	sandbox.up()
	c := sandbox.member("exec sleep 1000", specs.NetworkNamespace)
	waits, goes := c.box.path("waits"), c.box.path("goes")
	c.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{
		c.hook("touch " + waits + "; until [ -e " + goes + " ]; do sleep 0.01; done"),
	}}
	create := c.creation()
	c.must(create.Start())
	waitFor(t, "the hook runs", commandTime, func() bool {
		_, err := os.Stat(waits)
		return err == nil
	})
	sandbox.runs("delete", "--force", sandbox.id)
	c.must(os.WriteFile(goes, nil, 0o600))
	var exit *exec.ExitError
	if err := create.Wait(); !errors.As(err, &exit) {
		t.Errorf("create: %v, want it to fail", err)
	}
	sandbox.wantNothing()
}

// When a member's holder is killed, that container is over; when the machine's
// processes are, all are.
func TestPodKillOurProcesses(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"monitor", "qemu"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			sandbox := newBox(t).sandbox()
			sandbox.up()
			a := sandbox.member("echo up; exec sleep 1000", specs.NetworkNamespace)
			b := sandbox.member("echo up; exec sleep 1000", specs.NetworkNamespace)
			a.up()
			b.up()
			a.must(unix.Kill(a.hostPids()["holder"], unix.SIGKILL))
			a.waitStopped(soon)
			b.wantStatus(specs.StateRunning)
			a.runs("delete", a.id)
			sandbox.must(unix.Kill(sandbox.processes()[victim], unix.SIGKILL))
			for _, c := range []*container{b, sandbox} {
				c.waitStopped(soon)
				c.runs("delete", c.id)
			}
			sandbox.wantNothing()
		})
	}
}

// A pod that is not ours is named, not made up.
func TestPodWithoutSandbox(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("true")
	c.spec.Annotations = map[string]string{
		"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "elsewhere",
	}
	contains(t, c.createFails(), `"elsewhere"`, "no running container")
}

// What a guest makes of a member only after its create has failed is removed there,
// wherever it stood still meanwhile, and the member's id can be used again.
func TestPodLateCreate(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.installed("")
	b.runm = append([]string{"unshare", "--mount"}, b.runm...) // for installed's /etc
	configure := func(text string) { b.must(os.WriteFile(b.path("etc/runm/config.toml"), []byte(text), 0o644)) }
	sandbox := b.sandbox()
	sandbox.up()
	member := sandbox.member("echo up; exec sleep 1000", specs.NetworkNamespace)
	qemu := sandbox.processes()["qemu"]
	for _, ms := range []int{0, 150, 300, 450, 600, 800} {
		configure("boot_timeout_seconds = 2")
		create := member.creation()
		b.must(create.Start())
		// The moment is the input of this test, not a wait for something.
		time.Sleep(time.Duration(ms) * time.Millisecond)
		b.must(unix.Kill(qemu, unix.SIGSTOP))
		code := member.end(create, commandTime)
		b.must(unix.Kill(qemu, unix.SIGCONT))
		if code == 0 { // it was created before
			member.runs("delete", "--force", member.id)
		} else {
			contains(t, member.read("stderr"), "no answer for 2 s", "boot_timeout_seconds")
		}
		configure("")
		member.create()
		member.runs("delete", "--force", member.id)
	}
	sandbox.wantStatus(specs.StateRunning)
	sandbox.runs("delete", "--force", sandbox.id)
	sandbox.wantNothing()
}

// A member that is made again at once, under its id and with other files, has those
// files: the guest remembers for a second what a name was.
func TestPodSameIDAgain(t *testing.T) {
	t.Parallel()
	sandbox := newBox(t).sandbox()
	sandbox.up()
	member := sandbox.member("cat /word; echo up; exec sleep 1000", specs.NetworkNamespace)
	member.must(makeRootfs(member.path("other")))
	for root, word := range map[string]string{"rootfs": "one\n", "other": "two\n"} {
		member.must(os.WriteFile(member.path(root+"/word"), []byte(word), 0o644))
	}
	member.create()
	member.runs("delete", "--force", member.id)
	member.spec.Root.Path = "other"
	member.up()
	if got := member.read("stdout"); got != "two\nup\n" {
		t.Errorf("printed %q, want what is in its own root", got)
	}
	member.runs("delete", "--force", member.id)
	sandbox.runs("delete", "--force", sandbox.id)
	sandbox.wantNothing()
}
