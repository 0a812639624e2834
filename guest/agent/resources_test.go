//go:build linux

package agent_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runc/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/agent/agenttest"
	"github.com/runm/runm/guest/api"
)

func contextWithTimeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 30*time.Second)
}

func testStats(t *testing.T, vm *agenttest.VM) {
	spec := sh("stats", "sleep 1000; true")
	limit := int64(77)
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
	started(t, vm, "stats", spec)
	resp, err := vm.Stats(t.Context(), &api.ContainerRequest{Id: "stats"})
	if err != nil {
		t.Fatal(err)
	}
	var s types.Stats
	if err := json.Unmarshal(resp.GetStats(), &s); err != nil {
		t.Fatal(err)
	}
	if s.Pids.Limit != 77 || s.Pids.Current == 0 || s.CPU.Usage.Total == 0 || s.Memory.Usage.Usage == 0 {
		t.Errorf("stats: %s", resp.GetStats())
	}
	ps, err := vm.Processes(t.Context(), &api.ContainerRequest{Id: "stats"})
	if err != nil {
		t.Fatal(err)
	}
	var init *api.Process
	for _, p := range ps.GetProcesses() {
		// Its child has the same command line until it executes sleep.
		if strings.HasPrefix(p.GetCommand(), "sh -c sleep") && (init == nil || p.GetPid() < init.GetPid()) {
			init = p
		}
	}
	if init == nil {
		t.Fatalf("processes: %v", ps)
	}
	if age := time.Since(time.Unix(init.GetStartUnix(), 0)); age < -2*time.Second || age > time.Minute {
		t.Errorf("init is %v old", age)
	}
	if init.GetTty() != "?" || init.GetUid() != 0 || init.GetPpid() != 1 {
		t.Errorf("init: %v", init)
	}
}

func testUpdate(t *testing.T, vm *agenttest.VM) {
	started(t, vm, "update", sh("update", "sleep 1000"))
	update := func(json string) {
		t.Helper()
		if _, err := vm.Update(t.Context(), &api.UpdateRequest{Id: "update", Resources: []byte(json)}); err != nil {
			t.Error(err)
		}
	}
	update(`{"memory":{"limit":67108864,"swap":67108864},"cpu":{"quota":20000,"period":100000,"shares":512},"pids":{"limit":33}}`)
	update(`{"pids":{"limit":44}}`) // leaves the others alone
	// Later starts still work: device rules are not skipped.
	if _, code := execSh(t, vm, "update", "after", "true"); code != 0 {
		t.Errorf("exec after update: status %d", code)
	}
	resp, err := vm.Stats(t.Context(), &api.ContainerRequest{Id: "update"})
	if err != nil {
		t.Fatal(err)
	}
	var s types.Stats
	if err := json.Unmarshal(resp.GetStats(), &s); err != nil {
		t.Fatal(err)
	}
	if s.Pids.Limit != 44 || s.Memory.Usage.Limit != 64<<20 {
		t.Errorf("limits: pids %d, memory %d", s.Pids.Limit, s.Memory.Usage.Limit)
	}
}

func testOOM(t *testing.T, vm *agenttest.VM) {
	spec := sh("oom", "tail /dev/zero")
	limit := int64(24 << 20)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})
	spec.Process.Args = []string{"tail", "/dev/zero"}
	started(t, vm, "oom", spec)
	resp := vm.MustWait(t, "oom", "")
	if resp.GetStatus() != 137 || resp.GetOomKills() == 0 {
		t.Errorf("got %v, want status 137 and OOM kills", resp)
	}
}

func testSysctl(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "sysctl")
	spec := sh("sysctl", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax")
	spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.msgmax": "9000"}
	if out, errs, _ := vm.Run(t, "sysctl", spec, ""); out != "1\n9000\n" {
		t.Errorf("got %q %q", out, errs)
	}
	spec.Linux.Sysctl = map[string]string{"net.ipv4.nonsuch": "1"}
	_, err := vm.Create(t.Context(), &api.CreateRequest{Id: "sysctl", Spec: agenttest.Encode(t, spec), Stdio: &api.Stdio{}})
	if err == nil || !strings.Contains(err.Error(), "linux.sysctl.net.ipv4.nonsuch") {
		t.Errorf("got %v", err)
	}
}

