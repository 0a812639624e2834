//go:build linux

package network

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// atOnce is how many tests run at the same time: each boots machines, and a
// machine under TCG wants a core.
const atOnce = "2"

// runm is the binary under test, guest the program for containers.
var runm, guest string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "network")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(flag.Set("test.parallel", atOnce), findRunm(), buildGuest(dir)); err != nil {
		fmt.Fprintln(os.Stderr, "tests/network:", err)
		return 1
	}
	return m.Run()
}

func findRunm() (err error) {
	if os.Getuid() != 0 {
		return errors.New("a container runtime needs root here")
	}
	name := os.Getenv("RUNM")
	if name == "" {
		name = "../../_output/bin/runm"
	}
	if runm, err = filepath.Abs(name); err != nil {
		return err
	}
	if _, err := os.Stat(runm); err != nil {
		return fmt.Errorf("the binary under test: %w (run make all, or set RUNM)", err)
	}
	return nil
}

func buildGuest(dir string) error {
	guest = filepath.Join(dir, "guest")
	cmd := exec.Command("go", "build", "-o", guest, "./guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest's program: %w: %s", err, out)
	}
	return nil
}
