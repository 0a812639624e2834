//go:build linux

package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// vmmDevices are the device nodes that the VMM and the share's daemon open on
// the host: null, zero, random, urandom, kvm, net/tun and vhost-net. They come
// after the container's own rules.
func vmmDevices() []specs.LinuxDeviceCgroup {
	var rules []specs.LinuxDeviceCgroup
	for _, n := range [][2]int64{{1, 3}, {1, 5}, {1, 8}, {1, 9}, {10, 232}, {10, 200}, {10, 238}} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &n[0], Minor: &n[1], Access: "rwm"})
	}
	return rules
}

// writeRules writes rules to a v1 devices cgroup one by one, in their order
// (config-linux.md, "Device allowlist": "The runtime MUST apply entries in the
// listed order").
func writeRules(dir string, rules []specs.LinuxDeviceCgroup) error {
	for _, r := range rules {
		file := "devices.deny"
		if r.Allow {
			file = "devices.allow"
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(rule(r)), 0o200); err != nil {
			return fmt.Errorf("cgroup: device rule %q: %w", rule(r), err)
		}
	}
	return nil
}

// rule is r in the form of the kernel's cgroup-v1/devices.rst.
func rule(r specs.LinuxDeviceCgroup) string {
	kind := r.Type
	if kind == "" {
		kind = "a"
	}
	return kind + " " + number(r.Major) + ":" + number(r.Minor) + " " + r.Access
}

func number(n *int64) string {
	if n == nil || *n < 0 {
		return "*"
	}
	return strconv.FormatInt(*n, 10)
}
