//go:build linux

package main

import (
	"strings"
	"testing"
	"time"
)

func TestPrintStates(t *testing.T) {
	s := &containerState{
		Version: "1.3.0", ID: "c1", InitProcessPid: 42, Status: "running", Bundle: "/b", Rootfs: "/b/rootfs",
		Created: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Owner: "root",
	}
	for _, c := range []struct {
		format string
		states []*containerState
		want   string
	}{
		{formatTable, nil, "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"},
		{formatTable, []*containerState{s}, "" +
			"ID          PID         STATUS      BUNDLE      CREATED                       OWNER\n" +
			"c1          42          running     /b          2026-01-02T03:04:05.000006Z   root\n"},
		{formatJSON, nil, "null\n"},
		{formatJSON, []*containerState{s}, `[{"ociVersion":"1.3.0","id":"c1","pid":42,"status":"running",` +
			`"bundle":"/b","rootfs":"/b/rootfs","created":"2026-01-02T03:04:05.000006Z","owner":"root"}]` + "\n"},
	} {
		var out strings.Builder
		if err := printStates(&out, c.format, c.states); err != nil || out.String() != c.want {
			t.Errorf("%s: %v\n%swant\n%s", c.format, err, out.String(), c.want)
		}
	}
	if err := printStates(&strings.Builder{}, "xml", nil); err == nil || err.Error() != "invalid format option" {
		t.Errorf("xml: %v", err)
	}
}
