//go:build linux

package agent_test

import (
	"context"
	"math"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/agent/agenttest"
	"github.com/runm/runm/guest/api"
)

// moveClock asks for the clock's move and returns how far the clock then is ahead
// of the host's, at least and at most.
func moveClock(t *testing.T, vm *agenttest.VM, by time.Duration, slew bool) (least, most time.Duration) {
	t.Helper()
	least, most = math.MinInt64, math.MaxInt64
	for range 20 {
		before := time.Now()
		r, err := vm.SetClock(t.Context(), &api.SetClockRequest{StepNano: by.Nanoseconds(), Slew: slew})
		if err != nil {
			t.Fatal(err)
		}
		after := time.Now()
		now := time.Unix(0, r.GetUnixNano())
		least, most = max(least, now.Sub(after)), min(most, now.Sub(before))
		by = 0
	}
	return least, most
}

// A step is made at once. Slewing moves the clock too, and takes its time.
func testClock(t *testing.T, vm *agenttest.VM) {
	wasLeast, wasMost := moveClock(t, vm, 0, false)
	if least, most := moveClock(t, vm, time.Hour, false); most-wasLeast < time.Hour || least-wasMost > time.Hour {
		t.Errorf("a step by an hour was one by %v to %v", least-wasMost, most-wasLeast)
	}
	wasLeast, wasMost = moveClock(t, vm, -time.Hour, false)
	if least, _ := moveClock(t, vm, time.Minute, true); least-wasMost > time.Second {
		t.Errorf("slewing by a minute was a step by %v at least", least-wasMost)
	}
	for late := time.Now().Add(30 * time.Second); ; {
		least, most := moveClock(t, vm, 0, false)
		if least > wasMost {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("not slewed: ahead by %v to %v, before by %v to %v", least, most, wasLeast, wasMost)
		}
	}
	moveClock(t, vm, -(wasLeast+wasMost)/2, false) // ends it
}

// How long a program has had for its handlers does not depend on what the clock
// was set to meanwhile.
func testSignalAfterClock(t *testing.T, vm *agenttest.VM) {
	started(t, vm, "set", sh("set", "sleep 1000"))
	moveClock(t, vm, -time.Hour, false)
	defer moveClock(t, vm, time.Hour, false)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := vm.Signal(ctx, &api.SignalRequest{Id: "set", Signal: uint32(unix.SIGTERM)}); err != nil {
		t.Error(err)
	}
	if _, err := vm.Signal(t.Context(), &api.SignalRequest{Id: "set", Signal: uint32(unix.SIGKILL), All: true}); err != nil {
		t.Fatal(err)
	}
	vm.MustWait(t, "set", "")
	if _, err := vm.Delete(t.Context(), &api.ContainerRequest{Id: "set"}); err != nil {
		t.Error(err)
	}
}
