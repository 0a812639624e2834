package plan

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// GuestResources is the part of r that the guest enforces; nil gives nil.
// Make and update use it. What names hardware of the host (CPU numbers, memory
// nodes, block devices, interfaces, huge pages) is left to the host.
func GuestResources(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	return &specs.LinuxResources{
		Devices: slices.Clone(r.Devices),
		Memory:  guestMemory(r.Memory),
		CPU:     guestCPU(r.CPU),
		Pids:    r.Pids,
		Unified: guestUnified(r.Unified),
	}
}

func guestMemory(m *specs.LinuxMemory) *specs.LinuxMemory {
	if m == nil {
		return nil
	}
	return &specs.LinuxMemory{
		Limit:             m.Limit,
		Reservation:       m.Reservation,
		Swap:              m.Swap,
		UseHierarchy:      m.UseHierarchy,
		CheckBeforeUpdate: m.CheckBeforeUpdate,
	}
}

func guestCPU(c *specs.LinuxCPU) *specs.LinuxCPU {
	if c == nil {
		return nil
	}
	return &specs.LinuxCPU{
		Shares: c.Shares,
		Quota:  c.Quota,
		Burst:  c.Burst,
		Period: c.Period,
		Idle:   c.Idle,
	}
}

func guestUnified(unified map[string]string) map[string]string {
	guest := map[string]string{}
	for name, value := range unified {
		switch controller, _, _ := strings.Cut(name, "."); controller {
		case "cpu", "memory", "pids":
			guest[name] = value
		}
	}
	if len(guest) == 0 {
		return nil
	}
	return guest
}
