//go:build linux

// Package agent is process 1 of the guest. It mounts what the guest needs,
// serves the protocol of guest/api on the machine's stream, and runs containers
// with opencontainers/runc's libcontainer. When the stream is lost, so is the
// guest: it powers off.
//
// It must be linked statically with the tags seccomp, netgo, osusergo,
// runc_nocriu and, with guest/patches, patched; see hack/agent.sh.
package agent

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	_ "github.com/opencontainers/cgroups/devices" // device rules of containers

	"github.com/runm/runm/guest/agent/internal/mux"
	_ "github.com/runm/runm/guest/agent/internal/runcinit" // first: "init" re-executions end here
	"github.com/runm/runm/guest/agent/internal/sysmon"
	"github.com/runm/runm/guest/api"
)

// memoryLimit is what the Go runtime of the agent may use before it collects
// garbage in earnest, in bytes. gcPercent lets the small live heap (some 3 MiB)
// grow until then: collections are cold code in the middle of a start.
const (
	memoryLimit = 64 << 20
	gcPercent   = 800
)

// Main runs the agent. It never returns: whatever happens ends in a powered off
// guest, with the reason on the console.
func Main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "agent: not process 1 of a guest")
		os.Exit(1)
	}
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	defer powerOff()
	defer func() {
		if r := recover(); r != nil {
			logf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	if err := run(); err != nil {
		logf("%v", err)
	}
}

// run boots the guest's user space and serves until the host is gone.
func run() error {
	trace := &recorder{}
	trace.add(&api.Span{Name: "kernel, and the agent's own start", End: monotonic()})
	end := trace.span("file systems")
	if err := boot(); err != nil {
		return err
	}
	if err := sysmon.Calm(); err != nil {
		logf("%v", err)
	}
	end()
	end = trace.span("network interfaces")
	nics, err := setAside()
	if err != nil {
		return fmt.Errorf("network interfaces: %w", err)
	}
	end()
	end = trace.span("server")
	s, err := newServer(nics)
	if err != nil {
		return err
	}
	template, err := isTemplate()
	if err != nil {
		return err
	}
	end()
	if template {
		end = trace.span("what a template does once")
		s.prepare()
		end()
	}
	s.boot = trace
	// The last step: whoever saves the machine takes it for the sign that it
	// is ready.
	port, err := openPort(api.PortName)
	if err != nil {
		return err
	}
	return s.serve(mux.New(port, api.StreamWindow, portWrite))
}

// logf writes one line to the console.
func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "agent: "+format+"\n", args...)
}

// errSessionLost is why an agent that worked ends.
var errSessionLost = errors.New("the host closed the stream")
