//go:build linux

package agent_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/runm/runm/guest/agent/agenttest"
	"github.com/runm/runm/guest/api"
)

// A survey tells all that a container can see of how its init was made. It goes
// to a file, because a terminal is one of the things that differ.
const survey = `
start=$PWD
exec 3> /tmp/survey
read uptime idle < /proc/uptime
read stat < /proc/1/stat
> /tmp/begun
set -- $stat
echo $uptime ${22} >&3
show() { for f; do echo "== $f"; while read -r line || [ "$line" ]; do echo "$line"; done < $f; done >&3 2>&1; }
see() { echo "== $*" >&3; "$@" >&3 2>&1; }
read input; echo "input: $input" >&3
echo output; echo error >&2
cd /proc/1
show mountinfo cgroup oom_score_adj limits environ comm personality setgroups uid_map coredump_filter \
	timerslack_ns loginuid sessionid status timens_offsets
show /proc/keys /proc/sysvipc/shm /sys/fs/cgroup/pids.max /tmp/hook
read first < /sys/fs/cgroup/cgroup.procs
echo $first >&3
cd /proc/sys
see cat kernel/hostname kernel/domainname kernel/msgmax kernel/sem kernel/shmmax fs/mqueue/msg_max
cd /
echo "$5 $6 $7 $8 ${18} ${19} ${41}" >&3 # parent, group, session, terminal, priority, nice, policy
echo $start >&3
see umask
see ulimit -a
see ulimit -aH
see id
see tty
see stty size
see mkdir /tmp/made
see ls -ldn /tmp /tmp/made
see ls -ln /dev /dev/fd/ /proc/1/fd /proc/1/ns
see ls -ld /proc/1/cwd /proc/1/root /proc/1/exe /proc/1/task/* /sys/fs/cgroup/*.*
exit 0
`

// Surveyed containers, each with what its init gets in another way.
var surveyed = []struct {
	name  string
	tty   bool
	stdio bool
	spec  func(*specs.Spec)
	req   func(*api.CreateRequest)
}{
	{name: "user", stdio: true, spec: func(s *specs.Spec) {
		umask, adj, pids := uint32(0o027), 321, int64(33)
		p := s.Process
		p.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 6}, Umask: &umask}
		p.OOMScoreAdj = &adj
		p.Capabilities.Inheritable = []string{"CAP_KILL"}
		p.Capabilities.Ambient = []string{"CAP_KILL"}
		p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 2}, {Type: "RLIMIT_AS", Soft: 1 << 30, Hard: 1 << 31}}
		s.Domainname = "domain"
		s.Linux.Sysctl = map[string]string{"kernel.msgmax": "9999", "fs.mqueue.msg_max": "11"}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Architectures: []specs.Arch{specs.ArchX86_64},
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
		}
	}},
	{name: "terminal", tty: true, spec: func(s *specs.Spec) {
		s.Process.NoNewPrivileges = false
		s.Process.Cwd = "/tmp/new"
		s.Linux.RootfsPropagation = "shared"
		s.Linux.Namespaces = s.Linux.Namespaces[:4] // no cgroup namespace
		s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{
			Path: "/bin/sh", Args: []string{"sh", "-c", "/bin/cat /proc/self/cgroup /proc/self/mountinfo > /tmp/hook; pwd >> /tmp/hook"},
		}}}
		s.Linux.Resources.Devices = nil
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: "/run", Options: []string{"rbind", "rslave", "ro"}})
	}},
	{name: "nothing", spec: func(s *specs.Spec) {
		s.Root.Readonly = true
		s.Linux.RootfsPropagation = "rslave"
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "bind",
			Source: filepath.Join(api.ShareMountpoint, "tmp"), Options: []string{"bind", "rw"}})
	}, req: func(r *api.CreateRequest) { r.NoNewKeyring, r.NoPivot = true, true }},
}

// bootTemplate starts a guest whose agent believes that it will be saved.
func bootTemplate(t *testing.T) *agenttest.VM {
	vm := boot(t, agenttest.Options{Cmdline: []string{api.TemplateParameter}})
	vm.Greet(t)
	return vm
}

// TestSpare compares what a container sees that was made from the spare with
// what it sees when its init was started for it.
func TestSpare(t *testing.T) {
	ordinary := boot(t, agenttest.Options{})
	ordinary.Greet(t)
	for i, c := range surveyed {
		t.Run(c.name, func(t *testing.T) {
			vm := bootTemplate(t)
			<-time.After(spareAge)
			got, spare := runSurvey(t, vm, i)
			if !spare {
				t.Error("the spare was not used")
			}
			want, spare := runSurvey(t, ordinary, i)
			if spare {
				t.Error("a spare in a machine that is no template")
			}
			compare(t, got, want)
		})
	}
}

