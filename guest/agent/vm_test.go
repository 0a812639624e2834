package agent_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/runm/runm/guest/agent/agenttest"
)

// guest is what TestMain found to boot, or why nothing.
type guest struct {
	files *agenttest.Files
	err   error
}

var built guest // set once by TestMain

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "agenttest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	built.files, built.err = agenttest.Find(dir)
	return m.Run()
}

// boot starts a guest, or skips the test where none can run.
func boot(t testing.TB, o agenttest.Options) *agenttest.VM {
	t.Helper()
	if errors.Is(built.err, agenttest.ErrMissing) {
		t.Skip(built.err)
	}
	if built.err != nil {
		t.Fatal(built.err)
	}
	return agenttest.Boot(t, built.files, o)
}

func TestRun(t *testing.T) {
	vm := boot(t, agenttest.Options{})
	hello := vm.Greet(t)
	t.Logf("kernel %s, %d MiB", hello.GetKernelRelease(), hello.GetMemoryBytes()>>20)
	vm.Rootfs(t, "c1")
	out, errs, status := vm.Run(t, "c1", agenttest.Spec("c1", "sh", "-c", "cat; echo err >&2; exit 7"), "hello\n")
	if out != "hello\n" || errs != "err\n" || status != 7 {
		t.Errorf("got %q %q %d, want \"hello\\n\" \"err\\n\" 7", out, errs, status)
	}
}
