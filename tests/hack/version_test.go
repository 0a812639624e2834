//go:build linux

package hack

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestVersion: runm has git's version, also when root builds in the tree of
// another user.
func TestVersion(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	top := t.TempDir()
	write(t, top+"/Makefile", string(makefile))
	out, err := bash(t, top, `
git init -q
git add Makefile
git -c user.name=x -c user.email=x@example commit -qm x
git tag v7.8.9
if [ "$(id -u)" = 0 ]; then chown -R 1234 .; fi`)
	if err != nil {
		t.Fatal(err, out)
	}
	out, err = bash(t, top, `unset VERSION; make -n runm`)
	if err != nil || !strings.Contains(out, "main.version=v7.8.9'") {
		t.Errorf("%v, make runm does: %s", err, out)
	}
}

// TestNoVCS: no build of this module's programs asks git, which fails in the
// tree of another user.
func TestNoVCS(t *testing.T) {
	scripts, err := filepath.Glob("../../hack/*.sh")
	if err != nil {
		t.Fatal(err)
	}
	builds := regexp.MustCompile(`go build( .*)? (\.|\./.*)\n`)
	n := 0
	for _, file := range append(scripts, "../../Makefile") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, build := range builds.FindAllString(strings.ReplaceAll(string(data), "\\\n", " "), -1) {
			n++
			if !strings.Contains(build, " -buildvcs=false ") {
				t.Errorf("%s: %s", file, build)
			}
		}
	}
	if n < 3 {
		t.Errorf("only %d builds found: has their form changed?", n)
	}
}