func compare(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		switch {
		case i >= len(g):
			t.Errorf("missing: %s", w[i])
		case i >= len(w):
			t.Errorf("more: %s", g[i])
		case g[i] != w[i]:
			t.Errorf("line %d: got %q, want %q", i+1, g[i], w[i])
		}
	}
}

// spareAge is how much older than its container a spare is at least.
const spareAge = time.Second

// runSurvey runs surveyed[i]. It returns what it saw, without what differs from
// one run to the next, and whether its init is older than its container.
func runSurvey(t *testing.T, vm *agenttest.VM, i int) (seen string, spare bool) {
	c := surveyed[i]
	root := vm.Rootfs(t, c.name)
	tmp := filepath.Join(root, "tmp")
	if c.name == "nothing" {
		tmp = filepath.Join(vm.Share, "tmp")
	}
	for _, dir := range []string{tmp, filepath.Join(root, "mnt")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(tmp, 0o1777); err != nil {
		t.Fatal(err)
	}
	spec := sh(c.name, survey)
	spec.Process.Terminal = c.tty
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
	spec.Linux.MaskedPaths = []string{"/proc/kcore", "/sys/firmware"} // and not keys
	c.spec(spec)
	req := &api.CreateRequest{Id: c.name, Spec: agenttest.Encode(t, spec), Stdio: &api.Stdio{Terminal: c.tty, Width: 90, Height: 20}}
	if c.req != nil {
		c.req(req)
	}
	var output []<-chan string
	if c.stdio || c.tty {
		in, out := vm.Stream(t), vm.Stream(t)
		req.Stdio.Stdin, req.Stdio.Stdout = in.StreamID(), out.StreamID()
		output = append(output, agenttest.Collect(out))
		if c.stdio {
			errs := vm.Stream(t)
			req.Stdio.Stderr = errs.StreamID()
			output = append(output, agenttest.Collect(errs))
		}
		defer in.Close()
		io.WriteString(in, "input\n")
	}
	begin := time.Now()
	if _, err := vm.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	vm.MustStart(t, c.name)
	if code := vm.MustWait(t, c.name, "").GetStatus(); code != 0 {
		t.Errorf("status %d", code)
	}
	if _, err := vm.Delete(t.Context(), &api.ContainerRequest{Id: c.name}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(tmp, "survey"))
	if err != nil {
		t.Fatal(err)
	}
	ages, seen, _ := strings.Cut(string(content), "\n")
	if len(seen) < 5000 {
		t.Fatalf("survey of %d bytes: %q", len(seen), seen)
	}
	for _, o := range output {
		seen += "\n" + <-o
	}
	return normalize(seen), initStart(t, ages, filepath.Join(tmp, "begun")).Before(begin.Add(-spareAge / 2))
}

// initStart is when init was started. ages are the guest's uptime in seconds and
// init's start in hundredths of a second after boot, seen when the file begun was
// made.
func initStart(t *testing.T, ages, begun string) time.Time {
	t.Helper()
	var uptime, start float64
	if _, err := fmt.Sscan(ages, &uptime, &start); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(begun)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime().Add(-time.Duration((uptime - start/100) * float64(time.Second)))
}

// normalize removes what differs between two containers anyway.
func normalize(survey string) string {
	for _, r := range []struct{ pattern, with string }{
		{`(?m)^\d+ \d+ \d+:\d+ `, "MOUNT "},
		{`(mnt|pid|ipc|uts|cgroup|pid_for_children) -> \w+:\[40265320[3-9]\d\]`, "$1 -> OWN"},
		{`(mnt|pid|ipc|uts|cgroup|pid_for_children) -> \w+:\[40265321\d\d\]`, "$1 -> OWN"},
		{`(?m)^0::/(@spare0|terminal)$`, "0::/CGROUP"}, // runm's containers have a namespace
		{`,favordynmods`, ""}, // a container without one turns it off
		{`pipe:\[\d+\]`, "PIPE"},
		{`(peer group|shared:|master:)\d+`, "${1}N"},
		{`\w\w\w +\d+ \d\d:\d\d `, "DATE "},
		{`(?m)^[0-9a-f]{8} I`, "KEY I"}, // serial number of a key
		{`(?m)^(Vm|Rss|Hugetlb|voluntary|nonvoluntary|Threads|Cpus_allowed|Mems_allowed).*\n`, ""},
		{`(?m)^(SigQ):.*\n`, ""},
	} {
		survey = regexp.MustCompile(r.pattern).ReplaceAllString(survey, r.with)
	}
	lines := strings.Split(survey, "\n")
	keys := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, "KEY ") })
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "KEY ") })
	slices.Sort(keys) // they are in the order of their numbers
	lines = append(lines, keys...)
	return strings.Join(lines, "\n")
}

// TestSpareUnused holds what becomes of a spare that is not used, or not for
// long.
func TestSpareUnused(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *agenttest.VM)
	}{
		{"does not fit", testSpareUnfit},
		{"program is missing", testSpareFailure},
		{"mount fails", testSpareBadMount},
		{"killed before start", testSpareKilled},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, bootTemplate(t)) })
	}
}

