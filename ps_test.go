//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/runm/runm/libvm/monitor"
)

func TestPrintTable(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.Local)
	var out strings.Builder
	err := printTable(&out, []monitor.Process{
		{PID: 1, Started: now.Add(-time.Hour).Unix(), CPUMillis: 1800e3, TTY: "pts/0", Command: "sh"},
		{PID: 77, PPID: 1, UID: 1000, Started: now.AddDate(0, 0, -3).Unix(), CPUMillis: 90061e3, TTY: "?", Command: "sleep 1000"},
		// A clock that was set while it ran.
		{PID: 78, PPID: 1, Started: now.Add(time.Hour).Unix(), CPUMillis: 5e6, TTY: "?", Command: "[x]"},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	want := `UID          PID    PPID  C STIME TTY          TIME CMD
root           1       0 50 11:00 pts/0    00:30:00 sh
1000          77       1 34 May01 ?        1-01:01:01 sleep 1000
root          78       1 99 13:00 ?        01:23:20 [x]
`
	if out.String() != want {
		t.Errorf("\n%swant\n%s", out.String(), want)
	}
}
