//go:build linux

// Command agent is process 1 of the guest. Build it static:
//
//	CGO_ENABLED=1 go build -tags 'seccomp netgo osusergo runc_nocriu' \
//	    -ldflags '-s -w -extldflags -static' -o _output/agent ./guest/cmd/agent
//
// The guest's CPUs are all the agent's: it need not read its cgroup's limit, nor
// look for a new one every second.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import "github.com/runm/runm/guest/agent"

func main() { agent.Main() }
