package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/config"
)

func TestSandboxOf(t *testing.T) {
	for name, c := range map[string]struct {
		annotations map[string]string
		want        string
	}{
		"nothing":               {nil, ""},
		"containerd, container": {map[string]string{criContainerType: "container", criSandboxID: "pod"}, "pod"},
		"containerd, sandbox":   {map[string]string{criContainerType: "sandbox", criSandboxID: "c1"}, ""},
		"containerd, no type":   {map[string]string{criSandboxID: "pod"}, ""},
		"CRI-O, container":      {map[string]string{crioContainerType: "container", crioSandboxID: "pod"}, "pod"},
		"CRI-O, sandbox":        {map[string]string{crioContainerType: "sandbox", crioSandboxID: "pod"}, ""},
		"podman, member":        {map[string]string{crioSandboxID: "pod"}, "pod"},
		"podman, infra":         {map[string]string{crioSandboxID: "c1"}, ""},
	} {
		got, absent := SandboxOf("c1", c.annotations)
		if got != c.want || absent != (name == "CRI-O, container") {
			t.Errorf("%s: %q, %v, want %q", name, got, absent, c.want)
		}
	}
}

// A sandbox's machine has what containerd announces for the pod.
func TestSandboxSize(t *testing.T) {
	annotations := map[string]string{
		criContainerType: "sandbox", criSandboxMemory: "1073741824",
		criSandboxQuota: "250000", criSandboxPeriod: "100000",
	}
	network := &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}}
	for name, c := range map[string]struct {
		change   func(map[string]string)
		cpus, mm int
	}{
		"as announced":  {func(map[string]string) {}, 3, 2048},
		"of no pod":     {func(a map[string]string) { delete(a, criContainerType) }, 1, 512},
		"no limits":     {func(a map[string]string) { a[criSandboxMemory], a[criSandboxQuota] = "0", "0" }, 1, 512},
		"not a number":  {func(a map[string]string) { a[criSandboxMemory], a[criSandboxQuota] = "1g", "" }, 1, 512},
		"no period":     {func(a map[string]string) { delete(a, criSandboxPeriod) }, 3, 2048},
		"not a sandbox": {func(a map[string]string) { a[criContainerType] = "container" }, 1, 512},
	} {
		a := map[string]string{}
		for k, v := range annotations {
			a[k] = v
		}
		c.change(a)
		var p Plan
		if err := p.machine(&specs.Spec{Linux: network, Annotations: a}, config.Default(), testHost()); err != nil {
			t.Fatal(err)
		}
		if p.Machine.CPUs != c.cpus || p.Machine.MemoryMiB != c.mm {
			t.Errorf("%s: %d vCPUs and %d MiB, want %d and %d", name, p.Machine.CPUs, p.Machine.MemoryMiB, c.cpus, c.mm)
		}
	}
}

// What another container of the pod has is joined in the guest, and the name of
// a joined UTS namespace is left alone.
func TestPodMember(t *testing.T) {
	paths := map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: "/run/netns/pod", specs.IPCNamespace: "/proc/7/ns/ipc",
		specs.UTSNamespace: "/proc/7/ns/uts", specs.CgroupNamespace: "/proc/7/ns/cgroup", specs.PIDNamespace: "",
	}
	dir := bundleDir(t)
	spec := readSpec(t, "busybox", dir)
	spec.Hostname, spec.Linux.Namespaces = "", nil
	for kind, path := range paths {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
	limit := int64(1 << 30)
	spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"bind"}})
	b, err := loadSpec(t, dir, spec)
	if err != nil {
		t.Fatal(err)
	}
	h := testHost()
	h.Warnings = []string{"told when the machine was made"}
	h.Pod = &Pod{MemoryMiB: 512, Files: "c1@17", Owners: map[string]string{"/run/netns/pod": "sandbox", "/proc/7/ns/ipc": "sandbox", "/proc/7/ns/uts": "other"}}
	p, err := Make("c1", b, config.Default(), h)
	if err != nil {
		t.Fatal(err)
	}
	if p.Machine.MemoryMiB != 0 || p.Machine.Kernel != "" {
		t.Errorf("a machine of its own: %+v", p.Machine)
	}
	if p.Rootfs.Target != "rootfs/c1@17" || p.Guest.Root.Path != api.ShareMountpoint+"/rootfs/c1@17" {
		t.Errorf("the root file system is at %s, and in the guest at %s", p.Rootfs.Target, p.Guest.Root.Path)
	}
	for i, bind := range p.Binds {
		if prefix := fmt.Sprintf("binds/c1@17/%d/", i); !strings.HasPrefix(bind.Target, prefix) {
			t.Errorf("a bind is at %s, want it below %s", bind.Target, prefix)
		}
	}
	if len(p.Binds) == 0 {
		t.Error("there are no binds to look at")
	}
	if p.Guest.Hostname != "" {
		t.Errorf("hostname %q, want the joined one", p.Guest.Hostname)
	}
	got := map[specs.LinuxNamespaceType]string{}
	for _, n := range p.Guest.Linux.Namespaces {
		got[n.Type] = n.Path
	}
	want := map[specs.LinuxNamespaceType]string{
		specs.MountNamespace: "", specs.CgroupNamespace: "", specs.PIDNamespace: "",
		specs.IPCNamespace: api.NamespaceOf + "sandbox", specs.UTSNamespace: api.NamespaceOf + "other",
	}
	for kind, path := range want {
		if g, ok := got[kind]; !ok || g != path {
			t.Errorf("%s: %q, %v, want %q", kind, g, ok, path)
		}
	}
	if len(got) != len(want) {
		t.Errorf("namespaces %v, want %v", got, want)
	}
	isCgroup := func(w string) bool { return strings.Contains(w, "/proc/7/ns/cgroup") }
	isMemory := func(w string) bool { return strings.Contains(w, "memory.limit: 1024 MiB") }
	if !slices.ContainsFunc(p.Warnings, isCgroup) || !slices.ContainsFunc(p.Warnings, isMemory) || len(p.Warnings) != 2 {
		t.Errorf("warnings %q, want one for the cgroup namespace and one for the memory", p.Warnings)
	}
}

// The machine of a pod does not get the weight of a process that waits.
func TestHostSpec(t *testing.T) {
	for name, c := range map[string]struct {
		annotations map[string]string
		want        bool // the shares stay
	}{
		"of no pod":             {nil, true},
		"containerd, sandbox":   {map[string]string{criContainerType: "sandbox"}, false},
		"containerd, container": {map[string]string{criContainerType: "container"}, false},
		"CRI-O, sandbox":        {map[string]string{crioContainerType: "sandbox"}, false},
	} {
		shares, quota := uint64(2), int64(5000)
		s := &specs.Spec{Annotations: c.annotations, Linux: &specs.Linux{
			CgroupsPath: "/pod/c1",
			Resources:   &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota}},
		}}
		host := HostSpec(s)
		if got := host.Linux.Resources.CPU.Shares != nil; got != c.want {
			t.Errorf("%s: shares on the host: %v, want %v", name, got, c.want)
		}
		if host.Linux.CgroupsPath != "/pod/c1" || host.Linux.Resources.CPU.Quota != &quota {
			t.Errorf("%s: more than the shares has changed: %+v", name, host.Linux)
		}
		if s.Linux.Resources.CPU.Shares != &shares {
			t.Errorf("%s: config.json's own shares have changed", name)
		}
	}
	if s := (&specs.Spec{Annotations: map[string]string{criContainerType: "sandbox"}}); HostSpec(s) != s {
		t.Error("without linux there is nothing to change")
	}
}
