package plan

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/vmm"
)

var update = flag.Bool("update", false, "write the golden files")

func testHost() Host {
	return Host{
		CPUs: 8, MemoryMiB: 16384, Accel: vmm.AccelTCG, Share: vmm.ShareVirtiofs,
		Kernel: "/lib/runm/vmlinux", Initrd: "/lib/runm/initramfs.cpio",
	}
}

// bundleDir makes a bundle without a config.json, with the files that the
// specs in testdata bind.
func bundleDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"rootfs", "data", "shm"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"hostname", "hosts", "resolv.conf", "run-init"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func loadSpec(t testing.TB, dir string, s *specs.Spec) (*bundle.Bundle, error) {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Load(dir)
	if err != nil {
		return nil, err
	}
	// The clients' shm directory is a tmpfs of 64 MiB.
	for i, source := range b.Sources {
		if source.Path == filepath.Join(dir, "shm") {
			source.TmpfsBytes = 64 << 20
			b.Sources[i] = source
		}
	}
	return b, nil
}

func mustMake(t *testing.T, name string, change func(*specs.Spec)) *Plan {
	t.Helper()
	dir := bundleDir(t)
	s := readSpec(t, name, dir)
	if change != nil {
		change(s)
	}
	b, err := loadSpec(t, dir, s)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Make("c1", b, config.Default(), testHost())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestGolden shows whole plans. The specs are what each client writes.
func TestGolden(t *testing.T) {
	for _, name := range []string{"busybox", "cri", "docker", "full", "podman"} {
		t.Run(name, func(t *testing.T) {
			p := mustMake(t, name, nil)
			got, err := json.MarshalIndent(p, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			text := strings.ReplaceAll(string(got), filepath.Dir(p.Rootfs.Source), "/BUNDLE") + "\n"
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if text != string(want) {
				t.Errorf("plan differs from %s (-update writes it):\n%s", file, text)
			}
		})
	}
}

func TestMakeIsPure(t *testing.T) {
	dir := bundleDir(t)
	b, err := loadSpec(t, dir, readSpec(t, "full", dir))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := json.Marshal(b)
	var plans [2][]byte
	for i := range plans {
		p, err := Make("c1", b, config.Default(), testHost())
		if err != nil {
			t.Fatal(err)
		}
		plans[i], _ = json.Marshal(p)
	}
	if after, _ := json.Marshal(b); string(before) != string(after) {
		t.Error("Make changed the bundle")
	}
	if string(plans[0]) != string(plans[1]) {
		t.Error("two plans of one bundle differ")
	}
}

func ptr[T any](v T) *T { return &v }

func TestMachineSize(t *testing.T) {
	type cpu = specs.LinuxCPU
	type memory = specs.LinuxMemory
	const mib = 1 << 20
	for name, c := range map[string]struct {
		cpu      *cpu
		memory   *memory
		config   func(*config.Config)
		tcg      bool
		hostCPUs int // 8 where 0
		cpus, mm int
		warning  string
	}{
		"nothing":                 {cpus: 4, mm: 512},
		"nothing, TCG":            {tcg: true, cpus: 1, mm: 512},
		"quota, TCG":              {tcg: true, cpu: &cpu{Quota: ptr(int64(250000))}, cpus: 3, mm: 512},
		"configured, TCG":         {tcg: true, config: func(c *config.Config) { c.CPUs = 2 }, cpus: 2, mm: 512},
		"half a CPU":              {cpu: &cpu{Quota: ptr(int64(50000)), Period: ptr(uint64(100000))}, cpus: 1, mm: 512},
		"one CPU":                 {cpu: &cpu{Quota: ptr(int64(100000)), Period: ptr(uint64(100000))}, cpus: 1, mm: 512},
		"one and a bit":           {cpu: &cpu{Quota: ptr(int64(100001)), Period: ptr(uint64(100000))}, cpus: 2, mm: 512},
		"quota without period":    {cpu: &cpu{Quota: ptr(int64(250000))}, cpus: 3, mm: 512},
		"no quota":                {cpu: &cpu{Quota: ptr(int64(-1)), Period: ptr(uint64(100000))}, cpus: 4, mm: 512},
		"more than the host":      {cpu: &cpu{Quota: ptr(int64(1 << 62)), Period: ptr(uint64(1))}, cpus: 8, mm: 512},
		"cpuset":                  {cpu: &cpu{Cpus: "0,2"}, cpus: 2, mm: 512},
		"more than the guest":     {hostCPUs: 128, cpu: &cpu{Quota: ptr(int64(6500000))}, cpus: 64, mm: 512, warning: "linux.resources.cpu.quota: it is of 65 CPUs"},
		"configured":              {config: func(c *config.Config) { c.CPUs, c.MemoryMiB = 6, 1000 }, cpus: 6, mm: 1000},
		"configured over cpuset":  {cpu: &cpu{Cpus: "0"}, config: func(c *config.Config) { c.CPUs = 6 }, cpus: 1, mm: 512, warning: "cpus: 6"},
		"tiny limit":              {memory: &memory{Limit: ptr(int64(4 * mib))}, cpus: 4, mm: 256},
		"just under a shape":      {memory: &memory{Limit: ptr(int64(126 * mib))}, cpus: 4, mm: 256},
		"just over a shape":       {memory: &memory{Limit: ptr(int64(127 * mib))}, cpus: 4, mm: 512},
		"a limit of 512":          {memory: &memory{Limit: ptr(int64(512 * mib))}, cpus: 4, mm: 1024},
		"a limit of 4096":         {memory: &memory{Limit: ptr(int64(4096 * mib))}, cpus: 4, mm: 6144},
		"no limit":                {memory: &memory{Limit: ptr(int64(-1))}, cpus: 4, mm: 512},
		"no limit, as v1 has it":  {memory: &memory{Limit: ptr(int64(9223372036854771712))}, cpus: 4, mm: 512},
		"limit above the host":    {memory: &memory{Limit: ptr(int64(1 << 40))}, cpus: 4, mm: 16384, warning: "linux.resources.memory.limit: 1048576 MiB"},
		"shape above the host":    {memory: &memory{Limit: ptr(int64(15000 * mib))}, cpus: 4, mm: 16384},
		"limit beats the default": {memory: &memory{Limit: ptr(int64(64 * mib))}, config: func(c *config.Config) { c.MemoryMiB = 4096 }, cpus: 4, mm: 256},
	} {
		t.Run(name, func(t *testing.T) {
			s := &specs.Spec{Linux: &specs.Linux{
				Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}},
				Resources:  &specs.LinuxResources{CPU: c.cpu, Memory: c.memory},
			}}
			conf := config.Default()
			if c.config != nil {
				c.config(&conf)
			}
			host := testHost()
			if !c.tcg {
				host.Accel = vmm.AccelKVM
			}
			if c.hostCPUs != 0 {
				host.CPUs = c.hostCPUs
			}
			var p Plan
			if err := p.machine(s, conf, host); err != nil {
				t.Fatal(err)
			}
			if p.Machine.CPUs != c.cpus || p.Machine.MemoryMiB != c.mm {
				t.Errorf("%d vCPUs and %d MiB, want %d and %d", p.Machine.CPUs, p.Machine.MemoryMiB, c.cpus, c.mm)
			}
			if got := strings.Join(p.Warnings, "\n"); !strings.HasPrefix(got, c.warning) || c.warning == "" && got != "" {
				t.Errorf("warnings %q, want %q", got, c.warning)
			}
		})
	}
}

