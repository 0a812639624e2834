package bundle

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func (c *checker) linux(s *specs.Spec) error {
	l := s.Linux
	checks := []func(*specs.Linux) error{
		refuseLinux, checkNamespaces, checkMappings, checkTimeOffsets, checkPropagation,
		checkPaths, checkPersonality,
		func(l *specs.Linux) error { return checkSysctl(l.Sysctl, s) },
		func(l *specs.Linux) error { return checkSeccomp(l.Seccomp) },
		c.devices,
		func(l *specs.Linux) error { return c.resources(l.Resources) },
	}
	for _, check := range checks {
		if err := check(l); err != nil {
			return err
		}
	}
	if l.MountLabel != "" {
		c.warn("linux.mountLabel", "%q is not applied: the guest's kernel has no SELinux.", l.MountLabel)
	}
	return nil
}

// refuseLinux names the fields that concern hardware of the host that the
// guest does not have.
func refuseLinux(l *specs.Linux) error {
	switch {
	case l.IntelRdt != nil:
		return refuse("linux.intelRdt", "the guest's CPUs have no cache allocation")
	case l.MemoryPolicy != nil:
		return refuse("linux.memoryPolicy", "the guest has one memory node")
	case len(l.NetDevices) > 0:
		return refuse("linux.netDevices", "a network device of the host cannot be moved into the guest")
	}
	return nil
}

// KnownNamespaces are the types of linux.namespaces.
func KnownNamespaces() []string {
	return []string{
		string(specs.CgroupNamespace), string(specs.IPCNamespace), string(specs.MountNamespace),
		string(specs.NetworkNamespace), string(specs.PIDNamespace), string(specs.TimeNamespace),
		string(specs.UserNamespace), string(specs.UTSNamespace),
	}
}

func checkNamespaces(l *specs.Linux) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, n := range l.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		if !slices.Contains(KnownNamespaces(), string(n.Type)) {
			return fmt.Errorf("%s.type: namespace %q does not exist", field, n.Type)
		}
		if seen[n.Type] {
			return fmt.Errorf("%s.type: malformed spec file: duplicated namespace %q", field, n.Type)
		}
		seen[n.Type] = true
		if n.Path == "" {
			continue
		}
		if !filepath.IsAbs(n.Path) {
			return fmt.Errorf("%s.path: %q is not an absolute path", field, n.Path)
		}
		if n.Type == specs.UserNamespace {
			return refuse(field+".path", "a user namespace of the host does not exist in the guest; use uidMappings and gidMappings")
		}
	}
	return nil
}

func checkMappings(l *specs.Linux) error {
	user := has(l.Namespaces, specs.UserNamespace)
	switch {
	case user && len(l.UIDMappings) == 0:
		return errors.New("linux.uidMappings: must not be empty for a user namespace")
	case user && len(l.GIDMappings) == 0:
		return errors.New("linux.gidMappings: must not be empty for a user namespace")
	case !user && len(l.UIDMappings) > 0:
		return errors.New("linux.uidMappings: user namespace mappings specified, but user namespace isn't enabled in the config")
	case !user && len(l.GIDMappings) > 0:
		return errors.New("linux.gidMappings: user namespace mappings specified, but user namespace isn't enabled in the config")
	}
	if !user {
		return nil
	}
	if err := checkMapping("linux.uidMappings", l.UIDMappings); err != nil {
		return err
	}
	return checkMapping("linux.gidMappings", l.GIDMappings)
}

// checkMapping wants root to be mapped: device nodes and mounts are made by
// the container's root, and libcontainer refuses to go on without.
func checkMapping(field string, mappings []specs.LinuxIDMapping) error {
	root := false
	for i, m := range mappings {
		if m.Size == 0 {
			return fmt.Errorf("%s[%d].size: must not be 0", field, i)
		}
		root = root || m.ContainerID == 0
	}
	if !root {
		return fmt.Errorf("%s: user namespaces enabled, but no mapping found for id 0", field)
	}
	return nil
}

