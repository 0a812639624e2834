//go:build linux

package network

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// atOnce is how many tests run at the same time: each boots machines, and a
// machine under TCG wants a core.
const atOnce = "2"

// runm is the binary under test.
var runm string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	if err := errors.Join(flag.Set("test.parallel", atOnce), findRunm()); err != nil {
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