// As runtime-tools' linux_uid_mappings: the rootfs is owned by the guest's root
// and the container's root is 1000.
func testUserNamespace(t *testing.T, vm *agenttest.VM) {
	root := vm.Rootfs(t, "userns")
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	// A source that the container's root cannot reach: the agent opens it.
	hidden := filepath.Join(vm.Share, "hidden/dir")
	for _, dir := range []string{hidden, filepath.Join(root, "hidden")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(hidden), 0o700); err != nil {
		t.Fatal(err)
	}
	spec := sh("userns", "cd /hidden && cat /proc/self/uid_map; id -u; echo x > /tmp/made; stat -c %u /tmp/made; echo again > /proc/self/fd/1")
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 2000}}
	spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 3000}}
	for i, m := range spec.Mounts {
		if m.Type == "sysfs" {
			spec.Mounts[i] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "ro"}}
		}
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/hidden", Type: "bind",
		Source: filepath.Join(api.ShareMountpoint, "hidden/dir"), Options: []string{"bind"}})
	for i, m := range spec.Mounts {
		if m.Type == "devpts" {
			spec.Mounts[i].Options = []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
		}
	}
	out, errs, code := vm.Run(t, "userns", spec, "")
	f := strings.Fields(out)
	if len(f) != 6 || strings.Join(f, " ") != "0 1000 2000 0 0 again" || code != 0 {
		t.Errorf("got %q %q %d", out, errs, code)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "tmp/made"), &st); err != nil || st.Uid != 1000 {
		t.Errorf("owner on the host: %d, %v", st.Uid, err)
	}
}

func testHook(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "hook")
	spec := sh("hook", "cat /tmp/hook")
	spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{
		Path: "/bin/sh", Args: []string{"sh", "-c", "/bin/sleep 1; /bin/grep -o '\"status\":\"[a-z]*\"' > /tmp/hook"},
	}}}
	if out, errs, code := vm.Run(t, "hook", spec, ""); out != "\"status\":\"created\"\n" || code != 0 {
		t.Errorf("got %q %q %d", out, errs, code)
	}
	spec.Hooks.StartContainer[0].Args = []string{"sh", "-c", "exit 1"}
	vm.MustCreate(t, "hook", spec, &api.Stdio{})
	defer remove(vm, "hook")
	_, err := vm.Start(t.Context(), &api.StartRequest{Id: "hook"})
	if err == nil || !strings.Contains(err.Error(), "before it could execute") {
		t.Errorf("start after a failed hook: %v", err)
	}
}

// Orphans of a container without a pid namespace become the agent's children.
func testOrphans(t *testing.T, vm *agenttest.VM) {
	spec := sh("orphans", "sleep 1000")
	spec.Linux.Namespaces = spec.Linux.Namespaces[1:]
	started(t, vm, "orphans", spec)
	execSh(t, vm, "orphans", "make", "for i in 1 2 3 4 5; do (setsid sleep 0.1 &) ; done")
	deadline := time.Now().Add(20 * time.Second)
	for i := 0; ; i++ {
		out, _ := execSh(t, vm, "orphans", "count"+string(rune('a'+i)), "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l")
		if strings.TrimSpace(out) == "0" && i > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("zombies left: %s", out)
		}
		<-time.After(500 * time.Millisecond)
	}
}

// A flood of output arrives fast, and does not delay others.
func testFlood(t *testing.T, vm *agenttest.VM) {
	const size = 512 << 20
	vm.Rootfs(t, "flood")
	out := vm.Stream(t)
	vm.MustCreate(t, "flood", sh("flood", "dd if=/dev/zero bs=256k count=2048 2>/dev/null"), &api.Stdio{Stdout: out.StreamID()})
	defer remove(vm, "flood")
	begin := time.Now()
	vm.MustStart(t, "flood")
	n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{out}, make([]byte, 1<<20))
	took := time.Since(begin)
	if err != nil || n != size {
		t.Fatalf("%d bytes, %v", n, err)
	}
	out.Close()
	t.Logf("%.0f MB/s", float64(size)/1e6/took.Seconds())
	vm.MustWait(t, "flood", "")

	// Now one that nobody reads, while another runs.
	vm.Rootfs(t, "stuck")
	stuck := vm.Stream(t)
	vm.MustCreate(t, "stuck", sh("stuck", "yes"), &api.Stdio{Stdout: stuck.StreamID()})
	defer remove(vm, "stuck")
	defer stuck.Close()
	vm.MustStart(t, "stuck")
	begin = time.Now()
	if out, code := execSh(t, vm, "stuck", "e", "echo through"); out != "through\n" || code != 0 {
		t.Errorf("got %q %d", out, code)
	}
	t.Logf("exec beside a stuck writer: %v", time.Since(begin))
}
