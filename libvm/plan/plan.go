// Package plan turns a checked bundle into a machine and a request to the
// agent in it. It is pure: equal inputs give equal plans, and nothing on the
// host changes.
package plan

import (
	"encoding/json"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/vmm"
)

// Host is what create found out about this machine before planning.
type Host struct {
	CPUs      int
	MemoryMiB int
	Accel     vmm.Accel     // never AccelAuto
	Share     vmm.ShareType // never ""
	Kernel    string        // absolute paths, from config's FindAssets
	Initrd    string
	// Hostname is that of the UTS namespace which the holder starts from: the
	// host's, or the joined one's. A container without one of its own sees
	// it; "" leaves the guest kernel's.
	Hostname string
	// HostNetwork: the network namespace that config.json gives by path is the
	// host's own.
	HostNetwork bool
	// OwnNamespaces are the paths that config.json gives of namespaces that are
	// the host's own, of the types that the guest makes (not network).
	OwnNamespaces map[string]bool
	// Warnings say what a machine of this host lacks, a sentence each.
	Warnings []string
	// Pod is the machine that the container joins, nil for one of its own.
	Pod *Pod
}

// Pod is a machine that runs.
type Pod struct {
	// Owners are the ids of the containers in it whose namespaces config.json
	// names, by the namespace's path.
	Owners map[string]string
	// MemoryMiB is what the machine has.
	MemoryMiB int
	// Files is the name that the container's files have in the share: one that
	// none had before in this machine. Its guest may still remember, for a second,
	// what a name was that is gone (docs/files.md).
	Files string
}

// files is the name of the container's files in the share.
func (h Host) files(id string) string {
	if h.Pod != nil {
		return h.Pod.Files
	}
	return id
}

// Plan is what create decided before it touched anything.
type Plan struct {
	ID string
	// Machine has one share, whose Path is "": the monitor fills in its
	// staging directory. A container that joins a machine has none.
	Machine vmm.Config
	// Rootfs is shown to the guest at rootfs/<name>, where name is the id, but in a
	// machine that runs already (Pod.Files).
	Rootfs Bind
	Binds  []Bind
	// Guest is the spec of api.CreateRequest.
	Guest *specs.Spec
	// Warnings are the host's, if there is a Machine, the bundle's and what
	// planning adds, a sentence each.
	Warnings []string
}

// Files are all that the machine is given for the container: the binds, then the
// root file system. Mounts that are sent to a monitor come in this order.
func (p *Plan) Files() []Bind { return append(slices.Clone(p.Binds), p.Rootfs) }

// Bind is one host path that the staging directory shows the guest.
type Bind struct {
	Source string // absolute host path of a file, directory, socket or fifo; symlinks resolved
	Target string // below the staging directory: "binds/<name>/<n>/<basename of Source>"
	Dir    bool   // Source is a directory
	// Recursive: submounts of Source are carried along.
	Recursive bool
	// ReadOnly: also on the host's side, as defence in depth. It is for the
	// bind's own mount; of a Recursive one's submounts only the guest, which
	// has the options, knows.
	ReadOnly bool
}

// Make plans the container id from b. c has the annotations applied already.
func Make(id string, b *bundle.Bundle, c config.Config, h Host) (*Plan, error) {
	if err := bundle.CheckID(id); err != nil {
		return nil, err
	}
	p := &Plan{ID: id, Warnings: slices.Clone(b.Warnings)}
	if h.Pod != nil {
		p.join(b.Spec, h.Pod)
	} else {
		p.Warnings = append(p.Warnings, h.Warnings...)
		if err := p.machine(b.Spec, c, h); err != nil {
			return nil, err
		}
	}
	p.Rootfs = Bind{
		Source:    b.Rootfs,
		Target:    api.RootfsDir + "/" + h.files(id),
		Dir:       true,
		Recursive: true,
		// Never read-only here: libcontainer makes missing mount points
		// before it remounts a read-only root.
	}
	if err := p.guest(b, h); err != nil {
		return nil, err
	}
	return p, checkSize(p.Guest)
}

// checkSize refuses a spec that would not fit into one message; 64 KiB are
// left for the rest of the request.
func checkSize(s *specs.Spec) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("config.json: %w", err)
	}
	if limit := api.MaxMessage - 64<<10; len(data) > limit {
		return fmt.Errorf("config.json: %d bytes are more than the %d that the guest accepts", len(data), limit)
	}
	return nil
}
