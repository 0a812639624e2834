package qemu_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/libvm/vmm/vmmtest"
)

// TestTrim: what TCG has translated is given back, whichever and however many
// virtual CPUs there are, and also where no balloon wakes the guest.
func TestTrim(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("nothing is given back on " + runtime.GOARCH)
	}
	d := driver(t)
	for name, change := range map[string]func(*vmm.Config){
		"one CPU":  func(*vmm.Config) {},
		"two CPUs": func(c *vmm.Config) { c.CPUs = 2 },
		"no slot for a balloon": func(c *vmm.Config) {
			for i := range 5 {
				c.Shares = append(c.Shares, vmm.Share{Type: vmm.Share9p, Tag: strconv.Itoa(i), Path: c.Shares[0].Path})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(vmmtest.Kernel(t), vmmtest.Initrd(t), t.TempDir())
			change(cfg)
			g := vmmtest.Boot(t, d, cfg)
			defer g.End()
			g.Do("mount virtiofs share")
			before := translations(t, g)
			ctx, cancel := context.WithTimeout(t.Context(), vmmtest.Timeout)
			defer cancel()
			began := time.Now()
			if err := g.Machine.(vmm.Trimmer).Trim(ctx); err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			// The guest has executed something meanwhile.
			after := translations(t, g)
			t.Logf("%d KiB became %d in %v", before, after, took)
			if after > before/4 {
				t.Errorf("of %d KiB of translations %d are left", before, after)
			}
			if got := g.Do("ls /"); !strings.Contains(got, "proc") {
				t.Errorf("after the trim there is %q", got)
			}
			// What is not worth it is left.
			before = translations(t, g)
			if err := g.Machine.(vmm.Trimmer).Trim(ctx); err != nil {
				t.Fatal(err)
			}
			if after := translations(t, g); before < 6<<10 && after < before {
				t.Errorf("%d KiB of translations became %d", before, after)
			}
		})
	}
}

// TestTrimOfOneThatEnds: a machine that is killed meanwhile ends as any other, and
// whoever trims it hears of it.
func TestTrimOfOneThatEnds(t *testing.T) {
	d := driver(t)
	for delay := time.Duration(0); delay <= 25*time.Millisecond; delay += 5 * time.Millisecond {
		g := vmmtest.Boot(t, d, config(vmmtest.Kernel(t), vmmtest.Initrd(t), t.TempDir()))
		g.Do("mount virtiofs share")
		trimmed := make(chan error)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), vmmtest.Timeout)
			defer cancel()
			trimmed <- g.Machine.(vmm.Trimmer).Trim(ctx)
		}()
		time.Sleep(delay) // into one of the steps, whichever
		g.End()
		t.Logf("killed after %v: %v", delay, <-trimmed)
	}
}

// translations is what QEMU has of its buffer of translations, in KiB.
func translations(t *testing.T, g *vmmtest.Guest) int {
	t.Helper()
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", g.Machine.(vmm.Processes).Pids()[0]))
	if err != nil {
		t.Fatal(err)
	}
	kib, inside, found := 0, false, false
	for line := range bytes.Lines(smaps) {
		f := strings.Fields(string(line))
		switch {
		case !strings.HasSuffix(f[0], ":"):
			inside = f[1] == "rwxp"
			found = found || inside
		case inside && f[0] == "Pss:":
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			kib += n
		}
	}
	if !found {
		t.Fatal("QEMU has no buffer of translations")
	}
	return kib
}
