package plan

import (
	"errors"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/vmm"
)

// Machine is the machine that Make would plan for a container with that spec.
func Machine(s *specs.Spec, c config.Config, h Host) (*vmm.Config, error) {
	var p Plan
	if err := p.machine(s, c, h); err != nil {
		return nil, err
	}
	return &p.Machine, nil
}

// machine decides the machine's size and parts.
func (p *Plan) machine(s *specs.Spec, c config.Config, h Host) error {
	if h.Kernel == "" {
		return errors.New("kernel: no guest kernel is installed")
	}
	if h.Initrd == "" {
		return errors.New("initrd: no guest initramfs is installed")
	}
	var r specs.LinuxResources
	if s.Linux != nil && s.Linux.Resources != nil {
		r = *s.Linux.Resources
	}
	r = sandboxResources(s, r)
	memory, err := p.memory(r.Memory, c, h)
	if err != nil {
		return err
	}
	nics, err := p.nics(s.Linux, c, h)
	if err != nil {
		return err
	}
	p.Machine = vmm.Config{
		CPUs:      p.cpus(r.CPU, c, h),
		MemoryMiB: memory,
		Accel:     h.Accel,
		Kernel:    h.Kernel,
		Initrd:    h.Initrd,
		Cmdline:   slices.Concat(api.Environment, c.KernelParams),
		Shares:    []vmm.Share{{Type: h.Share, Tag: api.ShareTag}},
		NICs:      nics,
	}
	return nil
}

// defaultCPUs is how many vCPUs a container without a quota gets at most: each
// costs boot time and memory. Under TCG it is one: waking another vCPU takes
// longer than most of what it is woken for, so that two processes joined by a
// pipe are several times slower on two vCPUs than on one (docs/performance.md),
// and the machine boots a quarter slower.
func defaultCPUs(accel vmm.Accel) int {
	if accel == vmm.AccelTCG {
		return 1
	}
	return 4
}

// defaultPeriod is the kernel's cpu.max period in microseconds.
const defaultPeriod = 100_000

// cpus is the number of vCPUs: the configured one, else what the quota can
// use, else the default; never more than the container may run on.
func (p *Plan) cpus(cpu *specs.LinuxCPU, c config.Config, h Host) int {
	n := defaultCPUs(h.Accel)
	limit := h.CPUs
	if cpu != nil {
		// bundle.Load refused a list that is none.
		if set, err := bundle.CountCPUs(cpu.Cpus); err == nil && set > 0 {
			limit = min(limit, set)
		}
		if cpu.Quota != nil && *cpu.Quota > 0 {
			period := int64(defaultPeriod)
			if cpu.Period != nil && *cpu.Period > 0 {
				period = int64(min(*cpu.Period, 1<<62))
			}
			n = int(min((*cpu.Quota-1)/period+1, int64(h.CPUs)))
		}
	}
	if c.CPUs > 0 {
		n = c.CPUs
		if n > limit {
			p.warn("cpus", "%d are configured, the container gets the %d it may run on.", n, limit)
		}
	}
	n = max(1, min(n, limit))
	if n > config.MaxCPUs {
		p.warn("linux.resources.cpu.quota", "it is of %d CPUs, a machine has at most %d.", n, config.MaxCPUs)
	}
	return min(n, config.MaxCPUs)
}

// memory is the guest's memory in MiB: the container's limit plus what the
// guest needs itself, rounded up to a shape.
func (p *Plan) memory(m *specs.LinuxMemory, c config.Config, h Host) (int, error) {
	bytes := MemoryLimit(m)
	if bytes == 0 {
		if c.MemoryMiB > h.MemoryMiB {
			return 0, fmt.Errorf("memory: the machine would get %d MiB, this host has %d", c.MemoryMiB, h.MemoryMiB)
		}
		return c.MemoryMiB, nil
	}
	limit := (bytes-1)>>20 + 1
	// Page tables, struct pages (1.6 %) and caches grow with the memory.
	need := limit + int64(c.GuestOverheadMiB) + limit/50
	// A limit above the host's memory is common (Kubernetes overcommits) and
	// promises nothing; the guest just cannot be larger than the host.
	if need > int64(h.MemoryMiB) {
		p.warn("linux.resources.memory.limit", "%d MiB and the guest's own need exceed the %d MiB of this host; the guest gets those.", limit, h.MemoryMiB)
		return h.MemoryMiB, nil
	}
	return min(shape(int(need)), h.MemoryMiB), nil
}

// MemoryLimit is the limit in bytes, 0 for none. For that, clients of cgroup v1
// write the largest multiple of the page size, or near it.
func MemoryLimit(m *specs.LinuxMemory) int64 {
	if m == nil || m.Limit == nil || *m.Limit <= 0 || *m.Limit >= 1<<62 {
		return 0
	}
	return *m.Limit
}

// shape rounds up, so that machines are alike and templates can be reused:
// powers of two from 256 MiB to 4 GiB, then multiples of 2 GiB.
func shape(mib int) int {
	for s := 256; s <= 4096; s *= 2 {
		if mib <= s {
			return s
		}
	}
	const step = 2048
	return (mib + step - 1) / step * step
}

func (p *Plan) warn(field, format string, args ...any) {
	p.Warnings = append(p.Warnings, field+": "+fmt.Sprintf(format, args...))
}
