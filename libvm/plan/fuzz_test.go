package plan

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/config"
)

// FuzzMake holds the plan's law for any config.json: what Load accepts can be
// planned or is refused without a panic, every Bind stays below the staging
// directory, and the guest is given paths of the share or its own only.
func FuzzMake(f *testing.F) {
	dir := bundleDir(f)
	for _, name := range []string{"busybox", "cri", "docker", "full", "podman"} {
		data, err := os.ReadFile("testdata/" + name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(strings.ReplaceAll(string(data), "@DIR@", dir)))
	}
	for _, source := range []string{"/", "..", "../..", "/etc/..", "/proc", "/proc/1", "/dev/./null", "/dev/../etc", "rootfs/../../.."} {
		f.Add([]byte(`{"ociVersion":"1.0.0","root":{"path":"rootfs"},"process":{"args":["a"],"cwd":"/"},
			"mounts":[{"destination":"/x","source":"` + source + `","options":["bind"]}]}`))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		b, err := bundle.Load(dir)
		if err != nil {
			return
		}
		p, err := Make("c1", b, config.Default(), testHost())
		if err != nil {
			return
		}
		checkLaw(t, p)
	})
}

func checkLaw(t *testing.T, p *Plan) {
	t.Helper()
	if want := path.Join(api.ShareMountpoint, "rootfs/c1"); p.Guest.Root.Path != want {
		t.Errorf("root %q, want %q", p.Guest.Root.Path, want)
	}
	targets := map[string]bool{}
	for _, b := range p.Binds {
		if !filepath.IsLocal(b.Target) || !strings.HasPrefix(path.Clean(b.Target), "binds/c1/") {
			t.Errorf("target %q is not below binds/c1", b.Target)
		}
		if !filepath.IsAbs(b.Source) || targets[b.Target] {
			t.Errorf("bind %+v: relative, or its target is used twice", b)
		}
		targets[b.Target] = true
	}
	for _, m := range p.Guest.Mounts {
		if !bundle.IsBind(m) {
			continue
		}
		below, shared := strings.CutPrefix(m.Source, api.ShareMountpoint+"/")
		if shared && targets[below] {
			continue
		}
		own := false
		for _, dir := range []string{"/dev", "/proc", "/sys"} {
			own = own || m.Source == dir || strings.HasPrefix(m.Source, dir+"/")
		}
		if !own || m.Source != path.Clean(m.Source) {
			t.Errorf("the guest would bind %q", m.Source)
		}
	}
	for _, n := range p.Guest.Linux.Namespaces {
		if n.Path != "" || n.Type == "network" {
			t.Errorf("namespace %+v in the guest", n)
		}
	}
	if h := p.Guest.Hooks; h != nil && len(h.CreateRuntime)+len(h.CreateContainer)+len(h.Poststart)+len(h.Poststop) > 0 {
		t.Error("hooks of the host reach the guest")
	}
	if p.Machine.CPUs < 1 || p.Machine.MemoryMiB < 1 || len(p.Machine.Shares) != 1 || p.Machine.Shares[0].Path != "" {
		t.Errorf("machine %+v", p.Machine)
	}
}
