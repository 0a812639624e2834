//go:build linux

// Package programs finds and builds what the tests below tests/ run.
package programs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Runm returns the absolute path of the binary under test: $RUNM, or what `make
// all` has built. Tests run in directories two below the tree's top.
func Runm() (string, error) {
	if os.Getuid() != 0 {
		return "", errors.New("a container runtime needs root here")
	}
	path := os.Getenv("RUNM")
	if path == "" {
		path = "../../_output/bin/runm"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the binary under test: %w (run make all, or set RUNM)", err)
	}
	return path, nil
}

// Write makes a program that can be executed at once. A child that is forked while
// the file is open for writing has it open until it executes, and so long nobody
// can execute the file (ETXTBSY): of this process none is forked meanwhile.
func Write(path string, content []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, content, 0o755)
}

// BuildGuest builds the program of ./guest for containers that have no C library.
// It returns its path, in dir.
func BuildGuest(dir string) (string, error) {
	path := filepath.Join(dir, "guest")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest's program: %w: %s", err, out)
	}
	return path, nil
}
