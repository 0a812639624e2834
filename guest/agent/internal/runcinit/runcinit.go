//go:build linux

// Package runcinit takes over when the agent's binary was re-executed by
// libcontainer as "init", the process that becomes a container's.
//
// It is the one package of ours with an init function: Go initialises packages
// as soon as their imports are ready, in the order of their paths, so from here
// libcontainer.Init runs before ttrpc, grpc, protobuf and the rest of the agent
// were initialised. That code is cold on the start path and costs milliseconds
// under TCG.
package runcinit

import (
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces before Go runs

	"github.com/runm/runm/guest/agent/internal/sysmon"
)

func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		// It lives for milliseconds: collecting garbage is not worth it.
		debug.SetGCPercent(-1)
		// Else it is slower, and no more.
		_ = sysmon.Calm()
		// What it executes has the slack of this thread, which has that of a thread
		// of the agent's: sysmon may have made it. 50 us is Linux's own.
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 50_000, 0, 0, 0)
		libcontainer.Init() // never returns
	}
}
