//go:build linux

package libvm

import (
	"maps"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mergeResources is current with what is given. As for runc, a limit of 0 is
// one that is not given: clients send every field.
func mergeResources(current, given *specs.LinuxResources) *specs.LinuxResources {
	r := *current
	r.Memory = mergeMemory(current.Memory, given.Memory)
	r.CPU = mergeCPU(current.CPU, given.CPU)
	r.BlockIO = mergeBlockIO(current.BlockIO, given.BlockIO)
	if given.Pids != nil && given.Pids.Limit != nil {
		r.Pids = given.Pids
	}
	if len(given.Unified) > 0 {
		r.Unified = maps.Clone(current.Unified)
		if r.Unified == nil {
			r.Unified = map[string]string{}
		}
		maps.Copy(r.Unified, given.Unified)
	}
	return &r
}

func mergeMemory(current, given *specs.LinuxMemory) *specs.LinuxMemory {
	if given == nil {
		return current
	}
	var m specs.LinuxMemory
	if current != nil {
		m = *current
	}
	take(&m.Limit, given.Limit)
	take(&m.Reservation, given.Reservation)
	take(&m.Swap, given.Swap)
	if given.CheckBeforeUpdate != nil {
		m.CheckBeforeUpdate = given.CheckBeforeUpdate
	}
	if given.Limit != nil && *given.Limit == -1 && given.Swap == nil {
		// Without a limit on memory there is none on memory and swap.
		m.Swap = nil
	}
	return &m
}

func mergeCPU(current, given *specs.LinuxCPU) *specs.LinuxCPU {
	if given == nil {
		return current
	}
	var m specs.LinuxCPU
	if current != nil {
		m = *current
	}
	take(&m.Shares, given.Shares)
	take(&m.Quota, given.Quota)
	take(&m.Period, given.Period)
	take(&m.RealtimeRuntime, given.RealtimeRuntime)
	take(&m.RealtimePeriod, given.RealtimePeriod)
	if given.Burst != nil {
		m.Burst = given.Burst
	}
	if given.Cpus != "" {
		m.Cpus = given.Cpus
	}
	if given.Mems != "" {
		m.Mems = given.Mems
	}
	if given.Idle != nil {
		m.Idle = given.Idle
		if given.Shares == nil {
			m.Shares = nil // the kernel refuses a weight where it is idle
		}
	}
	return &m
}

func mergeBlockIO(current, given *specs.LinuxBlockIO) *specs.LinuxBlockIO {
	if given == nil {
		return current
	}
	var m specs.LinuxBlockIO
	if current != nil {
		m = *current
	}
	take(&m.Weight, given.Weight)
	take(&m.LeafWeight, given.LeafWeight)
	m.WeightDevice = mergeWeights(m.WeightDevice, given.WeightDevice)
	m.ThrottleReadBpsDevice = mergeRates(m.ThrottleReadBpsDevice, given.ThrottleReadBpsDevice)
	m.ThrottleWriteBpsDevice = mergeRates(m.ThrottleWriteBpsDevice, given.ThrottleWriteBpsDevice)
	m.ThrottleReadIOPSDevice = mergeRates(m.ThrottleReadIOPSDevice, given.ThrottleReadIOPSDevice)
	m.ThrottleWriteIOPSDevice = mergeRates(m.ThrottleWriteIOPSDevice, given.ThrottleWriteIOPSDevice)
	return &m
}

// mergeWeights replaces the weights of the devices given and adds new ones.
func mergeWeights(current, given []specs.LinuxWeightDevice) []specs.LinuxWeightDevice {
	out := append([]specs.LinuxWeightDevice{}, current...)
next:
	for _, g := range given {
		for i := range out {
			if out[i].Major == g.Major && out[i].Minor == g.Minor {
				take(&out[i].Weight, g.Weight)
				take(&out[i].LeafWeight, g.LeafWeight)
				continue next
			}
		}
		out = append(out, g)
	}
	return out
}

// mergeRates replaces the rates of the devices given and adds new ones.
func mergeRates(current, given []specs.LinuxThrottleDevice) []specs.LinuxThrottleDevice {
	out := append([]specs.LinuxThrottleDevice{}, current...)
next:
	for _, g := range given {
		for i := range out {
			if out[i].Major == g.Major && out[i].Minor == g.Minor {
				out[i].Rate = g.Rate
				continue next
			}
		}
		out = append(out, g)
	}
	return out
}

// take sets *field to value unless that is not given, or 0.
func take[T comparable](field **T, value *T) {
	var zero T
	if value != nil && *value != zero {
		*field = value
	}
}
