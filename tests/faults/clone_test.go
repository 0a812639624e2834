//go:build linux

package faults

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// siblings are how many clones of one template are compared, and together how
// many run at once.
const (
	siblings = 50
	together = 4
)

// clockError is how far a container's clock may be from the host's.
const clockError = 10 * time.Millisecond

// Clones of one template have all that makes a machine another than its
// sibling, and the host's time from the first instruction of their containers.
func TestClonesAreMachinesOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	s.make()
	ids := make(chan map[string]string, siblings)
	turn := make(chan struct{}, together)
	for i := range siblings {
		c := s.container("")
		c.spec.Hostname = fmt.Sprintf("host-%d", i)
		c.spec.Process.Args = []string{"/bin/guest", "identity"}
		for _, set := range []*[]string{
			&c.spec.Process.Capabilities.Bounding, &c.spec.Process.Capabilities.Effective, &c.spec.Process.Capabilities.Permitted,
		} {
			*set = append(*set, "CAP_NET_RAW")
		}
		c.save()
		go func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			id, err := c.identity()
			if err != nil {
				t.Errorf("%s: %v", c.id, err)
			}
			os.RemoveAll(c.bundle)
			ids <- id
		}()
	}
	var all []map[string]string
	for range siblings {
		if id := <-ids; id != nil {
			all = append(all, id)
		}
	}
	for _, id := range all {
		if !strings.Contains(id["cmdline"], "runm.template") {
			t.Fatalf("a machine was not cloned: %q", id["cmdline"])
		}
	}
	for _, name := range []string{"hostname", "boot_id", "uuid", "urandom", "getrandom", "AT_RANDOM", "sequence"} {
		if n := distinct(all, name, 0); n != siblings {
			t.Errorf("%d machines have %d different %s", siblings, n, name)
		}
	}
	// Addresses and ports are drawn from less: some fall together by chance, all
	// of them if the secret is one. A time stamp has the time added to its secret,
	// in milliseconds: its upper bits are the secret's.
	for _, name := range []string{"stack", "vdso", "mmap", "port"} {
		if n := distinct(all, name, 0); n < siblings*3/4 {
			t.Errorf("%d machines have %d different %s", siblings, n, name)
		}
	}
	if n := distinct(all, "timestamp", 20); n < siblings*3/4 {
		t.Errorf("%d machines have %d different TCP time stamps", siblings, n)
	}
	s.wantNothing()
}

// distinct counts the values of a name; of a number without its lower bits.
func distinct(all []map[string]string, name string, lower int) int {
	values := map[string]bool{}
	for _, id := range all {
		v := id[name]
		if n, err := strconv.ParseUint(v, 10, 64); err == nil && lower > 0 {
			v = fmt.Sprint(n >> lower)
		}
		values[v] = true
	}
	return len(values)
}

// identity runs the container and returns what it says of itself. Its clock must
// be the host's from the beginning, and its timers as long.
func (c *container) identity() (id map[string]string, err error) {
	cmd := c.command("run", "--bundle", c.bundle, c.id)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	late := time.AfterFunc(commandTime, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	id, err = converse(in, bufio.NewReader(out))
	in.Close()
	if werr := cmd.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	return id, nil
}

// reading is what a container's clocks say, between two of the host's.
type reading struct {
	before, after time.Time
	wall, mono    int64 // nanoseconds
}

// ask asks for the clocks, after a pause.
func ask(in io.Writer, out *bufio.Reader, pause time.Duration) (r reading, err error) {
	r.before = time.Now()
	if _, err := fmt.Fprintln(in, int64(pause)); err != nil {
		return r, err
	}
	answer, err := out.ReadString('\n')
	r.after = time.Now()
	if err == nil {
		_, err = fmt.Sscan(answer, &r.wall, &r.mono)
	}
	return r, err
}

// right says whether the wall clock was the host's: it was read between the
// question and the answer.
func (r reading) right() error {
	wall := time.Unix(0, r.wall)
	if wall.Before(r.before.Add(-clockError)) || wall.After(r.after.Add(clockError)) {
		return fmt.Errorf("its clock says %v, the host's %v to %v", wall, r.before, r.after)
	}
	return nil
}

func converse(in io.Writer, out *bufio.Reader) (id map[string]string, err error) {
	line, err := out.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(line, &id); err != nil {
		return nil, err
	}
	var begun reading
	if _, err := fmt.Sscan(id["begun"], &begun.wall, &begun.mono); err != nil {
		return nil, err
	}
	for range 5 {
		r, err := ask(in, out, 0)
		if err == nil {
			err = r.right()
		}
		if err != nil {
			return nil, err
		}
		// And nobody has set it since the container's first instruction.
		if step := time.Duration((r.wall - r.mono) - (begun.wall - begun.mono)).Abs(); step > clockError {
			return nil, fmt.Errorf("its clock was set by %v after it had begun", step)
		}
	}
	const pause = 200 * time.Millisecond
	first, err := ask(in, out, 0)
	if err != nil {
		return nil, err
	}
	last, err := ask(in, out, pause)
	if err != nil {
		return nil, err
	}
	took := time.Duration(last.mono - first.mono)
	least, most := last.before.Sub(first.after), last.after.Sub(first.before)
	if took < pause || took < least-clockError || took > most+clockError {
		return nil, fmt.Errorf("a pause of %v took %v by its clock, and %v to %v by the host's", pause, took, least, most)
	}
	return id, nil
}
