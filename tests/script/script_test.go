//go:build linux

package script

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/tests/internal/leak"
	"github.com/runm/runm/tests/internal/programs"
)

const (
	// atOnce is how many scripts run at the same time: each boots machines,
	// and a machine under TCG wants a core.
	atOnce = "2"
	// settle bounds how long what a script ended may take to go.
	settle = 5 * time.Second
	// limit bounds all scripts together: a command that hangs is killed then,
	// and its script's log says which it was.
	limit = 15 * time.Minute
	// cgroupParent holds the scripts' cgroups.
	cgroupParent = "runm-script"
)

// runm is the absolute path of the binary under test.
var runm string

func TestMain(m *testing.M) {
	flag.Parse()
	err := flag.Set("test.parallel", atOnce)
	if err == nil {
		runm, err = programs.Runm()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests/script:", err)
		os.Exit(1)
	}
	code := m.Run()
	removeCgroupParents()
	os.Exit(code)
}

// removeCgroupParents removes what the scripts' cgroups were in. Not the
// containers' own: whether those are gone is part of the tests.
func removeCgroupParents() {
	v1, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupParent)
	for _, dir := range append(v1, "/sys/fs/cgroup/"+cgroupParent) {
		_ = unix.Rmdir(dir)
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Setup:               setup,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(limit),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"bundle":   cmdBundle,
			"edit":     cmdEdit,
			"status":   cmdStatus,
			"detached": cmdDetached,
			"until":    cmdUntil,
			"dialogue": cmdDialogue,
			"leaks":    cmdLeaks,
			"spans":    cmdSpans,
		},
	})
}

// scopeKey is where a script's environment keeps its leak.Scope.
type scopeKey struct{}

// setup gives a script runm with a --root of its own, in PATH, and looks for
// leaks when the script is over.
func setup(env *testscript.Env) error {
	name := strings.TrimPrefix(filepath.Base(env.WorkDir), "script-") + "-" +
		strings.TrimPrefix(filepath.Base(filepath.Dir(env.WorkDir)), "go-test-script")
	scope, err := leak.New(env.WorkDir, name)
	if err != nil {
		return err
	}
	env.Values[scopeKey{}] = scope
	root, bin := filepath.Join(env.WorkDir, "root"), filepath.Join(env.WorkDir, "bin")
	wrapper := fmt.Sprintf("#!/bin/sh\nexec '%s' --root '%s' \"$@\"\n", runm, root)
	if err := errors.Join(
		os.Mkdir(bin, 0o755),
		programs.Write(filepath.Join(bin, "runm"), []byte(wrapper)),
	); err != nil {
		return err
	}
	env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
	env.Setenv("RUNM", runm)
	env.Setenv("ROOT", root)
	env.Setenv("CGROUP", "/"+cgroupParent+"/"+name)
	env.Setenv("PID", fmt.Sprint(os.Getpid()))
	env.Defer(func() { cleanup(env.T(), scope, root) })
	return nil
}

// cleanup says what a script left, and takes it away. A container that a
// script ends without is its fault as much as a leak of runm's.
func cleanup(t testscript.T, scope *leak.Scope, root string) {
	left, err := scope.Wait(settle)
	if err == nil && len(left) == 0 {
		return
	}
	ids, _ := leak.IDs(root)
	for _, id := range ids {
		out, err := exec.Command(runm, "--root", root, "delete", "--force", id).CombinedOutput()
		if err != nil {
			left = append(left, fmt.Sprintf("delete --force %s: %v: %s", id, err, out))
		}
	}
	// The work directory is about to be removed: never through a mount.
	mounts, merr := scope.Mounts()
	for _, m := range mounts {
		merr = errors.Join(merr, unix.Unmount(strings.TrimPrefix(m, "mount "), unix.MNT_DETACH))
	}
	t.Fatal("left behind:"+list(left), errors.Join(err, merr))
}

// list shows what is left, a line each; QEMU's command lines are longer.
func list(left []string) string {
	const width = 160
	var out strings.Builder
	for _, l := range left {
		fmt.Fprintf(&out, "\n\t%.*s", width, l)
	}
	return out.String()
}
