//go:build linux

package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/ttrpc"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runc/libcontainer/system"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/runm/runm/guest/api"
)

// isTemplate reports whether this machine will be saved and cloned.
func isTemplate() (bool, error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false, fmt.Errorf("kernel parameters: %w", err)
	}
	return slices.Contains(strings.Fields(string(cmdline)), api.TemplateParameter), nil
}

// prepare does before a machine is saved what its clones then need not do. What
// it cannot do they do, as a booted machine does.
func (s *server) prepare() {
	if err := shortPageLists(); err != nil {
		logf("lists of free pages: %v", err)
	}
	if err := s.spare.start(); err != nil {
		logf("spare init: %v", err)
	}
	if err := s.spareCgroups.start(); err != nil {
		logf("spare cgroups: %v", err)
	}
	if err := fillCaches(); err != nil {
		logf("caches: %v", err)
	}
	makeThreads()
}

// shortPageLists has each CPU keep as few free pages for itself as the kernel
// allows, half a MiB. Such a list is as long as the machine was ever busy,
// up to some MiB, and what is in it is not given back to the host: a clone would
// copy it, and add its own (Linux, Documentation/admin-guide/sysctl/vm.rst;
// zone_highsize).
//
// A list that is longer already shrinks by an eighth each time that the CPU's
// counters are added up (mm/page_alloc.c, decay_pcp_high), which rest makes rare:
// here that is done until hardly anything is left of the longest.
func shortPageLists() error {
	if err := os.WriteFile("/proc/sys/vm/percpu_pagelist_high_fraction", []byte("1000000"), 0); err != nil {
		return err
	}
	const times = 40 // (7/8)^40 is 0.5 %
	for range times {
		if err := os.WriteFile("/proc/sys/vm/stat_refresh", []byte("1"), 0); err != nil {
			return err
		}
	}
	return nil
}

// makeThreads leaves Go's scheduler with idle threads, about as many as it needs
// until a container runs.
func makeThreads() {
	const threads = 6
	var arrived, gone sync.WaitGroup
	leave := make(chan struct{})
	for range threads {
		arrived.Add(1)
		gone.Go(func() {
			runtime.LockOSThread() // a thread for each, all at once
			defer runtime.UnlockOSThread()
			arrived.Done()
			<-leave
		})
	}
	arrived.Wait()
	close(leave)
	gone.Wait()
}

// fillCaches has packages do what they do once, the first time, in every Hello and
// Create: protobuf and JSON look at the types of what they decode (JSON also at
// all types below the one that it encodes), libcontainer makes tables and looks at
// the kernel.
func fillCaches() error {
	if err := os.MkdirAll(stateRoot, 0o700); err != nil {
		return err
	}
	if _, err := system.Stat(os.Getpid()); err != nil { // opens a procfs of its own
		return err
	}
	specconv.KnownMountOptions()
	cgroups.IsCgroup2UnifiedMode()
	for _, ns := range configs.NamespaceTypes() {
		configs.IsNamespaceSupported(ns)
	}
	messages := []proto.Message{&ttrpc.Request{}, &ttrpc.Response{}}
	for list, i := api.File_agent_proto.Messages(), 0; i < list.Len(); i++ {
		t, err := protoregistry.GlobalTypes.FindMessageByName(list.Get(i).FullName())
		if err != nil {
			return fmt.Errorf("%s: %w", list.Get(i).FullName(), err)
		}
		messages = append(messages, t.New().Interface())
	}
	for _, m := range messages {
		content, err := proto.Marshal(m)
		if err != nil {
			return fmt.Errorf("%T: %w", m, err)
		}
		if err := proto.Unmarshal(content, m); err != nil {
			return fmt.Errorf("%T: %w", m, err)
		}
	}
	if _, err := json.Marshal(&specs.Spec{}); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	return nil
}
