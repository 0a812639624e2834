//go:build linux

package cgroup

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// unit is a manager that makes its unit once, as systemd does, unless again is set.
type unit struct {
	cgroups.Manager
	again bool
	made  bool
	did   []string
}

var errUnitExists = errors.New("org.freedesktop.systemd1.UnitExists")

func (u *unit) Apply(pid int) error {
	if u.made && !u.again {
		return errUnitExists
	}
	u.made = true
	u.did = append(u.did, fmt.Sprint("apply ", pid))
	return nil
}

func (u *unit) AddPid(sub string, pid int) error {
	if !u.made || sub != "" {
		return fmt.Errorf("add to %q: there is no such unit", sub)
	}
	u.did = append(u.did, fmt.Sprint("add ", pid))
	return nil
}

func TestJoin(t *testing.T) {
	for name, c := range map[string]struct {
		systemd, live bool
		want          []string
	}{
		"systemd":              {true, false, []string{"apply 1", "add 2", "add 3"}},
		"systemd, a live unit": {true, true, []string{"add 1", "add 2", "add 3"}},
		"cgroupfs":             {false, false, []string{"apply 1", "apply 2", "apply 3"}},
	} {
		u := &unit{again: !c.systemd, made: c.live}
		g := &Cgroup{m: u, config: &cgroups.Cgroup{Systemd: c.systemd}, made: c.live}
		for pid := 1; pid <= 3; pid++ {
			if err := g.Join(pid); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if !slices.Equal(u.did, c.want) {
			t.Errorf("%s: %q, want %q", name, u.did, c.want)
		}
	}
}

// A unit of that name that is somebody else's is not joined.
func TestJoinOfAnothersUnit(t *testing.T) {
	g := &Cgroup{m: &unit{made: true}, config: &cgroups.Cgroup{Systemd: true}}
	for range 2 {
		if err := g.Join(1); !errors.Is(err, errUnitExists) {
			t.Errorf("%v, want %v", err, errUnitExists)
		}
	}
}

// What Paths returned is a cgroup that is there.
func TestPathsAreOfALiveCgroup(t *testing.T) {
	for _, paths := range []map[string]string{nil, {"": "/sys/fs/cgroup/c1"}} {
		g, err := New("c1", &specs.Spec{}, false, Overhead{}, paths)
		if err != nil {
			t.Fatal(err)
		}
		if g.made != (paths != nil) {
			t.Errorf("%v: made is %v", paths, g.made)
		}
	}
}

func TestProperties(t *testing.T) {
	for annotation, want := range map[string]string{
		"TimeoutStopUSec=uint64 123456789": `TimeoutStopUSec=@t 123456789`,
		"TimeoutStopSec=uint64 123":        `TimeoutStopUSec=@t 123000000`,
		"TimeoutStopSec=byte 0x07":         `TimeoutStopUSec=@t 7000000`,
		"TimeoutStopSec=int16 7":           `TimeoutStopUSec=@t 7000000`,
		"TimeoutStopSec=uint16 7":          `TimeoutStopUSec=@t 7000000`,
		"TimeoutStopSec=7":                 `TimeoutStopUSec=@t 7000000`,
		"TimeoutStopSec=uint32 7":          `TimeoutStopUSec=@t 7000000`,
		"TimeoutStopSec=int64 7":           `TimeoutStopUSec=@t 7000000`,
		"TimeoutStopSec=1.5":               `TimeoutStopUSec=@t 1500000`,
		"TimeoutStopSec=0":                 `TimeoutStopUSec=@t 0`,
		"CollectMode='inactive-or-failed'": `CollectMode="inactive-or-failed"`,
		"After=['a.service', 'b.service']": `After=["a.service", "b.service"]`,
		"SendSIGHUP=true":                  `SendSIGHUP=true`,
		"KillSignal=15":                    `KillSignal=15`,
		// Not of time: what is before it is no small letter.
		"AbcXSec=uint64 1": `AbcXSec=@t 1`,
		"Sec=uint64 1":     `Sec=@t 1`,
	} {
		name, text, _ := strings.Cut(annotation, "=")
		props, err := properties(map[string]string{PropertyPrefix + name: text, "other": "x", "dev.runm.cpus": "1"})
		if err != nil || len(props) != 1 {
			t.Errorf("%s: %v, %v", annotation, props, err)
			continue
		}
		if got := props[0].Name + "=" + props[0].Value.String(); got != want {
			t.Errorf("%s is %s, want %s", annotation, got, want)
		}
	}
}

func TestBadProperties(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"", "1", "three or more letters"},
		{"Ab", "1", "three or more letters"},
		{"Kill.Signal", "1", "three or more letters"},
		{"KillSignal2", "1", "three or more letters"},
		{"Größe", "1", "three or more letters"},
		{"KillSignal", "", "not a value of D-Bus"},
		{"KillSignal", "SIGTERM", "not a value of D-Bus"},
		{"TimeoutStopSec", "'5s'", "not a time"},
		{"TimeoutStopSec", "-1", "not a time"},
		{"TimeoutStopSec", "-1.0", "not a time"},
		{"TimeoutStopSec", "uint64 18446744073709551615", "not a time"},
		{"TimeoutStopSec", "int64 9223372036854775807", "not a time"},
		{"TimeoutStopSec", "1e300", "not a time"},
	} {
		key := PropertyPrefix + c.name
		annotations := map[string]string{key: c.text}
		_, err := CheckAnnotations(annotations, true)
		if err == nil || !strings.HasPrefix(err.Error(), "annotations: "+key+": ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: %v, want it refused by name: %s", c.name, c.text, err, c.want)
		}
		if _, err := New("c1", &specs.Spec{Annotations: annotations}, true, Overhead{}, nil); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s=%s: New: %v", c.name, c.text, err)
		}
		if warnings, err := CheckAnnotations(annotations, false); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], key+" ") {
			t.Errorf("%s=%s, without systemd: %q, %v", c.name, c.text, warnings, err)
		}
	}
}

func TestDescribeHasProperties(t *testing.T) {
	spec := &specs.Spec{
		Annotations: map[string]string{PropertyPrefix + "KillSignal": "15", PropertyPrefix + "CollectMode": "'inactive'"},
		Linux:       &specs.Linux{CgroupsPath: "machine.slice:libpod:c1"},
	}
	c, err := describe("c1", spec, true)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range c.SystemdProps {
		names = append(names, p.Name)
	}
	if want := []string{"CollectMode", "KillSignal"}; !slices.Equal(names, want) {
		t.Errorf("properties %q, want %q", names, want)
	}
	if c.Parent != "machine.slice" || c.ScopePrefix != "libpod" || c.Name != "c1" {
		t.Errorf("unit %+v", c)
	}
	spec.Linux.CgroupsPath = "/c1"
	if c, err = describe("c1", spec, false); err != nil || c.SystemdProps != nil {
		t.Errorf("without systemd: %v, %v", c.SystemdProps, err)
	}
}
