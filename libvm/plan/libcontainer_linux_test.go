package plan

import (
	"maps"
	"strings"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"github.com/opencontainers/runc/libcontainer/specconv"
)

// TestLibcontainerTakesIt gives each client's guest spec to what the agent
// gives it to, so that a refusal is found here and not in a machine.
func TestLibcontainerTakesIt(t *testing.T) {
	for _, name := range []string{"busybox", "cri", "docker", "full", "podman"} {
		t.Run(name, func(t *testing.T) {
			s := mustMake(t, name, nil).Guest
			// The agent applies these itself; see docs/oci-support.md.
			maps.DeleteFunc(s.Linux.Sysctl, func(name, _ string) bool { return strings.HasPrefix(name, "net.") })
			// Whether a flag is known depends on the libseccomp that the test,
			// unlike the agent, is built without.
			if s.Linux.Seccomp != nil {
				seccomp := *s.Linux.Seccomp
				seccomp.Flags = nil
				s.Linux.Seccomp = &seccomp
			}
			c, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: "c1", Spec: s})
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Mounts) != len(s.Mounts) {
				t.Errorf("%d mounts, want %d", len(c.Mounts), len(s.Mounts))
			}
			for _, m := range c.Mounts {
				if m.IsBind() && m.Data != "" {
					t.Errorf("bind mount at %s with options of a file system: %q", m.Destination, m.Data)
				}
			}
			if !c.Namespaces.Contains(configs.NEWNS) || c.Namespaces.Contains(configs.NEWNET) {
				t.Errorf("namespaces %+v", c.Namespaces)
			}
			// The guest's root is not here, nor is its cgroup v2; the rest of
			// the validation is the same on any machine.
			c.Rootfs, c.Cgroups.Resources.Unified = t.TempDir(), nil
			if err := validate.Validate(c); err != nil {
				t.Error(err)
			}
		})
	}
}