// What a machine of this host lacks is said wherever the plan's warnings are: in
// --log and in the container's own log.
func TestHostWarnings(t *testing.T) {
	dir := bundleDir(t)
	b, err := loadSpec(t, dir, readSpec(t, "busybox", dir))
	if err != nil {
		t.Fatal(err)
	}
	h := testHost()
	h.Warnings = []string{"no virtiofsd"}
	p, err := Make("c1", b, config.Default(), h)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.Warnings, h.Warnings) {
		t.Errorf("warnings %q, want %q", p.Warnings, h.Warnings)
	}
}

func TestMachineErrors(t *testing.T) {
	for want, change := range map[string]func(*config.Config, *Host){
		"memory: the machine would get 512 MiB, this host has 300": func(_ *config.Config, h *Host) { h.MemoryMiB = 300 },
		"kernel: no guest kernel is installed":                     func(_ *config.Config, h *Host) { h.Kernel = "" },
		"initrd: no guest initramfs is installed":                  func(_ *config.Config, h *Host) { h.Initrd = "" },
	} {
		c, h := config.Default(), testHost()
		change(&c, &h)
		var p Plan
		if err := p.machine(&specs.Spec{}, c, h); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func TestNamespaces(t *testing.T) {
	namespaces := func(list string) []specs.LinuxNamespace {
		var all []specs.LinuxNamespace
		for f := range strings.FieldsSeq(list) {
			kind, path, _ := strings.Cut(f, ":")
			all = append(all, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(kind), Path: path})
		}
		return all
	}
	for in, want := range map[string]string{
		"":                                    "mount cgroup",
		"mount network pid":                   "mount cgroup pid",
		"pid ipc uts mount network cgroup":    "mount cgroup pid ipc uts",
		"network:/run/netns/a pid mount time": "mount cgroup pid time",
		"pid:/proc/7/ns/pid mount:/p ipc":     "mount cgroup pid ipc", // two warnings
		"pid:/proc/1/ns/pid ipc":              "mount cgroup ipc",
	} {
		var p Plan
		var got []string
		for _, n := range p.namespaces(namespaces(in), Host{OwnNamespaces: map[string]bool{"/proc/1/ns/pid": true}}) {
			if n.Path != "" {
				t.Errorf("%s: the guest would join %s", in, n.Path)
			}
			got = append(got, string(n.Type))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", in, strings.Join(got, " "), want)
		}
		warnings := strings.Join(p.Warnings, "\n")
		if n := strings.Count(in, ":/p") - strings.Count(in, ":/proc/1/"); strings.Count(warnings, ".path: ") != n {
			t.Errorf("%s: warnings %q, want %d of paths", in, p.Warnings, n)
		}
		var hosts []string
		for _, kind := range []string{"pid", "ipc", "uts"} {
			if !slices.Contains(got, kind) {
				hosts = append(hosts, kind)
			}
		}
		said := strings.Contains(warnings, "the machine's "+strings.Join(hosts, ", ")+", and not the host's")
		if said != (len(hosts) > 0) {
			t.Errorf("%s: warnings %q, want one of %q", in, p.Warnings, hosts)
		}
	}
}

func TestHostname(t *testing.T) {
	for name, c := range map[string]struct {
		own, inherited string
		namespaces     []specs.LinuxNamespace
		want           string
		uts            bool
	}{
		"its own":           {"own", "host", []specs.LinuxNamespace{{Type: "uts"}}, "own", true},
		"new and unset":     {"", "host", []specs.LinuxNamespace{{Type: "uts"}}, "host", true},
		"the host's":        {"", "host", nil, "host", true},
		"unknown to us too": {"", "", nil, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := bundleDir(t)
			s := readSpec(t, "busybox", dir)
			s.Hostname = c.own
			s.Linux.Namespaces = append(c.namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
			b, err := loadSpec(t, dir, s)
			if err != nil {
				t.Fatal(err)
			}
			h := testHost()
			h.Hostname = c.inherited
			p, err := Make("c1", b, config.Default(), h)
			if err != nil {
				t.Fatal(err)
			}
			uts := slices.ContainsFunc(p.Guest.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == "uts" })
			if p.Guest.Hostname != c.want || uts != c.uts {
				t.Errorf("hostname %q, uts %v, want %q, %v", p.Guest.Hostname, uts, c.want, c.uts)
			}
		})
	}
}

