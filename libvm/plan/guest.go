package plan

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/bundle"
)

// guest builds the spec of the request field by field: a field that is not
// named here never reaches the guest.
func (p *Plan) guest(b *bundle.Bundle, h Host) error {
	s := b.Spec
	process, err := GuestProcess(s.Process)
	if err != nil {
		return err
	}
	if process.Capabilities == nil {
		// None, as with runc up to 1.2 and crun. The libcontainer in the guest
		// would leave all that the agent has.
		process.Capabilities = &specs.LinuxCapabilities{}
	}
	p.Guest = &specs.Spec{
		Version:     specs.Version,
		Process:     process,
		Root:        &specs.Root{Path: path.Join(api.ShareMountpoint, p.Rootfs.Target), Readonly: s.Root.Readonly},
		Hostname:    s.Hostname,
		Domainname:  s.Domainname,
		Annotations: maps.Clone(s.Annotations),
		Hooks:       guestHooks(s.Hooks),
	}
	l := s.Linux
	if l == nil {
		l = &specs.Linux{}
	}
	p.Guest.Linux = p.guestLinux(l, h)
	p.inheritHostname(h.Hostname)
	p.mounts(b, h.files(p.ID))
	return nil
}

// inheritHostname gives a container that has no hostname of its own the one it
// would inherit under runc. It takes a UTS namespace to set one.
func (p *Plan) inheritHostname(name string) {
	isUTS := func(n specs.LinuxNamespace) bool { return n.Type == specs.UTSNamespace }
	uts := slices.IndexFunc(p.Guest.Linux.Namespaces, isUTS)
	if uts >= 0 && p.Guest.Linux.Namespaces[uts].Path != "" {
		return // another container's, with its name
	}
	if p.Guest.Hostname != "" || name == "" {
		return
	}
	p.Guest.Hostname = name
	if uts < 0 {
		p.Guest.Linux.Namespaces = append(p.Guest.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UTSNamespace})
	}
}

func (p *Plan) guestLinux(l *specs.Linux, h Host) *specs.Linux {
	return &specs.Linux{
		UIDMappings:       slices.Clone(l.UIDMappings),
		GIDMappings:       slices.Clone(l.GIDMappings),
		Sysctl:            maps.Clone(l.Sysctl),
		Resources:         GuestResources(l.Resources),
		CgroupsPath:       "/" + p.ID,
		Namespaces:        p.namespaces(l.Namespaces, h),
		Devices:           devices(l.Devices),
		Seccomp:           l.Seccomp,
		RootfsPropagation: l.RootfsPropagation,
		MaskedPaths:       slices.Clone(l.MaskedPaths),
		ReadonlyPaths:     slices.Clone(l.ReadonlyPaths),
		Personality:       l.Personality,
		TimeOffsets:       maps.Clone(l.TimeOffsets),
	}
}

// devices are the nodes to make. A fifo has no numbers, and libcontainer
// refuses one that has; config.json may give some.
func devices(list []specs.LinuxDevice) []specs.LinuxDevice {
	out := slices.Clone(list)
	for i := range out {
		if out[i].Type == "p" {
			out[i].Major, out[i].Minor = 0, 0
		}
	}
	return out
}

// namespaces are the ones to make or to join in the guest.
//
//   - network: never a new one; the guest's own network stack is the
//     container's, or, in a pod, all containers'.
//   - mount: always a new one; libcontainer cannot do without.
//   - cgroup: always a new one, so that /sys/fs/cgroup shows the container's
//     own limits. On a v1 host clients name none, and runc mounts the
//     container's cgroups there; on v2, without one, a container would have to
//     look for its own among the guest's.
//   - the others: a new one if config.json names one, or that of another
//     container of the pod. Another one that is given by path is in another
//     kernel: a new one is as close as the guest can come. One that is absent,
//     or the host's own by path, means the kernel's own: the containers of a
//     pod with the host's pid namespace get its sandbox's that way.
func (p *Plan) namespaces(namespaces []specs.LinuxNamespace, h Host) []specs.LinuxNamespace {
	guest := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}}
	for i, n := range namespaces {
		owner := h.Pod.owner(n)
		switch n.Type {
		case specs.NetworkNamespace:
			continue
		case specs.MountNamespace, specs.CgroupNamespace:
			owner = ""
		default:
			if h.OwnNamespaces[n.Path] {
				continue
			}
			joined := specs.LinuxNamespace{Type: n.Type}
			if owner != "" {
				joined.Path = api.NamespaceOf + owner
			}
			guest = append(guest, joined)
		}
		if n.Path != "" && owner == "" {
			p.warn(fmt.Sprintf("linux.namespaces[%d].path", i),
				"the host's side joins %s; in the guest the %s namespace is the container's own.", n.Path, n.Type)
		}
	}
	p.warnOfHosts(guest)
	return guest
}

// warnOfHosts names the namespaces of guest's that are missing: who wants those
// of the host (hostPID, hostIPC, --uts host) does not have them.
func (p *Plan) warnOfHosts(guest []specs.LinuxNamespace) {
	var missing []string
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		if !slices.ContainsFunc(guest, func(n specs.LinuxNamespace) bool { return n.Type == kind }) {
			missing = append(missing, string(kind))
		}
	}
	if len(missing) > 0 {
		p.warn("linux.namespaces", "the container has the machine's %s, and not the host's.", strings.Join(missing, ", "))
	}
}

// guestHooks are those whose path is resolved in the container; the others
// run on the host.
func guestHooks(h *specs.Hooks) *specs.Hooks {
	if h == nil || len(h.StartContainer) == 0 {
		return nil
	}
	return &specs.Hooks{StartContainer: slices.Clone(h.StartContainer)}
}
