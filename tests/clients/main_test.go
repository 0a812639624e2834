//go:build linux

package clients

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/runm/runm/tests/internal/programs"
)

// atOnce is how many clients are driven at the same time: each boots machines,
// and a machine under TCG wants a core.
const atOnce = "2"

// tools are what the tests run, as absolute paths.
var tools struct {
	runtimes map[string]string // runc, runm
	built    string            // programs of hack/clients.sh, by client
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	err := flag.Set("test.parallel", atOnce)
	if err == nil {
		err = findTools()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests/clients:", err)
		return 1
	}
	return m.Run()
}

func findTools() error {
	runm, err := programs.Runm()
	if err != nil {
		return err
	}
	// It installs and builds what is missing, and prints where.
	cmd := exec.Command("../../hack/clients.sh")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("hack/clients.sh: %w", err)
	}
	tools.built = strings.TrimSpace(string(out))
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	tools.runtimes = map[string]string{"runc": runc, "runm": runm}
	return nil
}
