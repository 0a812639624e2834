package bundle

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// base is a small spec that Load accepts without a warning.
func base() *specs.Spec {
	return &specs.Spec{
		Version: "1.2.1",
		Process: &specs.Process{Args: []string{"sh"}, Cwd: "/"},
		Root:    &specs.Root{Path: "rootfs"},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "uts"}},
			Resources: &specs.LinuxResources{
				Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{},
			},
			Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow},
		},
	}
}

func ptr[T any](v T) *T { return &v }

func write(t testing.TB, config string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func load(t *testing.T, change func(*specs.Spec)) (*Bundle, error) {
	t.Helper()
	s := base()
	if change != nil {
		change(s)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return Load(write(t, string(data)))
}

func TestLoad(t *testing.T) {
	b, err := load(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b.Rootfs != filepath.Join(b.Dir, "rootfs") || b.Spec.Version != "1.2.1" {
		t.Errorf("bundle %+v", b)
	}
	if len(b.Warnings)+len(b.Unknown)+len(b.Sources) != 0 {
		t.Errorf("warnings %q, unknown %q, sources %v", b.Warnings, b.Unknown, b.Sources)
	}
}

// What clients and people write wrong in the file itself.
func TestLoadFile(t *testing.T) {
	for name, c := range map[string]struct{ config, want string }{
		"null":        {"null", "config.json: config cannot be null"},
		"empty":       {"", "config.json:1:1: unexpected end of JSON input"},
		"broken":      {"{\n  \"ociVersion\": 1.0.0\n}", "config.json:2:20: invalid character '.'"},
		"trailing":    {"{} {}", "config.json:1:4: invalid character '{' after top-level value"},
		"wrong type":  {"{\n\"ociVersion\": \"1.0.0\",\n\"process\": {\"args\": \"sh\"}}", "config.json:3:24: process.args: string where []string belongs"},
		"no object":   {"[]", "config.json:1:1: array where an object belongs"},
		"no version":  {"{}", "ociVersion: must not be empty"},
		"no process":  {`{"ociVersion":"1.0.0"}`, "process property must not be empty"},
		"no root":     {`{"ociVersion":"1.0.0","process":{"args":["a"],"cwd":"/"}}`, "root must be specified"},
		"null byte":   {`{"ociVersion":"1.0.0","process":{"args":["a\u0000b"],"cwd":"/"}}`, "process.args[0]: contains a null byte"},
		"null sysctl": {`{"ociVersion":"1.0.0","process":{"args":["a"],"cwd":"/"},"linux":{"sysctl":{"a.b\u0000":"1"}}}`, "linux.sysctl.a.b\x00: contains a null byte"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(write(t, c.config))
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
	if _, err := Load(t.TempDir()); err == nil || err.Error() != "JSON specification file config.json not found" {
		t.Errorf("no file: %v", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestVersion(t *testing.T) {
	for v, ok := range map[string]bool{
		"1.0.0": true, "1.0.2-dev": true, "1.3.0": true, "1.99.0": true, "1.0.0-rc5": true, "1.2.0+build": true,
		"": false, "1": false, "1.0": false, "1.0.0.0": false, "0.9.0": false, "2.0.0": false,
		"v1.0.0": false, "one": false, "1.0.x": false, "1.01.0": false, "1.0.0-": false, "-1.0.0": false, "+1.0.0": false,
	} {
		if err := checkVersion(v); (err == nil) != ok {
			t.Errorf("%q: error %v, accepted should be %v", v, err, ok)
		}
	}
	if err := checkVersion("2.0.0"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("2.0.0: %v", err)
	}
}

func TestUnknownProperties(t *testing.T) {
	b, err := Load(write(t, `{
		"ociVersion": "1.0.0", "unknown": {"x": 1},
		"process": {"args": ["a"], "cwd": "/", "user": {"uid": 0, "gid": 0, "shell": "sh"}},
		"root": {"path": "rootfs"},
		"annotations": {"any": "thing"},
		"linux": {
			"devices": [], "resources": {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "speed": 1}]}},
			"sysctl": {"a.b": "1"}, "timeOffsets": {}
		}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"linux.resources.blockIO.weightDevice[].speed", "process.user.shell", "unknown"}
	if !slices.Equal(b.Unknown, want) {
		t.Errorf("unknown %q, want %q", b.Unknown, want)
	}
}

func TestRootfs(t *testing.T) {
	_, err := load(t, func(s *specs.Spec) { s.Root.Path = "none" })
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("missing: %v", err)
	}
	if _, err := load(t, func(s *specs.Spec) { s.Root.Path = "config.json" }); err == nil || !strings.HasSuffix(err.Error(), "not a directory") {
		t.Errorf("a file: %v", err)
	}
	if _, err := load(t, func(s *specs.Spec) { s.Root.Path = "" }); err == nil {
		t.Error("an empty path is accepted")
	}
	// The suite's bundles are their own root file systems.
	b, err := load(t, func(s *specs.Spec) { s.Root.Path = "." })
	if err != nil || b.Rootfs != b.Dir {
		t.Errorf("root %+v, error %v", b, err)
	}

	dir := write(t, `{"ociVersion":"1.0.0","root":{"path":"link"},"process":{"args":["a"],"cwd":"/"}}`)
	if err := os.Symlink("rootfs", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "bundle")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	b, err = Load(link)
	if err != nil || b.Dir != dir || b.Rootfs != filepath.Join(dir, "rootfs") {
		t.Errorf("through links: %+v, error %v", b, err)
	}
}

// Each line: what is changed, the error that names it.
func TestRefuses(t *testing.T) {
	type spec = *specs.Spec
	bind := func(m specs.Mount) func(spec) {
		return func(s spec) { s.Mounts = append(s.Mounts, m) }
	}
	resources := func(change func(*specs.LinuxResources)) func(spec) {
		return func(s spec) { change(s.Linux.Resources) }
	}
	for want, change := range map[string]func(spec){
		"process.args must not be empty":                             func(s spec) { s.Process.Args = nil },
		"process.cwd property must not be empty":                     func(s spec) { s.Process.Cwd = "" },
		`process.cwd must be an absolute path: "tmp"`:                func(s spec) { s.Process.Cwd = "tmp" },
		"process.rlimits[0].type: wrong rlimit value: RLIMIT_TEST":   func(s spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_TEST"}} },
		"process.rlimits[1].type: RLIMIT_CPU is there twice":         func(s spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU"}, {Type: "RLIMIT_CPU"}} },
		"process.rlimits[0]: soft limit 2 is above the hard limit 1": func(s spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}} },
		"process.oomScoreAdj: 1001":                                  func(s spec) { s.Process.OOMScoreAdj = ptr(1001) },
		"process.scheduler.policy: scheduler policy is required":     func(s spec) { s.Process.Scheduler = &specs.Scheduler{} },
		"process.scheduler.policy: not supported: SCHED_ISO":         func(s spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedISO} },
		"process.scheduler.nice: 20":                                 func(s spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 20} },
		"process.scheduler.priority: ":                               func(s spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Priority: 1} },
		"process.scheduler: runtime, deadline":                       func(s spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Period: 1} },
		"process.scheduler.flags[0]: not supported: X": func(s spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedRR, Flags: []specs.LinuxSchedulerFlag{"X"}}
		},
		`process.ioPriority.class: invalid class ""`:                  func(s spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} },
		"process.ioPriority.priority: 8":                              func(s spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_RT, Priority: 8} },
		"hostname: unable to set hostname without a private UTS":      func(s spec) { s.Hostname, s.Linux.Namespaces = "h", nil },
		"domainname: unable to set domainname without a private UTS":  func(s spec) { s.Domainname, s.Linux = "d", nil },
		"mounts[1].destination: must not be empty":                    bind(specs.Mount{Type: "tmpfs"}),
		`mounts[1].type: not supported: "overlay" at /o`:              bind(specs.Mount{Destination: "/o", Type: "overlay", Options: []string{"lowerdir=/etc"}}),
		`mounts[1].type: not supported: "" at /o`:                     bind(specs.Mount{Destination: "/o", Source: "/etc"}),
		`mounts[1].options: unknown mount option "fast"`:              bind(specs.Mount{Destination: "/t", Type: "tmpfs", Options: []string{"fast"}}),
		`mounts[1].options: unknown mount option "hidepid=2"`:         bind(specs.Mount{Destination: "/t", Type: "bind", Source: "/etc", Options: []string{"hidepid=2"}}),
		"mounts[1].options: not supported: idmap":                     bind(specs.Mount{Destination: "/t", Type: "bind", Source: "/etc", Options: []string{"idmap"}}),
		"mounts[1].source: must not be empty":                         bind(specs.Mount{Destination: "/t", Type: "bind"}),
		`mounts[1].source: mount source "/none": no such file or dir`: bind(specs.Mount{Destination: "/t", Type: "bind", Source: "/none"}),
		"mounts[1].source: not supported: /proc/self/fd/3":            bind(specs.Mount{Destination: "/t", Type: "bind", Source: "/proc/self/fd/3"}),
		"mounts[1].source: not supported: /proc/1":                    bind(specs.Mount{Destination: "/t", Type: "bind", Source: "/proc/./1"}),
		`linux.namespaces[3].type: namespace "pod" does not exist`:    func(s spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "pod"}) },
		`linux.namespaces[3].type: malformed spec file: duplicated`:   func(s spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "pid"}) },
		`linux.namespaces[0].path: "x" is not an absolute path`:       func(s spec) { s.Linux.Namespaces[0].Path = "x" },
		"linux.namespaces[0].path: not supported: a user namespace":   func(s spec) { s.Linux.Namespaces[0] = specs.LinuxNamespace{Type: "user", Path: "/proc/1/ns/user"} },
		"linux.uidMappings: must not be empty":                        func(s spec) { s.Linux.Namespaces[0].Type = "user" },
		"linux.gidMappings: user namespace mappings specified, but":   func(s spec) { s.Linux.GIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"linux.uidMappings: user namespaces enabled, but no mapping": func(s spec) {
			s.Linux.Namespaces[0].Type = "user"
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 1, Size: 1}}
			s.Linux.GIDMappings = []specs.LinuxIDMapping{{Size: 1}}
		},
		"linux.gidMappings[0].size: must not be 0": func(s spec) {
			s.Linux.Namespaces[0].Type = "user"
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
			s.Linux.GIDMappings = []specs.LinuxIDMapping{{}}
		},
		"linux.timeOffsets: time namespace offsets specified, but":    func(s spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} },
		"linux.rootfsPropagation: \"open\" is not supported":          func(s spec) { s.Linux.RootfsPropagation = "open" },
		`linux.maskedPaths[0]: "proc" is not an absolute path`:        func(s spec) { s.Linux.MaskedPaths = []string{"proc"} },
		`linux.readonlyPaths[0]: "proc" is not an absolute path`:      func(s spec) { s.Linux.ReadonlyPaths = []string{"proc"} },
		"linux.personality.domain: invalid":                           func(s spec) { s.Linux.Personality = &specs.LinuxPersonality{} },
		"linux.sysctl.swap: not the name of a sysctl":                 func(s spec) { s.Linux.Sysctl = map[string]string{"swap": "1"} },
		"linux.sysctl.net/../vm: not the name of a sysctl":            func(s spec) { s.Linux.Sysctl = map[string]string{"net/../vm": "1"} },
		"linux.sysctl.kernel.hostname: sysctl is not allowed":         func(s spec) { s.Linux.Sysctl = map[string]string{"kernel.hostname": "h"} },
		`linux.devices[0].type: invalid device type "x"`:              func(s spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "x"}} },
		`linux.devices[0].path: "x" is not an absolute path`:          func(s spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "x", Type: "c"}} },
		"linux.seccomp.defaultAction: not supported: SCMP_ACT_NOTIFY": func(s spec) { s.Linux.Seccomp.DefaultAction = specs.ActNotify },
		"linux.seccomp.syscalls[0].action: not supported: SCMP_ACT_N": func(s spec) { s.Linux.Seccomp.Syscalls = []specs.LinuxSyscall{{Action: specs.ActNotify}} },
		`linux.seccomp.syscalls[0].action: invalid action ""`:         func(s spec) { s.Linux.Seccomp.Syscalls = []specs.LinuxSyscall{{}} },
		`linux.seccomp.syscalls[0].args[0].op: invalid operator ""`: func(s spec) {
			s.Linux.Seccomp.Syscalls = []specs.LinuxSyscall{{Action: specs.ActLog, Args: []specs.LinuxSeccompArg{{}}}}
		},
		`linux.seccomp.architectures[0]: not supported: "SCMP_ARCH_S`: func(s spec) { s.Linux.Seccomp.Architectures = []specs.Arch{specs.ArchSH} },
		`linux.seccomp.flags[0]: not supported: "F"`:                  func(s spec) { s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{"F"} },
		`linux.resources.devices[0].access: "" is not made of`:        resources(func(r *specs.LinuxResources) { r.Devices = []specs.LinuxDeviceCgroup{{}} }),
		`linux.resources.devices[0].type: invalid cgroup device`:      resources(func(r *specs.LinuxResources) { r.Devices = []specs.LinuxDeviceCgroup{{Type: "p", Access: "r"}} }),
		"linux.resources.memory.swap: memory+swap limit 1 should be":  resources(func(r *specs.LinuxResources) { r.Memory.Limit, r.Memory.Swap = ptr(int64(2)), ptr(int64(1)) }),
		"linux.resources.memory.limit: -2":                            resources(func(r *specs.LinuxResources) { r.Memory.Limit = ptr(int64(-2)) }),
		"linux.resources.memory.swappiness: 101":                      resources(func(r *specs.LinuxResources) { r.Memory.Swappiness = ptr(uint64(101)) }),
		`linux.resources.cpu.cpus: "0-" is not a list`:                resources(func(r *specs.LinuxResources) { r.CPU.Cpus = "0-" }),
		`linux.resources.cpu.mems: "1-0" is not a list`:               resources(func(r *specs.LinuxResources) { r.CPU.Mems = "1-0" }),
		"linux.resources.cpu.shares: 1 is not between 2 and 262144":   resources(func(r *specs.LinuxResources) { r.CPU.Shares = ptr(uint64(1)) }),
		"linux.resources.cpu.shares: 262145 is not between":           resources(func(r *specs.LinuxResources) { r.CPU.Shares = ptr(uint64(262145)) }),
		"linux.resources.cpu.idle: 2":                                 resources(func(r *specs.LinuxResources) { r.CPU.Idle = ptr(int64(2)) }),
		"linux.resources.cpu.realtimeRuntime: not supported":          resources(func(r *specs.LinuxResources) { r.CPU.RealtimeRuntime = ptr(int64(1)) }),
		"linux.resources.hugepageLimits[0].pageSize: this host has n": resources(func(r *specs.LinuxResources) { r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "3MB"}} }),
		`linux.resources.hugepageLimits[0].pageSize: "2M" is not a`:   resources(func(r *specs.LinuxResources) { r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2M"}} }),
		"linux.resources.unified.rdma.max: not supported":             resources(func(r *specs.LinuxResources) { r.Unified = map[string]string{"rdma.max": "1"} }),
		"linux.resources.unified.../memory.max: must be the name":     resources(func(r *specs.LinuxResources) { r.Unified = map[string]string{"../memory.max": "1"} }),
		`hooks.poststop[0].path: "x" is not an absolute path`:         func(s spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "x"}}} },
		"hooks.createRuntime[0].timeout: 0 is not greater":            func(s spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/x", Timeout: ptr(0)}}} },
	} {
		t.Run(want, func(t *testing.T) {
			_, err := load(t, change)
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Fatalf("error %v, want %s", err, want)
			}
			if said := strings.Contains(want, ": not supported"); said && !errors.Is(err, ErrUnsupported) {
				t.Errorf("%v is not ErrUnsupported", err)
			}
		})
	}
}

// What clients and the validation suite write and runc takes.
func TestAccepts(t *testing.T) {
	type spec = *specs.Spec
	for name, c := range map[string]struct {
		change func(spec)
		warns  string // "" for none
	}{
		"unknown capability": {func(s spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_TEST", "CAP_KILL"}}
		}, "process.capabilities: ignoring unknown or unavailable capabilities CAP_TEST."},
		"relative destination": {func(s spec) { s.Mounts[0].Destination = "proc" }, `mounts[0].destination: "proc" is not absolute`},
		"bind without a type": {func(s spec) {
			s.Mounts[0] = specs.Mount{Destination: "/e", Source: "/etc", Options: []string{"bind", "nosuid", "slave"}}
		}, ""},
		"shared bind": {func(s spec) {
			s.Mounts[0] = specs.Mount{Destination: "/e", Type: "bind", Source: "/etc", Options: []string{"rbind", "rshared"}}
		}, `mounts[0].options: "rshared": what is mounted in the container is mounted in the guest alone`},
		"bind with mode": {func(s spec) {
			s.Mounts[0] = specs.Mount{Destination: "/e", Source: "/etc", Options: []string{"mode=755", "rbind"}}
		}, `mounts[0].options: "mode=755" has no meaning`},
		"the host's /sys": {func(s spec) {
			s.Mounts[0] = specs.Mount{Destination: "/sys", Type: "none", Source: "/sys", Options: []string{"rbind"}}
		}, "mounts[0].source: /sys is the guest's own"},
		"the host's /proc": {func(s spec) { s.Mounts[0] = specs.Mount{Destination: "/proc", Type: "bind", Source: "/proc"} }, "mounts[0].source: /proc is the guest's own"},
		"/dev/null":        {func(s spec) { s.Mounts[0] = specs.Mount{Destination: "/n", Type: "bind", Source: "/dev/null"} }, ""},
		"any sysctl": {func(s spec) {
			s.Linux.Sysctl = map[string]string{"vm.max_map_count": "1", "net/ipv4/conf/eth0.1/rp_filter": "0"}
		}, ""},
		"devices without driver": {func(s spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/t1", Type: "c", Major: 10, Minor: 666}, {Path: "/dev/t2", Type: "b", Major: 8, Minor: 666}, {Path: "/dev/t3", Type: "p", Major: 8, Minor: 666}}
		}, ""},
		"no seccomp":           {func(s spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} }, ""},
		"zero realtime":        {func(s spec) { s.Linux.Resources.CPU.RealtimeRuntime = ptr(int64(0)) }, ""},
		"OOM killer on":        {func(s spec) { s.Linux.Resources.Memory.DisableOOMKiller = ptr(false) }, ""},
		"OOM killer off":       {func(s spec) { s.Linux.Resources.Memory.DisableOOMKiller = ptr(true) }, "linux.resources.memory.disableOOMKiller: "},
		"no namespaces":        {func(s spec) { s.Linux.Namespaces, s.Linux.MaskedPaths = nil, []string{"/proc/kcore"} }, ""},
		"no Linux":             {func(s spec) { s.Linux = nil }, ""},
		"null byte in a label": {func(s spec) { s.Annotations = map[string]string{"a": "\x00"} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := load(t, c.change)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(b.Warnings, "\n")
			if !strings.HasPrefix(got, c.warns) || c.warns == "" && got != "" {
				t.Errorf("warnings %q, want %q", got, c.warns)
			}
		})
	}
}

func TestSources(t *testing.T) {
	dir := write(t, "")
	listener, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := os.Symlink("/etc", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	bind := func(source string) specs.Mount {
		return specs.Mount{Destination: "/d", Type: "bind", Source: source}
	}
	c := checker{dir: dir}
	err = c.mounts([]specs.Mount{bind("link"), bind("sock"), bind(dir + "/../../etc/../dev//null"), bind("/dev/zero")})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"/": true, dir: false} {
		if got := hasSubmounts(path); got != want {
			t.Errorf("%s has mounts below it: %v, want %v", path, got, want)
		}
	}
	if s := c.sources[0]; s.Path != "/etc" || !s.Dir || s.Guest {
		t.Errorf("a symlink: %+v", s)
	}
	if s := c.sources[1]; s.Path != dir+"/sock" || s.Dir {
		t.Errorf("a socket: %+v", s)
	}
	if len(c.warnings) != 1 || !strings.HasPrefix(c.warnings[0], "mounts[1].source: "+dir+"/sock is a socket") {
		t.Errorf("warnings %q", c.warnings)
	}
	if own, _ := (&checker{}).guestOwn("f", "/dev/zero"); own != "/dev/zero" {
		t.Errorf("/dev/zero: %q", own)
	}
}

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":              "net/ipv4/ip_forward",
		"net/ipv4/ip_forward":              "net/ipv4/ip_forward",
		"net.ipv4.conf.eno2/100.rp_filter": "net/ipv4/conf/eno2.100/rp_filter",
		"net/ipv4/conf/eno2.100/rp_filter": "net/ipv4/conf/eno2.100/rp_filter",
		"":                                 "", "net": "", ".net": "", "net..ipv4": "", "net/../x": "", "net./.": "", "/proc/sys": "",
	} {
		if got := SysctlPath(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestCheckID(t *testing.T) {
	for id, ok := range map[string]bool{
		"c1": true, "A_b+c-d.e": true, "..a": true, strings.Repeat("x", 255): true,
		"": false, ".": false, "..": false, "a/b": false, "a b": false, "ä": false, "a\n": false, strings.Repeat("x", 256): false,
	} {
		err := CheckID(id)
		if (err == nil) != ok || !ok && !errors.Is(err, ErrInvalidID) {
			t.Errorf("%q: %v, accepted should be %v", id, err, ok)
		}
	}
	if err := CheckID("a/b"); err.Error() != `invalid container id format: "a/b"` {
		t.Error(err)
	}
}

func TestHugepages(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []string{"hugepages-2048kB", "hugepages-64kB", "hugepages-1048576kB"} {
		if err := os.Mkdir(filepath.Join(dir, size), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := checker{hugepages: dir}
	for size, ok := range map[string]bool{"2MB": true, "64KB": true, "1GB": true, "3MB": false, "2mb": false, "MB": false, "": false, "-2MB": false} {
		err := c.hugepageLimits([]specs.LinuxHugepageLimit{{Pagesize: size}})
		if (err == nil) != ok {
			t.Errorf("%q: %v, accepted should be %v", size, err, ok)
		}
	}
}

// FuzzLoad: whatever the file holds, Load returns a bundle or an error.
func FuzzLoad(f *testing.F) {
	data, err := json.Marshal(base())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(data))
	f.Add("null")
	f.Add(`{"ociVersion":"1.0.0","process":{"args":["a"],"cwd":"/"},"root":{"path":"."},"mounts":[null],"linux":{"devices":[null],"seccomp":{"syscalls":[null]}}}`)
	dir := write(f, "")
	f.Fuzz(func(t *testing.T, config string) {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		b, err := Load(dir)
		if err != nil {
			if b != nil {
				t.Error("an error and a bundle")
			}
			return
		}
		if !filepath.IsAbs(b.Rootfs) || len(b.Spec.Process.Args) == 0 || !filepath.IsAbs(b.Spec.Process.Cwd) {
			t.Errorf("accepted %+v", b)
		}
	})
}
