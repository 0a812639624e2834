//go:build linux

package validation

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runm/runm/tests/internal/leak"
	"github.com/runm/runm/tests/internal/programs"
)

// defaultRuntime is where the build puts the binary.
const defaultRuntime = "../../_output/bin/runm"

// runtimePath is the binary under test, or skips t.
func runtimePath(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a container runtime needs root here")
	}
	name := os.Getenv("RUNTIME")
	if name == "" {
		if _, err := os.Stat(defaultRuntime); errors.Is(err, fs.ErrNotExist) {
			t.Skipf("no %s and no RUNTIME", defaultRuntime)
		}
		name = defaultRuntime
	}
	found, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("RUNTIME: %v", err)
	}
	path, err := filepath.Abs(found)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// isRunm says whether the runtime under test is ours, and so must meet
// expected.txt and what a guest promises.
func isRunm(path string) bool { return strings.HasPrefix(filepath.Base(path), "runm") }

// onlyRunm skips what a runtime without a guest cannot show on this machine.
func onlyRunm(t *testing.T, why string) {
	t.Helper()
	if path := runtimePath(t); !isRunm(path) {
		t.Skipf("%s: %s", filepath.Base(path), why)
	}
}

// A box is one test's scratch directory and the runtime confined to it.
type box struct {
	dir     string // short: unix sockets below it must fit 108 bytes
	runtime string // wrapper that adds --root: one word, as the suite wants it
	scope   *leak.Scope
}

// newBox makes a box. At the end of the test every container in it is
// removed, nothing of the box or of names may be left, and it is removed.
func newBox(t *testing.T, names ...string) *box {
	t.Helper()
	real := runtimePath(t)
	dir, err := os.MkdirTemp("/tmp", "rv")
	if err != nil {
		t.Fatal(err)
	}
	b := &box{dir: dir, runtime: filepath.Join(dir, "runtime")}
	if b.scope, err = leak.New(dir, names...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.close(t) })
	for _, d := range []string{b.dir, b.tmp(), b.root()} {
		if err := errors.Join(os.MkdirAll(d, 0o755), os.Chmod(d, 0o755)); err != nil {
			t.Fatal(err) // a user namespace must be able to pass
		}
	}
	wrapper := fmt.Sprintf("#!/bin/sh\nprintf '%%s\\n' \"$*\" >>'%s'\nexec '%s' --root '%s' \"$@\"\n", b.calls(), real, b.root())
	if err := programs.Write(b.runtime, []byte(wrapper)); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *box) root() string  { return filepath.Join(b.dir, "root") }
func (b *box) tmp() string   { return filepath.Join(b.dir, "tmp") }
func (b *box) calls() string { return filepath.Join(b.dir, "calls") }

// env is the environment of whoever uses the box.
func (b *box) env() []string {
	return append(os.Environ(), "TMPDIR="+b.tmp(), "RUNTIME="+b.runtime)
}

// close removes what a program or a failed test did not, then looks for what
// the runtime did not.
func (b *box) close(t *testing.T) {
	b.scope.Names = append(b.scope.Names, b.ids(t)...)
	ids, err := leak.IDs(b.root())
	if err != nil {
		t.Error(err)
	}
	for _, id := range ids {
		if out, err := exec.Command(b.runtime, "delete", "--force", id).CombinedOutput(); err != nil {
			t.Errorf("delete --force %s: %v\n%s", id, err, out)
		}
	}
	leak.Check(t, b.scope)
	// RemoveAll would go through a mount to files that are not the test's.
	if mounts, err := b.scope.Mounts(); err != nil || len(mounts) > 0 {
		t.Errorf("%s stays: %q, %v", b.dir, mounts, err)
		return
	}
	if err := os.RemoveAll(b.dir); err != nil {
		t.Error(err)
	}
}

// ids are the container ids that create was called with: its last argument.
func (b *box) ids(t *testing.T) []string {
	data, err := os.ReadFile(b.calls())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	var ids []string
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) > 1 && f[0] == "create" && !strings.Contains(f[len(f)-1], "/") {
			ids = append(ids, f[len(f)-1])
		}
	}
	return ids
}
