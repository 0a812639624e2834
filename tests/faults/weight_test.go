//go:build linux

package faults

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	// The CPU's list of free pages, which has what was freed last, is half a MiB
	// (guest/agent, shortPageLists).
	const list, some = 128, 64
	for b, n := range alike {
		if n > list+some {
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

// A container that does nothing takes no processor time: its machine comes to rest,
// whether booted or cloned.
func TestIdleContainerRests(t *testing.T) {
	t.Parallel()
	for _, template := range []string{"off", "on"} {
		t.Run("template "+template, func(t *testing.T) {
			t.Parallel()
			s := warm(t, "")
			c := s.container("echo up; exec sleep 1000")
			if template == "off" {
				c.spec.Annotations = map[string]string{"dev.runm.template": "off"}
			} else {
				s.make()
			}
			c.up()
			qemu := c.processes()["qemu"]
			// Free pages are reported for some seconds, and the clock is looked at
			// once a minute; what wakes without an end is never quiet for so long.
			const quiet, most = 5 * time.Second, 10
			waitFor(t, "the machine rests", commandTime, func() bool {
				before, sum := sleeps(t, qemu), 0
				<-time.After(quiet)
				for thread, n := range sleeps(t, qemu) {
					sum += n - before[thread]
				}
				return sum <= most
			})
			c.runs("delete", "--force", c.id)
			s.wantNothing()
		})
	}
}

// What TCG has translated of a guest that has done nothing for a minute goes back to
// the host, and the container does not notice.
func TestIdleContainerGivesTranslationsBack(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	s.make()
	c := s.container("")
	c.setsClock()
	k := c.clocks(func() {})
	qemu := c.processes()["qemu"]
	full := translations(t, qemu)
	waitFor(t, "most translations have gone", idleTime, func() bool { return translations(t, qemu) < full/2 })
	// What it stood still for, its clock is behind for a moment.
	waitFor(t, "the clock is right", soon, func() bool { return k.wrong() == nil })
	contains(t, c.runs("exec", c.id, "cat", "/proc/cmdline"), "runm.template")
	c.runs("pause", c.id)
	c.runs("resume", c.id)
	waitFor(t, "the clock is right after a pause", soon, func() bool { return k.wrong() == nil })
	c.runs("delete", "--force", c.id)
	s.wantNothing()
}

// idleTime is when an idle machine has long been found to be idle: it is looked at
// each minute, and is not while the host is busy with what began before.
const idleTime = 4 * time.Minute

// translations is what a QEMU has of the guest's code, translated by TCG, in KiB.
func translations(t *testing.T, pid int) int {
	t.Helper()
	smaps, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^[0-9a-f]+-[0-9a-f]+ rwxp .*\n(?:[A-Z].*\n)*?Pss: +(\d+) kB$`).FindAllSubmatch(smaps, -1)
	if len(found) == 0 {
		t.Fatal("QEMU has no buffer of translations")
	}
	kib := 0
	for _, m := range found {
		n, _ := strconv.Atoi(string(m[1]))
		kib += n
	}
	return kib
}

// sleeps is how often each thread of a process has gone to sleep.
func sleeps(t *testing.T, pid int) map[string]int {
	t.Helper()
	files, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/status")
	if err != nil || len(files) == 0 {
		t.Fatalf("threads of %d: %d, %v", pid, len(files), err)
	}
	threads := map[string]int{}
	for _, name := range files {
		status, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended: QEMU keeps threads for its files for some seconds
		}
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?m)^voluntary_ctxt_switches:\t(\d+)$`).FindSubmatch(status)
		if m == nil {
			t.Fatalf("%s: %q", name, status)
		}
		threads[name], _ = strconv.Atoi(string(m[1]))
	}
	return threads
}
