//go:build linux

// Package cgroup is the host's side of a container's limits: the cgroup that
// holds the stand-in process, the VMM and the share's daemon. The exact limits
// are the guest's; here the machine's own cost comes on top of them.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // device rules on v2
	"github.com/opencontainers/cgroups/manager"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Overhead is what the machine costs beyond what the container may use.
type Overhead struct {
	// MemoryBytes: guest memory beyond the limit, the VMM, the share's daemon.
	MemoryBytes int64
	// Threads of the VMM, the daemon and the stand-in.
	Threads int64
}

// VMMMemoryBytes is what QEMU (with a translation cache of 128 MiB under TCG)
// and virtiofsd use beside the guest's memory; measured at 60 to 140 MiB.
const VMMMemoryBytes = 256 << 20

// VMMThreads is an upper bound of the host threads that one machine has beside
// one for each vCPU.
const VMMThreads = 128

// Cgroup is one container's cgroup, in each hierarchy that the host has.
type Cgroup struct {
	m      cgroups.Manager
	config *cgroups.Cgroup
	rules  []specs.LinuxDeviceCgroup // as config.json has them
	made   bool                      // there is one
}

// New describes the cgroup of spec (config-linux.md, "Cgroups Path"); nothing
// is made before Join. Paths that Paths returned make it the same one again,
// from another directory or cgroup too.
func New(id string, spec *specs.Spec, systemd bool, over Overhead, paths map[string]string) (*Cgroup, error) {
	config, err := describe(id, spec, systemd)
	if err != nil {
		return nil, err
	}
	r := config.Resources
	addOverhead(r, over)
	c := &Cgroup{config: config, made: len(paths) > 0}
	if spec.Linux != nil && spec.Linux.Resources != nil {
		c.rules = spec.Linux.Resources.Devices
	}
	for _, rule := range vmmDevices() {
		r.Devices = append(r.Devices, libraryRule(rule))
	}
	if len(paths) > 0 {
		c.m, err = manager.NewWithPaths(config, paths)
	} else {
		c.m, err = manager.New(config)
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return c, nil
}

func addOverhead(r *cgroups.Resources, over Overhead) {
	for _, limit := range []*int64{&r.Memory, &r.MemoryReservation, &r.MemorySwap} {
		if *limit > 0 && *limit < 1<<62 {
			*limit += over.MemoryBytes
		}
	}
	if r.PidsLimit != nil && *r.PidsLimit >= 0 { // 0 is a limit, too: config-linux.md
		n := *r.PidsLimit + over.Threads
		r.PidsLimit = &n
	}
}

// Join makes the cgroup if need be and moves the process into it.
func (c *Cgroup) Join(pid int) error {
	join := c.m.Apply
	if c.made && c.config.Systemd {
		// A unit is made once. Without systemd, Apply is for every process: it
		// passes over named hierarchies that it cannot write, as it did when it
		// made the cgroup, and AddPid fails there.
		join = func(pid int) error { return c.m.AddPid("", pid) }
	}
	if err := join(pid); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	c.made = true
	return nil
}

// Limit sets the limits. It comes last, when booting no longer suffers.
func (c *Cgroup) Limit() error {
	r := *c.config.Resources
	// On v1 the rules are ours to write: the library sorts them, and the
	// validation suite wants them in the listed order.
	v1 := !cgroups.IsCgroup2UnifiedMode()
	r.SkipDevices = v1
	if err := c.m.Set(&r); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	dir := c.m.Path("devices")
	if !v1 || dir == "" || len(c.rules) == 0 {
		return nil
	}
	return writeRules(dir, slices.Concat(c.rules, vmmDevices()))
}

// Pids lists the host processes in the cgroup.
func (c *Cgroup) Pids() ([]int, error) {
	pids, err := c.m.GetAllPids()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// Paths are the directories, by controller on v1 and under "" on v2.
func (c *Cgroup) Paths() map[string]string { return c.m.GetPaths() }

// Destroy removes the cgroup, which must be empty. One that is gone is no error.
func (c *Cgroup) Destroy() error {
	if err := c.m.Destroy(); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}
