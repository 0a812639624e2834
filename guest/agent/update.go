//go:build linux

package agent

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// update changes the container's limits to those that resources, the JSON of a
// specification's LinuxResources, names; what it leaves out stays as it is.
func (c *container) update(resources []byte) error {
	var r specs.LinuxResources
	if err := json.Unmarshal(resources, &r); err != nil {
		return fmt.Errorf("resources: %w", err)
	}
	c.limits.Lock()
	defer c.limits.Unlock()
	config := c.lc.Config() // a copy, but of pointers
	group := *config.Cgroups
	limits := *group.Resources
	group.Resources = &limits
	config.Cgroups = &group
	setMemory(&limits, r.Memory)
	setCPU(&limits, r.CPU)
	setBlockIO(&limits, r.BlockIO)
	if r.Pids != nil && r.Pids.Limit != nil {
		limits.PidsLimit = r.Pids.Limit
	}
	limits.Unified = r.Unified
	// Not SkipDevices, as runc does: the configuration is kept for later starts,
	// which must not skip them.
	return c.lc.Set(config)
}

func setMemory(limits *cgroups.Resources, m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	set(&limits.Memory, m.Limit)
	set(&limits.MemoryReservation, m.Reservation)
	set(&limits.MemorySwap, m.Swap)
	set(&limits.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
		// No limit on memory implies none on memory plus swap.
		limits.MemorySwap = 0
	}
}

func setCPU(limits *cgroups.Resources, c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	// Idle needs the weight left alone: the kernel refuses both.
	if c.Shares != nil {
		limits.CpuShares = *c.Shares
		limits.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
	} else if c.Idle != nil {
		limits.CpuShares, limits.CpuWeight = 0, 0
	}
	set(&limits.CpuQuota, c.Quota)
	set(&limits.CpuPeriod, c.Period)
	set(&limits.CpuRtRuntime, c.RealtimeRuntime)
	set(&limits.CpuRtPeriod, c.RealtimePeriod)
	if c.Burst != nil {
		limits.CpuBurst = c.Burst
	}
	if c.Idle != nil {
		limits.CPUIdle = c.Idle
	}
	if c.Cpus != "" {
		limits.CpusetCpus = c.Cpus
	}
	if c.Mems != "" {
		limits.CpusetMems = c.Mems
	}
}

// setBlockIO sets the weight. Devices are the host's: their numbers mean nothing
// in the guest.
func setBlockIO(limits *cgroups.Resources, b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	set(&limits.BlkioWeight, b.Weight)
	set(&limits.BlkioLeafWeight, b.LeafWeight)
}

// set stores *value if there is one.
func set[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}
