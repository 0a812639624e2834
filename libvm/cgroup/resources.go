//go:build linux

package cgroup

import (
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// describe turns linux.cgroupsPath and linux.resources into the library's form
// (config-linux.md, "Control groups"), and for systemd the annotations.
func describe(id string, spec *specs.Spec, systemd bool) (*cgroups.Cgroup, error) {
	l := spec.Linux
	if l == nil {
		l = &specs.Linux{}
	}
	c := &cgroups.Cgroup{Systemd: systemd, Resources: resources(l.Resources)}
	if systemd {
		var err error
		if c.SystemdProps, err = properties(spec.Annotations); err != nil {
			return nil, err
		}
	}
	switch {
	case systemd && l.CgroupsPath == "":
		c.ScopePrefix, c.Name = "runm", id
	case systemd:
		// "slice:prefix:name", the convention of runc's clients.
		parts := strings.Split(l.CgroupsPath, ":")
		if len(parts) != 3 {
			return nil, fmt.Errorf("cgroup: linux.cgroupsPath %q: with --systemd-cgroup it is slice:prefix:name", l.CgroupsPath)
		}
		c.Parent, c.ScopePrefix, c.Name = parts[0], parts[1], parts[2]
	case l.CgroupsPath == "":
		c.Name = id
	case path.IsAbs(l.CgroupsPath):
		c.Path = path.Clean(l.CgroupsPath)
	default:
		// Relative to the caller's own; never above it.
		c.Path = path.Clean("/" + l.CgroupsPath)[1:]
	}
	return c, nil
}

func resources(r *specs.LinuxResources) *cgroups.Resources {
	out := &cgroups.Resources{}
	if r == nil {
		return out
	}
	for _, d := range r.Devices {
		out.Devices = append(out.Devices, libraryRule(d))
	}
	memory(out, r.Memory)
	cpu(out, r.CPU)
	if r.Pids != nil {
		out.PidsLimit = r.Pids.Limit
	}
	blockIO(out, r.BlockIO)
	for _, l := range r.HugepageLimits {
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: l.Pagesize, Limit: l.Limit})
	}
	if n := r.Network; n != nil {
		out.NetClsClassid = deref(n.ClassID)
		for _, p := range n.Priorities {
			out.NetPrioIfpriomap = append(out.NetPrioIfpriomap, &cgroups.IfPrioMap{Interface: p.Name, Priority: int64(p.Priority)})
		}
	}
	out.Unified = hostUnified(r.Unified)
	return out
}

// hostUnified are the controllers of linux.resources.unified that only the
// host can enforce: their numbers name the host's CPUs, disks and pages.
func hostUnified(u map[string]string) map[string]string {
	var out map[string]string
	for k, v := range u {
		switch controller, _, _ := strings.Cut(k, "."); controller {
		case "cpuset", "io", "hugetlb":
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

func memory(out *cgroups.Resources, m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	out.Memory, out.MemoryReservation, out.MemorySwap = deref(m.Limit), deref(m.Reservation), deref(m.Swap)
	out.MemorySwappiness = m.Swappiness
	out.MemoryCheckBeforeUpdate = deref(m.CheckBeforeUpdate)
	// disableOOMKiller is left out: a VMM in such a cgroup hangs for ever.
}

func cpu(out *cgroups.Resources, c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	if c.Shares != nil {
		out.CpuShares = *c.Shares
		out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
	}
	out.CpuQuota, out.CpuPeriod, out.CpuBurst = deref(c.Quota), deref(c.Period), c.Burst
	out.CpuRtRuntime, out.CpuRtPeriod = deref(c.RealtimeRuntime), deref(c.RealtimePeriod)
	out.CpusetCpus, out.CpusetMems, out.CPUIdle = c.Cpus, c.Mems, c.Idle
}

func blockIO(out *cgroups.Resources, b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	out.BlkioWeight, out.BlkioLeafWeight = deref(b.Weight), deref(b.LeafWeight)
	for _, d := range b.WeightDevice {
		out.BlkioWeightDevice = append(out.BlkioWeightDevice,
			cgroups.NewWeightDevice(d.Major, d.Minor, deref(d.Weight), deref(d.LeafWeight)))
	}
	out.BlkioThrottleReadBpsDevice = throttle(b.ThrottleReadBpsDevice)
	out.BlkioThrottleWriteBpsDevice = throttle(b.ThrottleWriteBpsDevice)
	out.BlkioThrottleReadIOPSDevice = throttle(b.ThrottleReadIOPSDevice)
	out.BlkioThrottleWriteIOPSDevice = throttle(b.ThrottleWriteIOPSDevice)
}

func throttle(list []specs.LinuxThrottleDevice) []*cgroups.ThrottleDevice {
	var out []*cgroups.ThrottleDevice
	for _, d := range list {
		out = append(out, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
	}
	return out
}

func libraryRule(r specs.LinuxDeviceCgroup) *devices.Rule {
	out := &devices.Rule{
		Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard,
		Permissions: devices.Permissions(r.Access), Allow: r.Allow,
	}
	if r.Type != "" {
		out.Type = devices.Type(r.Type[0])
	}
	if r.Major != nil {
		out.Major = *r.Major
	}
	if r.Minor != nil {
		out.Minor = *r.Minor
	}
	return out
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
