package vmmtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

// Require ends a test that lacks something: where nothing may be skipped (CI)
// it fails.
func Require(t testing.TB, missing string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
}

// Kernel returns the path of a kernel for tests: $RUNM_KERNEL, what
// /tmp/runm-kernel-path names, or the tree's own build. Without any the test
// is skipped, under CI it fails.
func Kernel(t testing.TB) string {
	t.Helper()
	paths := []string{os.Getenv("RUNM_KERNEL"), filepath.Join(root(t), "_output/lib/runm/vmlinux")}
	if b, err := os.ReadFile("/tmp/runm-kernel-path"); err == nil {
		paths = append(paths, strings.TrimSpace(string(b)))
	}
	for _, p := range paths {
		if _, err := os.Stat(p); p != "" && err == nil {
			return p
		}
	}
	Require(t, "no guest kernel: run make kernel or set RUNM_KERNEL")
	return ""
}

// Program returns the absolute path of a program that drivers start. Without
// it the test is skipped, under CI it fails.
func Program(t testing.TB, name string) string {
	t.Helper()
	dirs := []string{filepath.Join(root(t), "_output/lib/runm/qemu/bin")}
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, ".cache/runm/qemu/bin"))
	}
	dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
	for _, dir := range append(dirs, "/usr/libexec") {
		p, err := exec.LookPath(filepath.Join(dir, name))
		if err == nil && filepath.IsAbs(p) {
			return p
		}
	}
	Require(t, "no "+name+": run hack/deps.sh")
	return ""
}

// Initrd builds vmmtest's guest and returns the path of its initramfs.
func Initrd(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "init"), "-ldflags=-s -w", "./libvm/vmm/vmmtest/guest/init")
	build.Dir = root(t)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(build.Args, " "), err, out)
	}
	init, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := cpio.Newc.Writer(&archive)
	if err := cpio.WriteRecords(w, []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", string(init), 0o755),
	}); err != nil {
		t.Fatal(err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initrd.cpio")
	if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// root returns the module's directory.
func root(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatalf("go list -m: %v", err)
	}
	return strings.TrimSpace(string(out))
}
