//go:build linux

package validation

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Whatever way a create ends, the host's files are the host's: what undoes it
// must not reach through the mounts that show rootfs and bind sources to the
// machine. The files are the test's own, in its scratch directory.
func TestFailedCreateKeepsHostFiles(t *testing.T) {
	t.Parallel()
	fail := specs.Hook{Path: "/bin/false"}
	for name, hooks := range map[string]specs.Hooks{
		"createRuntime":   {CreateRuntime: []specs.Hook{fail}},
		"createContainer": {CreateContainer: []specs.Hook{fail}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "true")
			source := filepath.Join(c.box.dir, "source")
			bound := filepath.Join(source, "below", "file")
			c.must(os.MkdirAll(filepath.Dir(bound), 0o755))
			c.must(os.WriteFile(bound, []byte("precious"), 0o644))
			c.spec.Mounts = append(c.spec.Mounts, specs.Mount{
				Destination: "/mnt", Type: "bind", Source: source, Options: []string{"rbind", "rw"},
			})
			c.spec.Hooks = &hooks
			if err := c.create(); err == nil {
				t.Fatal("create succeeded")
			}
			if data, err := os.ReadFile(bound); err != nil || string(data) != "precious" {
				t.Errorf("bind source: %q, %v", data, err)
			}
			if _, err := os.Stat(filepath.Join(c.rootfs(), "bin", "busybox")); err != nil {
				t.Errorf("rootfs: %v", err)
			}
			c.wantNoContainer()
		})
	}
}