func TestMounts(t *testing.T) {
	p := mustMake(t, "busybox", func(s *specs.Spec) {
		s.Mounts = []specs.Mount{
			{Destination: "/etc/hosts", Source: "hosts", Options: []string{"bind", "mode=755", "ro", "rprivate"}},
			{Destination: "/root", Type: "bind", Source: "/"},
			{Destination: "/null", Type: "none", Source: "/dev/null", Options: []string{"rbind"}},
			{Destination: "/dev/shm", Type: "bind", Source: "shm", Options: []string{"rbind", "nosuid"}},
			{Destination: "/shm", Type: "bind", Source: "shm", Options: []string{"rbind", "ro", "rw"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"defaults", "size=1k"}},
		}
	})
	dir := filepath.Dir(p.Rootfs.Source)
	want := []specs.Mount{
		{Destination: "/etc/hosts", Type: "bind", Source: api.ShareMountpoint + "/binds/c1/0/hosts", Options: []string{"bind", "ro", "rprivate"}},
		{Destination: "/root", Type: "bind", Source: api.ShareMountpoint + "/binds/c1/1/root", Options: []string{"bind"}},
		{Destination: "/null", Type: "bind", Source: "/dev/null", Options: []string{"rbind"}},
		{Destination: "/dev/shm", Type: "bind", Source: api.ShmDir + "/67108864" + dir + "/shm", Options: []string{"bind", "nosuid"}},
		{Destination: "/shm", Type: "bind", Source: api.ShareMountpoint + "/binds/c1/2/shm", Options: []string{"rbind", "ro", "rw"}},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1k"}},
	}
	for i := range want {
		if g, w := mustJSON(t, p.Guest.Mounts[i]), mustJSON(t, want[i]); g != w {
			t.Errorf("mount %d:\n%s, want\n%s", i, g, w)
		}
	}
	binds := []Bind{
		{Source: dir + "/hosts", Target: "binds/c1/0/hosts", ReadOnly: true},
		{Source: "/", Target: "binds/c1/1/root", Dir: true},
		{Source: dir + "/shm", Target: "binds/c1/2/shm", Dir: true, Recursive: true},
	}
	if !slices.Equal(p.Binds, binds) {
		t.Errorf("binds %+v, want %+v", p.Binds, binds)
	}
}

