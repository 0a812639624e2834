//go:build linux

// Command agent is process 1 of the guest. Build it static:
//
//	CGO_ENABLED=1 go build -tags 'seccomp netgo osusergo runc_nocriu' \
//	    -ldflags '-s -w -extldflags -static' -o _output/agent ./guest/cmd/agent
package main

import "github.com/runm/runm/guest/agent"

func main() { agent.Main() }
