//go:build linux

package faults

import (
	"regexp"
	"strconv"
	"testing"
)

// What a clone frees goes back to the host and is not kept in lists.
func TestCloneKeepsNoFreePages(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	s.make()
	c := s.container("cat /proc/cmdline /proc/zoneinfo; echo up; exec sleep 1000")
	c.up()
	out := c.read("stdout")
	contains(t, out, "runm.template")
	lists := regexp.MustCompile(`(?m)^ +high: +(\d+)\n +batch: +(\d+)$`).FindAllStringSubmatch(out, -1)
	if len(lists) == 0 {
		t.Fatalf("no lists of free pages in %q", out)
	}
	for _, l := range lists {
		high, _ := strconv.Atoi(l[1])
		if batch, _ := strconv.Atoi(l[2]); high > 4*batch {
			t.Errorf("a CPU keeps up to %d free pages, want 4 times %d", high, batch)
		}
	}
	c.runs("delete", "--force", c.id)
	s.wantNothing()
}
