package plan

import (
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Annotations of clients that make pods (docs/pods.md).
const (
	criContainerType  = "io.kubernetes.cri.container-type"
	criSandboxID      = "io.kubernetes.cri.sandbox-id"
	criSandboxMemory  = "io.kubernetes.cri.sandbox-memory"
	criSandboxQuota   = "io.kubernetes.cri.sandbox-cpu-quota"
	criSandboxPeriod  = "io.kubernetes.cri.sandbox-cpu-period"
	crioContainerType = "io.kubernetes.cri-o.ContainerType"
	crioSandboxID     = "io.kubernetes.cri-o.SandboxID"

	typeContainer = "container"
	typeSandbox   = "sandbox"
)

// SandboxOf is the id of the container whose machine the container id is to
// join by its annotations; "" if they say nothing. absent: there may be no such
// container, for CRI-O makes one only where containers share a pid namespace
// (crio.conf(5), drop_infra_ctr); then the id names the pod all the same.
func SandboxOf(id string, annotations map[string]string) (sandbox string, absent bool) {
	switch {
	case annotations[criContainerType] == typeContainer:
		sandbox = annotations[criSandboxID]
	case annotations[crioContainerType] == typeContainer:
		sandbox, absent = annotations[crioSandboxID], true
	case annotations[crioContainerType] == "":
		// podman gives its pods' members this and nothing else.
		sandbox = annotations[crioSandboxID]
	}
	if sandbox == id {
		return "", false
	}
	return sandbox, absent
}

// HostSpec is s as its cgroup on the host is to have it. The CPU shares of a
// pod's container are left out: the machine in its cgroup runs the whole pod,
// and a sandbox has 2, the least there is, for a process that only waits. The
// shares are the guest's, between the pod's containers; the pod's own weight is
// that of the cgroup above them.
func HostSpec(s *specs.Spec) *specs.Spec {
	if s.Annotations[criContainerType] == "" && s.Annotations[crioContainerType] == "" ||
		s.Linux == nil || s.Linux.Resources == nil || s.Linux.Resources.CPU == nil {
		return s
	}
	host, linux, resources, cpu := *s, *s.Linux, *s.Linux.Resources, *s.Linux.Resources.CPU
	cpu.Shares = nil
	resources.CPU, linux.Resources, host.Linux = &cpu, &resources, &linux
	return &host
}

// owner is the id of the container in pod that n is a namespace of, or "".
func (pod *Pod) owner(n specs.LinuxNamespace) string {
	if pod == nil {
		return ""
	}
	return pod.Owners[n.Path]
}

// join notes what a machine that runs already cannot give.
func (p *Plan) join(s *specs.Spec, pod *Pod) {
	if l := s.Linux; l != nil && l.Resources != nil {
		if limit := MemoryLimit(l.Resources.Memory) >> 20; limit > int64(pod.MemoryMiB) {
			p.warn("linux.resources.memory.limit", "%d MiB are more than the %d that the pod's machine has.", limit, pod.MemoryMiB)
		}
	}
}

// sandboxResources are what a pod's machine must have: by the sum of its
// containers that containerd announces with the sandbox, where it does.
func sandboxResources(s *specs.Spec, r specs.LinuxResources) specs.LinuxResources {
	if s.Annotations[criContainerType] != typeSandbox {
		return r
	}
	number := func(name string) int64 {
		n, err := strconv.ParseInt(s.Annotations[name], 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	if limit := number(criSandboxMemory); limit > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &limit}
	}
	if quota := number(criSandboxQuota); quota > 0 {
		cpu := specs.LinuxCPU{Quota: &quota}
		if period := number(criSandboxPeriod); period > 0 {
			unsigned := uint64(period)
			cpu.Period = &unsigned
		}
		r.CPU = &cpu
	}
	return r
}