func checkTimeOffsets(l *specs.Linux) error {
	if len(l.TimeOffsets) > 0 && !has(l.Namespaces, specs.TimeNamespace) {
		return errors.New("linux.timeOffsets: time namespace offsets specified, but time namespace isn't enabled in the config")
	}
	for clock, o := range l.TimeOffsets {
		if clock != "monotonic" && clock != "boottime" {
			return fmt.Errorf("linux.timeOffsets: %q is none of monotonic, boottime", clock)
		}
		if o.Nanosecs >= 1e9 {
			return fmt.Errorf("linux.timeOffsets.%s.nanosecs: %d is more than a second", clock, o.Nanosecs)
		}
	}
	for i, n := range l.Namespaces {
		if n.Type == specs.TimeNamespace && n.Path != "" && len(l.TimeOffsets) > 0 {
			return fmt.Errorf("linux.namespaces[%d].path: a joined time namespace cannot have timeOffsets", i)
		}
	}
	return nil
}

func checkPropagation(l *specs.Linux) error {
	if p := l.RootfsPropagation; p != "" && !slices.Contains(propagations(), p) {
		return fmt.Errorf("linux.rootfsPropagation: %q is not supported", p)
	}
	return nil
}

func checkPaths(l *specs.Linux) error {
	for i, p := range l.MaskedPaths {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("linux.maskedPaths[%d]: %q is not an absolute path", i, p)
		}
	}
	for i, p := range l.ReadonlyPaths {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("linux.readonlyPaths[%d]: %q is not an absolute path", i, p)
		}
	}
	return nil
}

func checkPersonality(l *specs.Linux) error {
	p := l.Personality
	if p == nil {
		return nil
	}
	if p.Domain != specs.PerLinux && p.Domain != specs.PerLinux32 {
		return fmt.Errorf("linux.personality.domain: invalid personality domain %q", p.Domain)
	}
	if len(p.Flags) > 0 {
		return refuse("linux.personality.flags", "the specification defines none")
	}
	return nil
}

// checkSysctl takes any setting: the kernel is the container's own, so that
// none can reach another container or the host. Only names that are no
// setting, or set what a field of the specification sets, are refused.
func checkSysctl(sysctl map[string]string, s *specs.Spec) error {
	for _, name := range slices.Sorted(maps.Keys(sysctl)) {
		field := "linux.sysctl." + name
		path := SysctlPath(name)
		if path == "" {
			return fmt.Errorf("%s: not the name of a sysctl", field)
		}
		// runc's rule: the dedicated field counts.
		if path == "kernel/hostname" || path == "kernel/domainname" && s.Domainname != "" {
			return fmt.Errorf("%s: sysctl is not allowed as it conflicts with the OCI %q field",
				field, strings.TrimPrefix(path, "kernel/"))
		}
	}
	return nil
}

// SysctlPath turns "net.ipv4.ip_forward" into "net/ipv4/ip_forward", a path
// below /proc/sys, "" if name is none. As in sysctl(8) the separator is
// whichever of "." and "/" comes first, and the other one is exchanged with it.
func SysctlPath(name string) string {
	i := strings.IndexAny(name, "./")
	if i < 0 {
		return ""
	}
	if name[i] == '.' {
		swap := func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}
		name = strings.Map(swap, name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return ""
		}
	}
	return name
}

// devices checks linux.devices. Nodes are made in the guest whatever the host
// has: the validation suite and `docker run --privileged` count on it.
func (c *checker) devices(l *specs.Linux) error {
	var hollow []string
	for i, d := range l.Devices {
		field := fmt.Sprintf("linux.devices[%d]", i)
		if !filepath.IsAbs(d.Path) {
			return fmt.Errorf("%s.path: %q is not an absolute path", field, d.Path)
		}
		switch d.Type {
		case "b", "c", "u", "p":
		default:
			return fmt.Errorf("%s.type: invalid device type %q", field, d.Type)
		}
		st, err := os.Stat(d.Path)
		if err == nil && st.Mode()&os.ModeDevice != 0 && !guestHas(d) {
			hollow = append(hollow, d.Path)
		}
	}
	if len(hollow) > 0 {
		c.warn("linux.devices", "%s: the nodes are made in the guest without the host's devices behind them.", strings.Join(hollow, ", "))
	}
	return nil
}

// guestHas says whether the guest's kernel has a driver for the node d.
func guestHas(d specs.LinuxDevice) bool {
	own := append(standardNodes(), "/dev/console", "/dev/ptmx", "/dev/kmsg")
	return d.Type == "p" || slices.Contains(own, d.Path)
}
