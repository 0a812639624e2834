//go:build linux

package validation

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// suiteModule is the module of the suite's go.mod that brings the programs.
const suiteModule = "github.com/opencontainers/runtime-tools"

// suiteDir is a directory with the suite's programs, runtimetest and the
// rootfs archive. It is built once for each version of suite and Go, in about
// 20 s, and then found in the user's cache.
func suiteDir(t *testing.T) string {
	t.Helper()
	key := sha256.New()
	fmt.Fprintln(key, runtime.Version(), runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join("suite", name))
		if err != nil {
			t.Fatal(err)
		}
		key.Write(data)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	parent := filepath.Join(cache, "runm", "validation")
	dir := filepath.Join(parent, fmt.Sprintf("%x", key.Sum(nil)[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := buildSuite(t, parent, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// buildSuite makes dir in one step, so that a broken build is never found.
func buildSuite(t *testing.T, parent, dir string) (err error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	half, err := os.MkdirTemp(parent, "half")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(half)) }()
	t.Logf("building %s", dir)
	// CGO_ENABLED=0: runtimetest runs in a rootfs without a C library.
	if _, err := goTool("build", "-trimpath", "-ldflags=-s -w", "-o", half+"/", "tool"); err != nil {
		return err
	}
	module, err := goTool("list", "-m", "-f", "{{.Dir}}", suiteModule)
	if err != nil {
		return err
	}
	archive := "rootfs-" + runtime.GOARCH + ".tar.gz"
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(module), archive))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(half, archive), data, 0o644); err != nil {
		return err
	}
	if err := os.Chmod(half, 0o755); err != nil {
		return err
	}
	if err := os.Rename(half, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err // ErrExist: somebody else built the same
	}
	return nil
}

// goTool runs the go command in the suite's module and returns its stdout.
func goTool(args ...string) (string, error) {
	cmd := exec.Command("go", append([]string{args[0], "-C", "suite"}, args[1:]...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, exit.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}
