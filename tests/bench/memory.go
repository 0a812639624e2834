//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/runm/runm/libvm/store"
)

// memoryTarget bounds holder and monitor together, in MiB.
const memoryTarget = 25

// memory weighs the processes of the container id: proportional set size, in
// which each shared page counts once in all who share it.
func (b *bench) memory(id string, t *table) error {
	dir, err := store.Open(b.root, id)
	if err != nil {
		return err
	}
	s, err := dir.Load()
	if err != nil {
		return err
	}
	holder, err := pss(s.Holder.Pid)
	if err != nil {
		return err
	}
	monitor, err := pss(s.Monitor.Pid)
	if err != nil {
		return err
	}
	own := newRow("memory (PSS) of holder and monitor at rest", "MiB", []float64{holder + monitor}, nil)
	t.Rows = append(t.Rows, own.aim(fmt.Sprintf("<= %d MiB", memoryTarget), own.Value <= memoryTarget))
	pids, err := children(s.Monitor.Pid)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			return err
		}
		size, err := pss(pid)
		if err != nil {
			return err
		}
		t.Rows = append(t.Rows, newRow("memory (PSS) of "+strings.TrimSpace(string(name)), "MiB", []float64{size}, nil))
	}
	return nil
}

// pss is the proportional set size of a process in MiB (proc(5),
// /proc/pid/smaps_rollup).
func pss(pid int) (float64, error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			kib, err := strconv.Atoi(f[1])
			return float64(kib) / 1024, err
		}
	}
	return 0, fmt.Errorf("%s: no Pss", path)
}

// children are the pids that parent's threads have started.
func children(parent int) ([]int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", list, err)
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
