// Package layers holds the tree to its layers: imports point down (see
// docs/architecture.md, "Packages").
package layers

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/runm/runm"

// agentTags are what process 1 of the guest is built with; without them part of
// what it links would not be seen.
const agentTags = "seccomp netgo osusergo runc_nocriu"

// A rule forbids what packages depend on, however indirectly. All paths stand
// for themselves and everything below them; ours are without the module.
type rule struct {
	why       string
	of        string   // whose dependencies; "." is all of ours
	apart     []string // packages that the rule is not for
	forbidden []string
	allowed   []string // below forbidden, and fine
}

func rules() []rule {
	return []rule{
		{
			why: "a driver knows machines, not containers",
			of:  "libvm/vmm", apart: []string{"libvm/vmm/vmmtest/guest/init"},
			forbidden: []string{"github.com/opencontainers", "libvm", "guest"},
			allowed:   []string{"libvm/vmm", "libvm/fileid", "libvm/trace", "libvm/undo"},
		},
		{
			why: "the guest's programs know the protocol and nothing of the host",
			of:  "guest", forbidden: []string{"libvm", "github.com/urfave"},
		},
		{
			why: "both sides share the protocol, which knows neither",
			of:  "guest/api", forbidden: []string{"guest/agent", "guest/cmd", "github.com/opencontainers"},
		},
		{
			why: "only main knows that there is a command line",
			of:  ".", apart: []string{""}, forbidden: []string{"github.com/urfave/cli"},
		},
		{
			why: "checking and planning are pure: they start nothing and own nothing",
			of:  "libvm/plan", forbidden: []string{"libvm", "os/exec", "net/http"},
			allowed: []string{"libvm/plan", "libvm/bundle", "libvm/config", "libvm/vmm"},
		},
		{
			why: "a bundle is checked without knowing who will run it",
			of:  "libvm/bundle", forbidden: []string{"libvm", "guest", "os/exec", "net"},
			allowed: []string{"libvm/bundle"},
		},
		{
			why: "the monitor is given its driver",
			of:  "libvm/monitor", forbidden: []string{"libvm/vmm/qemu", "libvm/vmm/fake", "libvm/vmm/vz"},
		},
		{
			why: "the fake is for tests",
			of:  ".", apart: []string{"libvm/vmm/fake", "tests"}, forbidden: []string{"libvm/vmm/fake"},
		},
		{
			why: "Virtualization.framework is one package",
			of:  ".", apart: []string{"libvm/vmm/vz"}, forbidden: []string{"github.com/Code-Hex/vz"},
		},
		{
			why: "tests run binaries; only machines and the protocol may be spoken to directly",
			of:  "tests", apart: []string{"tests/bench"}, forbidden: []string{"libvm", "guest"},
			allowed: []string{"libvm/vmm", "guest/api"},
		},
	}
}

func TestLayers(t *testing.T) {
	packages := list(t)
	for _, r := range rules() {
		seen := false
		for _, p := range packages {
			if !r.isFor(p.ImportPath) {
				continue
			}
			seen = true
			for _, dep := range p.Deps {
				if r.forbids(dep) {
					t.Errorf("%s depends on %s: %s", p.ImportPath, dep, r.why)
				}
			}
		}
		if !seen {
			t.Errorf("no package is under %q (%s): has it moved?", r.of, r.why)
		}
	}
}

// TestTable: the table of packages in docs/architecture.md has what is so.
func TestTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Packages\n")
	table, _, _ = strings.Cut(table, "\n## ")
	told := map[string][]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.Contains(cells[1], "`") {
			continue
		}
		var imports []string
		for name := range strings.SplitSeq(strings.TrimSpace(cells[2]), ", ") {
			switch {
			case name == "":
			case name == "any" || strings.HasPrefix(name, "guest/"):
				imports = append(imports, name)
			default:
				imports = append(imports, "libvm/"+name)
			}
		}
		slices.Sort(imports)
		for _, m := range regexp.MustCompile("`([a-z/]+)`").FindAllStringSubmatch(cells[1], -1) {
			told[m[1]] = imports
		}
	}
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if !below(p.ImportPath, "libvm") && !below(p.ImportPath, "guest") ||
			strings.Contains(name, "/internal/") || strings.HasPrefix(name, "libvm/vmm/vmmtest/") {
			continue
		}
		want, ok := told[name]
		if !ok {
			t.Errorf("the table does not have %s", name)
		}
		delete(told, name)
		if slices.Equal(want, []string{"any"}) {
			continue
		}
		var got []string
		for _, i := range p.Imports {
			if ours, ok := strings.CutPrefix(i, module+"/"); ok {
				got = append(got, ours)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s imports %q, the table says %q", name, got, want)
		}
	}
	delete(told, "main")
	for name := range told {
		t.Errorf("the table has %s, which is no package", name)
	}
}

// TestCgo: the host's program is static and cross-compiles; C of ours is for
// Virtualization.framework alone.
func TestCgo(t *testing.T) {
	may := []string{module + "/libvm/vmm/vz"}
	for _, p := range list(t) {
		if len(p.CgoFiles) > 0 && !slices.Contains(may, p.ImportPath) {
			t.Errorf("%s has C in %q", p.ImportPath, p.CgoFiles)
		}
	}
}

// TestRules tries the rules themselves.
func TestRules(t *testing.T) {
	r := rule{of: "libvm/vmm", apart: []string{"libvm/vmm/x"}, forbidden: []string{"libvm", "a.org/b"}, allowed: []string{"libvm/vmm"}}
	for path, want := range map[string]bool{
		module + "/libvm/vmm": true, module + "/libvm/vmm/qemu": true,
		module + "/libvm/vmm/x": false, module + "/libvm/vmmtest": false, module: false,
	} {
		if got := r.isFor(path); got != want {
			t.Errorf("isFor(%s) = %v", path, got)
		}
	}
	for dep, want := range map[string]bool{
		module + "/libvm": true, module + "/libvm/plan": true, module + "/libvm/vmm/qemu": false,
		"a.org/b/c": true, "a.org/bc": false, "os": false,
	} {
		if got := r.forbids(dep); got != want {
			t.Errorf("forbids(%s) = %v", dep, got)
		}
	}
}

// isFor says whether the rule is for the package.
func (r rule) isFor(path string) bool {
	return below(path, r.of) && !slices.ContainsFunc(r.apart, func(a string) bool {
		return a == "" && path == module || a != "" && below(path, a)
	})
}

// forbids says whether the rule's packages must not depend on dep.
func (r rule) forbids(dep string) bool {
	in := func(list []string) bool {
		return slices.ContainsFunc(list, func(f string) bool { return below(dep, f) })
	}
	return in(r.forbidden) && !in(r.allowed)
}

// below says whether path is what or below it. A name without a dot in its
// first part is ours or the standard library's.
func below(path, what string) bool {
	if what == "." {
		return path == module || strings.HasPrefix(path, module+"/")
	}
	for _, p := range []string{what, module + "/" + what} {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

// A pkg is what `go list` says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string // all of them, however indirect
	CgoFiles   []string
}

// list lists our packages as they are on Linux, without their tests.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", agentTags, "-json=ImportPath,Imports,Deps,CgoFiles", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(out); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return all
}
