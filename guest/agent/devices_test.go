//go:build linux

package agent

import (
	"errors"
	"maps"
	"testing"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
)

func rule(node devices.Type, major, minor int64, access string, allow bool) *devices.Rule {
	return &devices.Rule{Type: node, Major: major, Minor: minor, Permissions: devices.Permissions(access), Allow: allow}
}

func TestAllowed(t *testing.T) {
	const every = devices.Wildcard
	none := rule(devices.WildcardDevice, every, every, "rwm", false)
	null := device{devices.CharDevice, 1, 3}
	for _, c := range []struct {
		name  string
		rules []*devices.Rule
		want  deviceRules
	}{
		{"nothing said is nothing allowed", nil, deviceRules{}},
		{"nothing allowed", []*devices.Rule{none}, deviceRules{}},
		{"one", []*devices.Rule{none, rule('c', 1, 3, "rwm", true)}, deviceRules{null: "rwm"}},
		{"twice", []*devices.Rule{rule('c', 1, 3, "r", true), rule('c', 1, 3, "mr", true)}, deviceRules{null: "rm"}},
		{"other order", []*devices.Rule{rule('c', 1, 3, "wmr", true)}, deviceRules{null: "rwm"}},
		{"taken back", []*devices.Rule{rule('b', 8, 0, "rwm", true), none, rule('c', 1, 3, "r", true)}, deviceRules{null: "r"}},
		{"wildcard", []*devices.Rule{rule('c', every, every, "m", true)}, deviceRules{{devices.CharDevice, every, every}: "m"}},
		{"a part taken back", []*devices.Rule{rule('c', 1, 3, "rw", true), rule('c', 1, 3, "r", false)}, deviceRules{null: "w"}},
		{"one taken back", []*devices.Rule{rule('c', 1, 3, "rw", true), rule('c', 1, 3, "rw", false)}, deviceRules{}},
		{"never allowed", []*devices.Rule{rule('c', 1, 3, "r", true), rule('c', 10, 229, "rwm", false)}, deviceRules{null: "r"}},
		{"a hole in a pattern", []*devices.Rule{rule('c', 1, every, "rw", true), rule('c', 1, 3, "r", false)}, nil},
		{"all allowed", []*devices.Rule{rule(devices.WildcardDevice, every, every, "rwm", true)}, nil},
	} {
		got := allowed(c.rules)
		if (got == nil) != (c.want == nil) || !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// What clients ask for is what a spare cgroup has: the lists are those of Debian's
// Podman and Docker, and of containerd 2.
func TestUsualRules(t *testing.T) {
	added := usualRules()[0]
	none := rule(devices.WildcardDevice, -1, -1, "rwm", false)
	c := func(major, minor int64) *devices.Rule { return rule('c', major, minor, "rwm", true) }
	for _, client := range []struct {
		name  string
		rules []*devices.Rule
		want  int
	}{
		{"podman", []*devices.Rule{none}, 0},
		{"containerd", []*devices.Rule{none, c(1, 3), c(1, 8), c(1, 7), c(5, 0), c(1, 5), c(1, 9), c(5, 1), c(136, -1), c(5, 2)}, 1},
		{"docker", []*devices.Rule{none, c(1, 5), c(1, 3), c(1, 9), c(1, 8), c(5, 0), c(5, 1), rule('c', 10, 229, "rwm", false)}, 1},
	} {
		rules := append(client.rules, added...)
		for n, usual := range usualRules() {
			if sameRules(rules, usual) != (n == client.want) {
				t.Errorf("%s: rules %d: %v", client.name, n, n != client.want)
			}
		}
	}
}

// Rules are set where others are in force, or where that is not known, and only
// there.
func TestDeviceFilters(t *testing.T) {
	var sets int
	var fails error
	f := &deviceFilters{
		set:   func(string, *cgroups.Resources) error { sets++; return fails },
		rules: map[string][]*devices.Rule{},
	}
	some := []*devices.Rule{rule('c', 1, 3, "rwm", true)}
	same := []*devices.Rule{rule('c', 1, 3, "rw", true), rule('c', 1, 3, "m", true)}
	other := []*devices.Rule{rule('c', 1, 5, "rwm", true)}
	all := []*devices.Rule{rule(devices.WildcardDevice, -1, -1, "rwm", true)}
	less := append([]*devices.Rule{rule('c', 1, 5, "r", false)}, all...)
	refused := errors.New("refused")
	for i, c := range []struct {
		dir   string
		rules []*devices.Rule
		fails error
		want  int
	}{
		{"/a", some, nil, 1},
		{"/a", same, nil, 0},
		{"/b", same, nil, 1}, // another cgroup
		{"/a", other, nil, 1},
		{"/a", other, nil, 0},
		{"/a", same, refused, 1},
		{"/a", other, nil, 1}, // who knows what a failure left
		{"/a", all, nil, 1},
		{"/a", all, nil, 0},
		{"/a", less, nil, 1}, // which allowed does not understand
		{"/b", some, nil, 0},
	} {
		sets, fails = 0, c.fails
		if err := f.setDevices(c.dir, &cgroups.Resources{Devices: c.rules}); err != c.fails {
			t.Errorf("step %d: %v, want %v", i, err, c.fails)
		}
		if sets != c.want {
			t.Errorf("step %d: set %d times, want %d", i, sets, c.want)
		}
	}
	f.forget("/b")
	if f.inForce("/b", some) || !f.inForce("/a", less) {
		t.Error("forgot the other cgroup")
	}
}
