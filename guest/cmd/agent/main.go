//go:build linux

// Command agent is process 1 of the guest. hack/agent.sh builds it, static and
// with the patches of guest/patches.
//
// The guest's CPUs are all the agent's: it need not read its cgroup's limit, nor
// look for a new one every second.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import "github.com/runm/runm/guest/agent"

func main() { agent.Main() }
