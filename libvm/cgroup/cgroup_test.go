//go:build linux

package cgroup

import (
	"testing"

	"github.com/opencontainers/cgroups"
)

// Every limit has room for the machine: one of no processes, too.
func TestOverhead(t *testing.T) {
	for limit, want := range map[int64]int64{-1: -1, 0: 128, 20: 148} {
		r := &cgroups.Resources{PidsLimit: &limit}
		addOverhead(r, Overhead{Threads: 128})
		if *r.PidsLimit != want {
			t.Errorf("pids.max of a limit of %d is %d, want %d", limit, *r.PidsLimit, want)
		}
	}
	for limit, want := range map[int64]int64{-1: -1, 0: 0, 50: 150, 1<<63 - 4096: 1<<63 - 4096} {
		r := &cgroups.Resources{Memory: limit}
		addOverhead(r, Overhead{MemoryBytes: 100})
		if r.Memory != want {
			t.Errorf("a memory limit of %d is %d, want %d", limit, r.Memory, want)
		}
	}
}