// "ro" is for the bind's own mount, "rro" for those below it too.
func TestWritableSubmounts(t *testing.T) {
	for name, c := range map[string]struct {
		options   string
		submounts bool
		want      string
	}{
		"submounts":           {"rbind ro nosuid", true, "rbind nosuid"},
		"none":                {"rbind ro", false, "rbind ro"},
		"all of them":         {"rbind ro rro", true, "rbind ro rro"},
		"not carried along":   {"bind ro", true, "bind ro"},
		"read-only no longer": {"rbind ro rw", true, "rbind ro rw"},
	} {
		p := Plan{ID: "c1", Guest: &specs.Spec{}}
		p.mounts(&bundle.Bundle{
			Spec:    &specs.Spec{Mounts: []specs.Mount{{Destination: "/d", Type: "bind", Source: "/s", Options: strings.Fields(c.options)}}},
			Sources: map[int]bundle.Source{0: {Path: "/s", Dir: true, Submounts: c.submounts}},
		}, "c1")
		if got := strings.Join(p.Guest.Mounts[0].Options, " "); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if want := !strings.Contains(c.options, "rw"); p.Binds[0].ReadOnly != want {
			t.Errorf("%s: read-only on the host: %v, want %v", name, p.Binds[0].ReadOnly, want)
		}
	}
}

// In a user namespace a sysfs of its own cannot be mounted.
func TestSysfsInUserNamespace(t *testing.T) {
	p := mustMake(t, "full", func(s *specs.Spec) {
		s.Mounts = []specs.Mount{{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "ro"}}}
	})
	want := `{"destination":"/sys","type":"bind","source":"/sys","options":["rbind","nosuid","ro"]}`
	if got := mustJSON(t, p.Guest.Mounts[0]); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A process without capabilities in config.json has none, and not all.