// leftovers says how many zombies and inits without a container there are, to a
// container that sees the machine's processes.
func leftovers(t *testing.T, vm *agenttest.VM, id string) string {
	t.Helper()
	spec := sh(id, "cat /proc/[0-9]*/status 2>/dev/null | grep -c -e State:.Z -e Name:.runc; true")
	spec.Linux.Namespaces = spec.Linux.Namespaces[1:]
	out, errs, code := vm.Run(t, id, spec, "")
	if code != 0 {
		t.Errorf("status %d, %q", code, errs)
	}
	return out
}

// A container that sees the machine's processes does not fit the spare, and does
// not see it.
func testSpareUnfit(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "unfit")
	if n := leftovers(t, vm, "unfit"); n != "0\n" {
		t.Errorf("the container sees %q", n)
	}
}

// What fails in the spare fails with the same words, and the next container is
// an ordinary one.
func testSpareFailure(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "bad")
	wantFailure(t, vm, agenttest.Spec("bad", "nonsuch"), "executable file not found in $PATH")
	if n := leftovers(t, vm, "bad"); n != "0\n" {
		t.Errorf("left over: %q", n)
	}
}

func testSpareBadMount(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "bad")
	spec := agenttest.Spec("bad", "true")
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: "/run/nonsuch", Options: []string{"bind"}})
	wantFailure(t, vm, spec, "/run/nonsuch: no such file or directory")
	wantFailure(t, vm, spec, "/run/nonsuch: no such file or directory") // now an ordinary one
	if n := leftovers(t, vm, "bad"); n != "0\n" {
		t.Errorf("left over: %q", n)
	}
}

func wantFailure(t *testing.T, vm *agenttest.VM, spec *specs.Spec, want string) {
	t.Helper()
	_, err := vm.Create(t.Context(), &api.CreateRequest{Id: "bad", Spec: agenttest.Encode(t, spec), Stdio: &api.Stdio{}})
	wantError(t, err, codes.Unknown, want)
}

func testSpareKilled(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "killed")
	vm.MustCreate(t, "killed", sh("killed", "exit 0"), &api.Stdio{})
	if out, code := execSh(t, vm, "killed", "look", "echo /proc/[0-9]*; hostname; pwd"); !strings.HasPrefix(out, "/proc/1 ") || code != 0 {
		t.Errorf("exec in the created container: %q %d", out, code)
	}
	if _, err := vm.Signal(t.Context(), &api.SignalRequest{Id: "killed", Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	if code := vm.MustWait(t, "killed", "").GetStatus(); code != 128+uint32(unix.SIGKILL) {
		t.Errorf("status %d, want 137", code)
	}
	if _, err := vm.Delete(t.Context(), &api.ContainerRequest{Id: "killed"}); err != nil {
		t.Error(err)
	}
	if out, _, code := vm.Run(t, "killed", sh("killed", "cat"), "again\n"); out != "again\n" || code != 0 {
		t.Errorf("after it: %q %d", out, code)
	}
}

// TestSpareCgroup holds that the first container is in a spare cgroup if its
// device rules are usual ones, that no other is, and that rules are in force.
func TestSpareCgroup(t *testing.T) {
	allow := func(major, minor int64) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"}
	}
	for _, c := range []struct {
		name, first, second string
		rules               []specs.LinuxDeviceCgroup
	}{
		{name: "no device", first: "0::/@spare0\nclosed\n", second: "0::/second\nclosed\n"},
		{name: "console", first: "0::/@spare1\nclosed\n", second: "0::/second\nclosed\n", rules: []specs.LinuxDeviceCgroup{allow(5, 1)}},
		{name: "another", first: "0::/first\nopen\n", second: "0::/second\nopen\n", rules: []specs.LinuxDeviceCgroup{allow(1, 11)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			vm := bootTemplate(t)
			for _, run := range []struct{ id, want string }{{"first", c.first}, {"second", c.second}} {
				vm.Rootfs(t, run.id)
				spec := sh(run.id, "cat /proc/self/cgroup; mknod /dev/messages c 1 11; true > /dev/messages && echo open || echo closed")
				spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
					return n.Type == specs.CgroupNamespace
				})
				spec.Process.Capabilities.Bounding = append(spec.Process.Capabilities.Bounding, "CAP_MKNOD")
				spec.Process.Capabilities.Permitted = spec.Process.Capabilities.Bounding
				spec.Process.Capabilities.Effective = spec.Process.Capabilities.Bounding
				spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, c.rules...)
				out, errs, code := vm.Run(t, run.id, spec, "")
				if out != run.want || code != 0 {
					t.Errorf("%s: %q %q %d, want %q", run.id, out, errs, code, run.want)
				}
			}
		})
	}
}
