//go:build linux

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runc/libcontainer/specconv"
)

// spareCgroups are made before a container is known, with the device rules that
// most containers have. Like the spare they are for the first container alone. The
// zero spareCgroups are none.
type spareCgroups struct {
	filters *deviceFilters

	mu   sync.Mutex
	free []string // paths below cgroupRoot
}

// usualRules are the lists of device rules of containers whose config.json asks
// for no device: libcontainer adds AllowedDevices to each. `runc spec` and Podman
// name no other, containerd, its CRI plugin and Docker name /dev/console too.
func usualRules() [][]*devices.Rule {
	var added []*devices.Rule
	for _, d := range specconv.AllowedDevices {
		added = append(added, &d.Rule)
	}
	console := &devices.Rule{Type: devices.CharDevice, Major: 5, Minor: 1, Permissions: "rwm", Allow: true}
	return [][]*devices.Rule{added, append([]*devices.Rule{console}, added...)}
}

// spareCgroupPath is the path of the cgroup with the n-th of the usual rules. No
// container's has this name: ids have no such character (libcontainer's
// validateID).
func spareCgroupPath(n int) string { return "/@spare" + strconv.Itoa(n) }

// start makes the cgroups.
func (g *spareCgroups) start() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n, rules := range usualRules() {
		r := &cgroups.Resources{Devices: rules}
		path := spareCgroupPath(n)
		dir := filepath.Join(cgroupRoot, path)
		if err := fs2.CreateCgroupPath(dir, &cgroups.Cgroup{Resources: r}); err != nil {
			return fmt.Errorf("make: %w", err)
		}
		if err := g.filters.setDevices(dir, r); err != nil {
			return errors.Join(fmt.Errorf("device rules: %w", err), os.Remove(dir))
		}
		g.free = append(g.free, path)
	}
	return nil
}

// take returns the path of a cgroup for a container with these rules, or own.
// After that there are no spare cgroups any more: those that nobody takes stay
// empty, as long as the machine is there.
func (g *spareCgroups) take(own string, rules []*devices.Rule) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	free := g.free
	g.free = nil
	for _, path := range free {
		if g.filters.inForce(filepath.Join(cgroupRoot, path), rules) {
			return path
		}
	}
	return own
}