func TestNoCapabilities(t *testing.T) {
	p := mustMake(t, "busybox", func(s *specs.Spec) { s.Process.Capabilities = nil })
	if got := mustJSON(t, p.Guest.Process); !strings.Contains(got, `"capabilities":{}`) {
		t.Errorf("the guest is asked for %s, want empty capabilities", got)
	}
}

func TestGuestProcess(t *testing.T) {
	p := &specs.Process{
		Args: []string{"a"}, Cwd: "/",
		Capabilities:    &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_TEST"}},
		ApparmorProfile: "a", SelinuxLabel: "s", CommandLine: "c",
		User:      specs.User{Username: "u", UID: 3, AdditionalGids: []uint32{7, 8, 7}},
		Scheduler: &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 4},
	}
	got, err := GuestProcess(p)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"user":{"uid":3,"gid":0,"additionalGids":[7,8]},"args":["a"],"cwd":"/","capabilities":{"bounding":["CAP_KILL"]},"scheduler":{"policy":"SCHED_FIFO","priority":4}}`
	if mustJSON(t, got) != want {
		t.Errorf("%s, want %s", mustJSON(t, got), want)
	}
	if _, err := GuestProcess(&specs.Process{Cwd: "/"}); err == nil {
		t.Error("a process without args is accepted")
	}
	if GuestResources(nil) != nil {
		t.Error("no resources became some")
	}
}

func TestMakeRefuses(t *testing.T) {
	dir := bundleDir(t)
	s := readSpec(t, "busybox", dir)
	s.Process.Env = []string{strings.Repeat("x", api.MaxMessage)}
	b, err := loadSpec(t, dir, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Make("c1", b, config.Default(), testHost()); err == nil || !strings.Contains(err.Error(), "more than the") {
		t.Errorf("a spec larger than a message: %v", err)
	}
	if _, err := Make("../c1", b, config.Default(), testHost()); err == nil {
		t.Error("an id that leaves the directory is accepted")
	}
}

// TestNICs: who gets network interfaces, and who is told why not.
func TestNICs(t *testing.T) {
	own := &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/run/netns/a"}}}
	for name, c := range map[string]struct {
		linux       *specs.Linux
		hostNetwork bool
		config      func(*config.Config)
		nics        int
		err         string
		warning     string
	}{
		"its own":              {linux: own, nics: 4},
		"fewer":                {linux: own, config: func(c *config.Config) { c.NICs = 1 }, nics: 1},
		"none":                 {linux: own, config: func(c *config.Config) { c.NICs = 0 }},
		"no namespaces":        {err: "linux.namespaces: there is no network namespace but the host's"},
		"no network namespace": {linux: &specs.Linux{}, err: "dev.runm.host-network=loopback"},
		"the host's by path":   {linux: own, hostNetwork: true, err: "dev.runm.host-network=loopback"},
		"loopback instead": {
			linux: own, hostNetwork: true, config: func(c *config.Config) { c.HostNetwork = config.HostNetworkLoopback },
			warning: "the container has loopback only",
		},
	} {
		t.Run(name, func(t *testing.T) {
			conf, h := config.Default(), testHost()
			if c.config != nil {
				c.config(&conf)
			}
			h.HostNetwork = c.hostNetwork
			var p Plan
			err := p.machine(&specs.Spec{Linux: c.linux}, conf, h)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			macs := map[string]bool{}
			for _, n := range p.Machine.NICs {
				macs[n.MAC.String()] = true
			}
			if len(p.Machine.NICs) != c.nics || len(macs) != c.nics {
				t.Errorf("NICs %v, want %d different ones", p.Machine.NICs, c.nics)
			}
			if got := strings.Join(p.Warnings, "\n"); !strings.Contains(got, c.warning) || (c.warning == "") != (got == "") {
				t.Errorf("warnings %q, want %q", got, c.warning)
			}
		})
	}
}
