//go:build linux

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runc/libcontainer/specconv"
)

// A spareCgroup is made before its container is known, with the device rules that
// libcontainer adds to every container's; most have no others. Like the spare it
// is for the first container alone. The zero spareCgroup is none.
type spareCgroup struct {
	filters *deviceFilters

	mu   sync.Mutex
	free bool
}

// No container has this name: ids have no such character (libcontainer's
// validateID).
const spareCgroupPath = "/@spare"

// start makes the cgroup.
func (g *spareCgroup) start() error {
	var r cgroups.Resources
	for _, d := range specconv.AllowedDevices {
		r.Devices = append(r.Devices, &d.Rule)
	}
	dir := filepath.Join(cgroupRoot, spareCgroupPath)
	if err := fs2.CreateCgroupPath(dir, &cgroups.Cgroup{Resources: &r}); err != nil {
		return fmt.Errorf("make: %w", err)
	}
	if err := g.filters.setDevices(dir, &r); err != nil {
		return errors.Join(fmt.Errorf("device rules: %w", err), os.Remove(dir))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.free = true
	return nil
}

// take returns the path of the cgroup for a container with these rules, or its
// own path. After that there is no spare cgroup any more.
func (g *spareCgroup) take(own string, rules []*devices.Rule) (path string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.free {
		return own, nil
	}
	g.free = false
	if dir := filepath.Join(cgroupRoot, spareCgroupPath); !g.filters.inForce(dir, rules) {
		g.filters.forget(dir)
		return own, os.Remove(dir)
	}
	return spareCgroupPath, nil
}
