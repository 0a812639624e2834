//go:build linux

package libvm

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

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
// name, or of one in the same sandbox where that is no container itself, or of a
// container whose network, ipc, uts or pid namespace config.json gives by path:
// nobody can share those with a container in another machine.
func findPod(root, id string, s *specs.Spec) (*pod, error) {
	sandbox, absent := plan.SandboxOf(id, s.Annotations)
	joined := joinedNamespaces(s.Linux)
	if sandbox == "" && len(joined) == 0 {
		return nil, nil
	}
	var member, sibling *Container
	owners := map[string]*Container{}
	err := Each(root, func(other string, c *Container, err error) {
		if err != nil || other == id || !c.State.Holder.Alive() {
			return
		}
		for path, name := range joined {
			// A holder may be in a namespace of the host's, which joins nobody.
			if owners[path] == nil && isOf(path, name, strconv.Itoa(c.State.Holder.Pid)) && !isOf(path, name, "self") {
				owners[path] = c
				if member == nil && sandbox == "" {
					member = c
				}
			}
		}
		if other == sandbox {
			member = c
		}
		if absent && sibling == nil && c.State.Spec != nil {
			if its, _ := plan.SandboxOf(other, c.State.Spec.Annotations); its == sandbox {
				sibling = c
			}
		}
	})
	if member == nil {
		member = sibling
	}
	switch {
	case err != nil:
		return nil, err
	case member == nil && sandbox != "" && !absent:
		return nil, fmt.Errorf("the pod's sandbox %q is no running container of runm below %s: its containers share its machine", sandbox, root)
	case member == nil:
		return nil, nil
	}
	p := &pod{member: member, plan: plan.Pod{
		Owners: map[string]string{}, MemoryMiB: int(member.State.GuestMemoryBytes >> 20), Files: filesName(id, time.Now()),
	}}
	for path, c := range owners {
		if c.State.Monitor != member.State.Monitor {
			return nil, fmt.Errorf("%s belongs to container %q, which is in another machine than %q: one container can only join one machine",
				path, c.ID(), member.ID())
		}
		p.plan.Owners[path] = c.ID()
	}
	return p, nil
}

// filesName is the name of a container's files in the share of a machine that runs
// already. No other has or had it: ids have no @, and who has an id has it for
// longer than a nanosecond. It is short enough to be a file's, as an id is.
func filesName(id string, now time.Time) string {
	return fmt.Sprintf("%.200s@%d", id, now.UnixNano())
}

// joinedNamespaces are the namespaces that config.json gives by path, of the
// types that make containers one machine's: each one's name in /proc/<pid>/ns,
// by its path.
func joinedNamespaces(l *specs.Linux) map[string]string {
	joined := map[string]string{}
	if l == nil {
		return joined
	}
	for _, n := range l.Namespaces {
		if name, ok := sharedNamespaces[n.Type]; ok && n.Path != "" {
			joined[n.Path] = name
		}
	}
	return joined
}

var sharedNamespaces = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "net",
	specs.IPCNamespace:     "ipc",
	specs.UTSNamespace:     "uts",
	specs.PIDNamespace:     "pid",
}

// isOf says whether path is the namespace called name of a process, which is a
// pid or "self". A path that leads nowhere is nobody's.
func isOf(path, name, process string) bool {
	theirs, err := os.Stat(path)
	if err != nil {
		return false
	}
	its, err := os.Stat(filepath.Join("/proc", process, "ns", name))
	return err == nil && os.SameFile(theirs, its)
}
