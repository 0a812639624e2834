//go:build linux

package faults

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/runm/runm/tests/internal/programs"
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
	if tools.runm, err = programs.Runm(); err != nil {
		return err
	}
	tools.guest, err = programs.BuildGuest(dir)
	return err
}
