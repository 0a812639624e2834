package plan

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/libvm/bundle"
)

// GuestProcess is p as the agent gets it, rebuilt field by field. Make uses it
// for the container's process, exec for its own. The error is CheckProcess's.
func GuestProcess(p *specs.Process) (*specs.Process, error) {
	if _, err := bundle.CheckProcess(p); err != nil {
		return nil, err
	}
	return &specs.Process{
		Terminal:    p.Terminal,
		ConsoleSize: p.ConsoleSize,
		User: specs.User{
			UID:            p.User.UID,
			GID:            p.User.GID,
			Umask:          p.User.Umask,
			AdditionalGids: unique(p.User.AdditionalGids),
		},
		Args:            slices.Clone(p.Args),
		Env:             slices.Clone(p.Env),
		Cwd:             p.Cwd,
		Capabilities:    guestCapabilities(p.Capabilities),
		Rlimits:         slices.Clone(p.Rlimits),
		NoNewPrivileges: p.NoNewPrivileges,
		OOMScoreAdj:     p.OOMScoreAdj,
		Scheduler:       p.Scheduler,
		IOPriority:      p.IOPriority,
	}, nil
}

// unique keeps the first of equal groups: Docker names one that both the image
// and --group-add give twice, and runc shows it once.
func unique(gids []uint32) []uint32 {
	var out []uint32
	for _, g := range gids {
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// guestCapabilities leaves out the names CheckProcess warned of.
func guestCapabilities(c *specs.LinuxCapabilities) *specs.LinuxCapabilities {
	if c == nil {
		return nil
	}
	names := bundle.KnownCapabilities()
	known := func(set []string) []string {
		unknown := func(name string) bool { return !slices.Contains(names, name) }
		return slices.DeleteFunc(slices.Clone(set), unknown)
	}
	return &specs.LinuxCapabilities{
		Bounding:    known(c.Bounding),
		Effective:   known(c.Effective),
		Inheritable: known(c.Inheritable),
		Permitted:   known(c.Permitted),
		Ambient:     known(c.Ambient),
	}
}
