//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is where the figures come from.
type machine struct {
	CPU       string `json:"cpu"`
	Cores     int    `json:"cores"`
	Kernel    string `json:"kernel"`
	Accel     string `json:"accel"`
	VCPUs     int    `json:"vcpus"`
	MemoryMiB int    `json:"memoryMiB"` // of each guest
	Rounds    int    `json:"rounds"`
	Load      string `json:"load"` // average of one minute, before and after
	LoadAfter string `json:"loadAfter"`
}

func (b *bench) machine() machine {
	m := machine{
		CPU: cpuName(), Cores: runtime.NumCPU(), Rounds: b.rounds, Load: loadAverage(),
		Accel: string(b.plan.Machine.Accel), VCPUs: b.plan.Machine.CPUs, MemoryMiB: b.plan.Machine.MemoryMiB,
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return m
}

func (m machine) String() string {
	return fmt.Sprintf("%d cores of %s, Linux %s, guests by %s with %d vCPUs and %d MiB, medians of %d, load %s before and %s after",
		m.Cores, m.CPU, m.Kernel, m.Accel, m.VCPUs, m.MemoryMiB, m.Rounds, m.Load, m.LoadAfter)
}

func cpuName() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(info)) {
		if key, name, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(name)
		}
	}
	return runtime.GOARCH
}

func loadAverage() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(load), " ")
	return first
}
