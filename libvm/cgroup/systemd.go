//go:build linux

package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// PropertyPrefix is that of annotations that are properties of the container's
// unit of systemd, as runc has them: the name follows, and the value is in the
// text form of GVariant, like "uint64 30000000" or "'inactive-or-failed'".
const PropertyPrefix = "org.systemd.property."

// CheckAnnotations refuses properties that are none. Where systemd does not
// manage the cgroup it warns of them.
func CheckAnnotations(annotations map[string]string, systemd bool) (warnings []string, err error) {
	if systemd {
		_, err := properties(annotations)
		return nil, err
	}
	for _, key := range propertyKeys(annotations) {
		warnings = append(warnings, fmt.Sprintf("annotations: %s is a property of a unit of systemd, and is without effect without --systemd-cgroup.", key))
	}
	return warnings, nil
}

func propertyKeys(annotations map[string]string) []string {
	keys := slices.Sorted(maps.Keys(annotations))
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, PropertyPrefix) })
}

// properties are those that annotations have, by name.
func properties(annotations map[string]string) ([]systemd.Property, error) {
	var all []systemd.Property
	for _, key := range propertyKeys(annotations) {
		p, err := property(strings.TrimPrefix(key, PropertyPrefix), annotations[key])
		if err != nil {
			return nil, fmt.Errorf("annotations: %s: %q: %w", key, annotations[key], err)
		}
		all = append(all, p)
	}
	return all, nil
}

func property(name, text string) (p systemd.Property, err error) {
	isLetter := func(r rune) bool { return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' }
	if len(name) < 3 || strings.ContainsFunc(name, func(r rune) bool { return !isLetter(r) }) {
		return p, errors.New("the name of a property is three or more letters")
	}
	value, err := dbus.ParseVariant(text, dbus.Signature{})
	if err != nil {
		return p, fmt.Errorf("not a value of D-Bus, like \"uint64 1\" or \"'text'\": %w", err)
	}
	// People know TimeoutStopSec from unit files; over D-Bus it is
	// TimeoutStopUSec. One that ends in USec is meant as it is.
	base, ok := strings.CutSuffix(name, "Sec")
	if ok && base != "" && base[len(base)-1] >= 'a' {
		usec, err := microseconds(value.Value())
		if err != nil {
			return p, err
		}
		name, value = base+"USec", dbus.MakeVariant(usec)
	}
	return systemd.Property{Name: name, Value: value}, nil
}

// microseconds are those of a number of seconds of any of D-Bus's types.
func microseconds(seconds any) (uint64, error) {
	const million = 1_000_000
	switch v := reflect.ValueOf(seconds); {
	case v.CanUint() && v.Uint() <= math.MaxUint64/million:
		return v.Uint() * million, nil
	case v.CanInt() && v.Int() >= 0 && v.Int() <= math.MaxInt64/million:
		return uint64(v.Int()) * million, nil
	case v.CanFloat() && v.Float() >= 0 && v.Float() <= math.MaxInt64/million:
		return uint64(v.Float() * million), nil
	}
	return 0, errors.New("not a time in seconds")
}
