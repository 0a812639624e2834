//go:build linux

package agent

import (
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
)

// deviceFilters knows the device rules of cgroups and stands between them and
// libcontainer, so that no rules are set twice: to translate them into a program,
// and to have the kernel verify and compile it, takes long in a clone. Nor is it
// right: cilium/ebpf 0.17 leaves the old program beside the new one, and both must
// allow.
type deviceFilters struct {
	set func(dir string, r *cgroups.Resources) error // cgroups.DevicesSetV2

	mu    sync.Mutex
	rules map[string][]*devices.Rule // in force, by the cgroup's directory
}

// newDeviceFilters puts itself in the place of cgroups.DevicesSetV2.
func newDeviceFilters() *deviceFilters {
	f := &deviceFilters{set: cgroups.DevicesSetV2, rules: map[string][]*devices.Rule{}}
	cgroups.DevicesSetV2 = f.setDevices
	return f
}

// setDevices is cgroups.DevicesSetV2 for a directory whose device rules nobody
// else has set.
func (f *deviceFilters) setDevices(dir string, r *cgroups.Resources) error {
	if r.SkipDevices {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now, ok := f.rules[dir]; ok && sameRules(now, r.Devices) {
		return nil
	}
	delete(f.rules, dir)
	if err := f.set(dir, r); err != nil {
		return err
	}
	f.rules[dir] = r.Devices
	return nil
}

// inForce reports whether dir has just these rules.
func (f *deviceFilters) inForce(dir string, rules []*devices.Rule) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, ok := f.rules[dir]
	return ok && sameRules(now, rules)
}

// forget is to be called when dir is removed: it may come again, without rules.
func (f *deviceFilters) forget(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.rules, dir)
}

// sameRules reports whether both lists are the same, or allowed knows that they
// come to the same.
func sameRules(a, b []*devices.Rule) bool {
	if slices.EqualFunc(a, b, func(a, b *devices.Rule) bool { return *a == *b }) {
		return true
	}
	left, right := allowed(a), allowed(b)
	return left != nil && right != nil && maps.Equal(left, right)
}

// deviceRules are what a container may do with the devices it may use at all.
type deviceRules map[device]devices.Permissions

type device struct {
	node         devices.Type
	major, minor int64
}

// allowed is what a list of rules comes to, as libcontainer understands it
// (cgroups/devices, emulator): before the first rule all devices are forbidden,
// and after each that forbids all. It is nil for a list that at any time allows
// all, or forbids a part of what one rule allows.
func allowed(list []*devices.Rule) deviceRules {
	rules := deviceRules{}
	for _, r := range list {
		d := device{r.Type, r.Major, r.Minor}
		switch {
		case r.Type == devices.WildcardDevice && r.Allow:
			return nil
		case r.Type == devices.WildcardDevice:
			clear(rules)
		case r.Allow:
			rules[d] = rules[d].Union(r.Permissions)
		case rules.pattern(r.Type):
			return nil
		default:
			if rules[d] = rules[d].Difference(r.Permissions); rules[d].IsEmpty() {
				delete(rules, d)
			}
		}
	}
	return rules
}

// pattern reports whether one of the rules is for more than one device of node.
func (rules deviceRules) pattern(node devices.Type) bool {
	for d := range rules {
		if d.node == node && (d.major == devices.Wildcard || d.minor == devices.Wildcard) {
			return true
		}
	}
	return false
}
