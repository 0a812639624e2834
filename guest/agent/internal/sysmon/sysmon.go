//go:build linux

// Package sysmon calms the thread by which Go's runtime watches over a program.
package sysmon

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// slack is how much later than it wants the thread may wake up. Of 0.25, 0.5, 1, 2
// and 10 ms a warm run was shortest with 2 (docs/performance.md).
const slack = 2 * time.Millisecond

// Calm lets that thread of the calling process sleep for longer. Whenever the
// program begins to work it wants to wake up after 20 us, fifty times, and then
// after more, up to 10 ms (runtime/proc.go, sysmon). On one emulated CPU each time is
// a timer, an interrupt and four switches of threads, two of them on the host.
//
// What it does there is to let other goroutines run where one is in a system call
// that takes long: they wait for up to slack more.
func Calm() error {
	thread, err := find()
	if err == nil {
		err = os.WriteFile(slackFile(thread), strconv.AppendInt(nil, slack.Nanoseconds(), 10), 0)
	}
	if err != nil {
		return fmt.Errorf("calm Go's sysmon: %w", err)
	}
	return nil
}

// find returns the thread's id: it is the first that the runtime starts, before it
// initialises any package (runtime/proc.go, main).
func find() (int, error) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0, err
	}
	var ids []int
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return 0, err
		}
		ids = append(ids, id)
	}
	if len(ids) < 2 {
		return 0, os.ErrNotExist
	}
	slices.Sort(ids)
	return ids[1], nil
}

// slackFile has a thread's timer slack in nanoseconds (proc_pid_timerslack_ns(5)).
func slackFile(thread int) string { return "/proc/" + strconv.Itoa(thread) + "/timerslack_ns" }
