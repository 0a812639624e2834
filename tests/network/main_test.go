//go:build linux

package network

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/runm/runm/tests/internal/programs"
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
	if err := errors.Join(flag.Set("test.parallel", atOnce), findPrograms(dir)); err != nil {
		fmt.Fprintln(os.Stderr, "tests/network:", err)
		return 1
	}
	return m.Run()
}

// findPrograms finds runm and builds guest in dir.
func findPrograms(dir string) (err error) {
	if runm, err = programs.Runm(); err != nil {
		return err
	}
	guest, err = programs.BuildGuest(dir)
	return err
}
