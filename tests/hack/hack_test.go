//go:build linux

// Package hack tests the scripts of hack/ and the Makefile where a mistake shows
// late or on another machine: with programs of its own in place of apt, git's
// owner and runm, so that nothing is fetched, built or booted.
package hack

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// tree is the absolute path of the top of the tree.
func tree(t *testing.T) string {
	t.Helper()
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// write makes an executable file, and its directory.
func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

// bash runs lines of bash in a directory, with variables ("NAME=value") added to
// the environment. It returns all they print, and nil if they end with 0.
func bash(t *testing.T, dir, lines string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", lines)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
