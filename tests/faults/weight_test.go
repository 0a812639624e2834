//go:build linux

package faults

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// heaviest is what a template of 512 MiB may have, in MiB: the kernel's code and
// constants are 8 of it, its table of pages 8, the agent's file 9.
const heaviest = 36

// Every clone has a copy of what its template has in memory: no padding, no space
// that nothing is in yet, no free pages.
func TestTemplateHasNoDeadWeight(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	memory, err := os.Open(filepath.Join(s.make(), "memory"))
	s.must(err)
	defer memory.Close()
	alike := map[byte]int{} // pages that are one byte again and again, by that byte
	for page := make([]byte, 4096); ; {
		_, err := io.ReadFull(memory, page)
		if err == io.EOF {
			break
		}
		s.must(err)
		if bytes.Count(page, page[:1]) == len(page) {
			alike[page[0]]++
		}
	}
	delete(alike, 0) // holes
	for b, n := range alike {
		if n > 64 {
			t.Errorf("%d pages of nothing but %#02x", n, b)
		}
	}
	if mib := s.list()[0].Bytes >> 20; mib > heaviest {
		t.Errorf("the template has %d MiB, want at most %d", mib, heaviest)
	}
	s.wantNothing()
}

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
