//go:build linux

package agent_test

import (
	"testing"
	"time"

	"github.com/runm/runm/guest/agent/agenttest"
)

// A guest whose host is gone ends itself; QEMU, told not to reboot, ends too.
func TestSessionLoss(t *testing.T) {
	vm := boot(t, agenttest.Options{})
	vm.Greet(t)
	vm.Session.Close()
	select {
	case <-vm.Exited:
	case <-time.After(20 * time.Second):
		t.Error("the guest still runs")
	}
}
