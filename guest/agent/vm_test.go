//go:build linux

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

// TestGuest runs everything that can share one guest in it.
func TestGuest(t *testing.T) {
	vm := boot(t, agenttest.Options{})
	hello := vm.Greet(t)
	if hello.GetKernelRelease() == "" || hello.GetMemoryBytes() < 256<<20 || len(hello.GetFilesystems()) < 5 {
		t.Errorf("hello: %v", hello)
	}
	for _, c := range []struct {
		name string
		test func(*testing.T, *agenttest.VM)
	}{
		{"hello again", testHelloAgain},
		{"run", testRun},
		{"inherits nothing of the agent", testInherit},
		{"errors", testErrors},
		{"exec", testExec},
		{"background process", testBackground},
		{"terminal", testTerminal},
		{"hang-up", testHangUp},
		{"broken pipe", testBrokenPipe},
		{"stdin closed by reader", testStdinUnread},
		{"signals", testSignals},
		{"shared pid namespace", testSharedPID},
		{"pause", testPause},
		{"stats and ps", testStats},
		{"update", testUpdate},
		{"oom", testOOM},
		{"sysctl", testSysctl},
		{"user namespace", testUserNamespace},
		{"hook", testHook},
		{"orphans", testOrphans},
		{"rtnetlink", testRtnetlink},
		{"clock", testClock},
		{"signal after the clock was set", testSignalAfterClock},
		{"resolver", testResolver},
		{"flood", testFlood},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, vm) })
	}
}
