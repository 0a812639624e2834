//go:build linux

package agent

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/types"
)

// encodeStats is the JSON that `runc events --stats` has under "data".
func encodeStats(s *libcontainer.Stats) ([]byte, error) {
	out := types.Stats{NetworkInterfaces: s.Interfaces, Hugetlb: map[string]types.Hugetlb{}}
	if cg := s.CgroupStats; cg != nil {
		out.CPU = cpuStats(&cg.CpuStats)
		out.CPUSet = types.CPUSet(cg.CPUSetStats)
		out.Memory = memoryStats(&cg.MemoryStats)
		out.Pids = types.Pids{Current: cg.PidsStats.Current, Limit: cg.PidsStats.Limit}
		out.Blkio = blkioStats(&cg.BlkioStats)
		for size, h := range cg.HugetlbStats {
			out.Hugetlb[size] = types.Hugetlb{Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt}
		}
	}
	encoded, err := json.Marshal(&out)
	if err != nil {
		return nil, fmt.Errorf("encode stats: %w", err)
	}
	return encoded, nil
}

func cpuStats(c *cgroups.CpuStats) types.Cpu {
	return types.Cpu{
		Usage: types.CpuUsage{
			Total:        c.CpuUsage.TotalUsage,
			Percpu:       c.CpuUsage.PercpuUsage,
			PercpuKernel: c.CpuUsage.PercpuUsageInKernelmode,
			PercpuUser:   c.CpuUsage.PercpuUsageInUsermode,
			Kernel:       c.CpuUsage.UsageInKernelmode,
			User:         c.CpuUsage.UsageInUsermode,
		},
		Throttling: types.Throttling{
			Periods:          c.ThrottlingData.Periods,
			ThrottledPeriods: c.ThrottlingData.ThrottledPeriods,
			ThrottledTime:    c.ThrottlingData.ThrottledTime,
		},
		PSI: c.PSI,
	}
}

func memoryStats(m *cgroups.MemoryStats) types.Memory {
	entry := func(d cgroups.MemoryData) types.MemoryEntry {
		return types.MemoryEntry{Limit: d.Limit, Usage: d.Usage, Max: d.MaxUsage, Failcnt: d.Failcnt}
	}
	return types.Memory{
		Cache:     m.Cache,
		Usage:     entry(m.Usage),
		Swap:      entry(m.SwapUsage),
		Kernel:    entry(m.KernelUsage),
		KernelTCP: entry(m.KernelTCPUsage),
		Raw:       m.Stats,
		PSI:       m.PSI,
	}
}

func blkioStats(b *cgroups.BlkioStats) types.Blkio {
	entries := func(in []cgroups.BlkioStatEntry) []types.BlkioEntry {
		var out []types.BlkioEntry
		for _, e := range in {
			out = append(out, types.BlkioEntry(e))
		}
		return out
	}
	return types.Blkio{
		IoServiceBytesRecursive: entries(b.IoServiceBytesRecursive),
		IoServicedRecursive:     entries(b.IoServicedRecursive),
		IoQueuedRecursive:       entries(b.IoQueuedRecursive),
		IoServiceTimeRecursive:  entries(b.IoServiceTimeRecursive),
		IoWaitTimeRecursive:     entries(b.IoWaitTimeRecursive),
		IoMergedRecursive:       entries(b.IoMergedRecursive),
		IoTimeRecursive:         entries(b.IoTimeRecursive),
		SectorsRecursive:        entries(b.SectorsRecursive),
		PSI:                     b.PSI,
	}
}
