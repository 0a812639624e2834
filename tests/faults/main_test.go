//go:build linux

package faults

import (
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

// tools are the programs that the tests run, as absolute paths.
var tools struct{ runm, guest string }

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	if err := flag.Set("test.parallel", atOnce); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := findTools(dir); err != nil {
		fmt.Fprintln(os.Stderr, "tests/faults:", err)
		return 1
	}
	return m.Run()
}

// findTools finds the runtime and builds the program for guests in dir.
func findTools(dir string) (err error) {
	if os.Getuid() != 0 {
		return fmt.Errorf("a container runtime needs root here")
	}
	runm := os.Getenv("RUNM")
	if runm == "" {
		runm = "../../_output/bin/runm"
	}
	if tools.runm, err = filepath.Abs(runm); err != nil {
		return err
	}
	if _, err := os.Stat(tools.runm); err != nil {
		return fmt.Errorf("the binary under test: %w (run make all, or set RUNM)", err)
	}
	tools.guest = filepath.Join(dir, "guest")
	cmd := exec.Command("go", "build", "-o", tools.guest, "./guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest's program: %w: %s", err, out)
	}
	return nil
}
