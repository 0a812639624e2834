//go:build linux

package libvm

import (
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/libvm/plan"
)

// pod is the machine that a new container is to join.
type pod struct {
	member *Container // one that is in it, and whose monitor is asked
	plan   plan.Pod
}

// findPod returns the machine that the new container id belongs into, or nil
// for one of its own. It is that of the sandbox that a client's annotations
// name, or of a container whose network, ipc, uts or pid namespace config.json
// gives by path: nobody can share those with a container in another machine.
func findPod(root, id string, s *specs.Spec) (*pod, error) {
	sandbox := plan.SandboxOf(id, s.Annotations)
	joined := joinedNamespaces(s)
	if sandbox == "" && len(joined) == 0 {
		return nil, nil
	}
	var member *Container
	owners := map[string]*Container{}
	err := Each(root, func(other string, c *Container, err error) {
		if err != nil || other == id || !c.State.Holder.Alive() {
			return
		}
		for path, ns := range joined {
			if same, err := sameNamespace(ns, c.State.Holder.Pid); err == nil && same && owners[path] == nil {
				owners[path] = c
				if member == nil && sandbox == "" {
					member = c
				}
			}
		}
		if other == sandbox {
			member = c
		}
	})
	switch {
	case err != nil:
		return nil, err
	case member == nil && sandbox != "":
		return nil, fmt.Errorf("the pod's sandbox %q is no running container of runm below %s: its containers share its machine", sandbox, root)
	case member == nil:
		return nil, nil
	}
	p := &pod{member: member, plan: plan.Pod{Owners: map[string]string{}, MemoryMiB: int(member.State.GuestMemoryBytes >> 20)}}
	for path, c := range owners {
		if c.State.Monitor != member.State.Monitor {
			return nil, fmt.Errorf("%s belongs to container %q, which is in another machine than %q: one container can only join one machine",
				path, c.ID(), member.ID())
		}
		p.plan.Owners[path] = c.ID()
	}
	return p, nil
}

// joinedNamespaces are the namespaces that config.json gives by path, of the
// types that make containers one machine's: the file of each by its path.
func joinedNamespaces(s *specs.Spec) map[string]namespaceFile {
	joined := map[string]namespaceFile{}
	if s.Linux == nil {
		return joined
	}
	for _, n := range s.Linux.Namespaces {
		if name, ok := sharedNamespaces[n.Type]; ok && n.Path != "" {
			joined[n.Path] = namespaceFile{path: n.Path, name: name}
		}
	}
	return joined
}

// namespaceFile is a namespace by path, and its name in /proc/<pid>/ns.
type namespaceFile struct{ path, name string }

var sharedNamespaces = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "net",
	specs.IPCNamespace:     "ipc",
	specs.UTSNamespace:     "uts",
	specs.PIDNamespace:     "pid",
}

// sameNamespace says whether the process pid is in the namespace, and not in
// ours: a holder may be in a namespace of the host's.
func sameNamespace(ns namespaceFile, pid int) (bool, error) {
	own, err := os.Stat("/proc/self/ns/" + ns.name)
	if err != nil {
		return false, err
	}
	want, err := os.Stat(ns.path)
	if err != nil {
		return false, err
	}
	got, err := os.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name))
	if err != nil {
		return false, err
	}
	return os.SameFile(want, got) && !os.SameFile(want, own), nil
}
