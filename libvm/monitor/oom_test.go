//go:build linux

package monitor

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/libvm/proc"
)

func TestOOMScoreAdj(t *testing.T) {
	for _, c := range []struct {
		set             *int
		inherited, want int
	}{
		{nil, 0, 0},
		{nil, -998, 0}, // a daemon's
		{nil, -1000, 0},
		{nil, 300, 300}, // choom(1)
		{ptr(500), 0, 500},
		{ptr(0), 300, 0},
		{ptr(-998), 0, -998},
	} {
		p := newPod(t)
		p.inherited = c.inherited
		one := p.add("one", 0)
		one.state.Spec.Process.OOMScoreAdj = c.set
		if got := p.oomScoreAdj(one); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// A pod's machine is as likely to be killed as the container in it that is the
// most, whoever comes and goes; a holder is as its own.
func TestOOMScoreAdjOfAPod(t *testing.T) {
	own, err := proc.OOMScoreAdj()
	if err != nil {
		t.Fatal(err)
	}
	// Nobody may set less than the least that was set for this process.
	more := func(n int) *int { return ptr(min(max(0, own)+n, 1000)) }
	p := newPod(t)
	vmm, daemon := sleeper(t), sleeper(t)
	p.guest.machine = carriers{pids: []int{vmm, gone(t), daemon}}
	want := func(when string, score int) {
		t.Helper()
		for _, pid := range []int{vmm, daemon} {
			if got := scoreOf(t, pid); got != score {
				t.Errorf("%s: a process of the machine has %d, want %d", when, got, score)
			}
		}
	}
	enter := func(id string, score *int) (c *container, holder int) {
		t.Helper()
		c = p.add(id, 0)
		c.log.SetOutput(io.Discard)
		c.setup.Spec.Process = &specs.Process{OOMScoreAdj: score}
		holder = sleeper(t)
		if c.state.Holder, err = proc.Find(holder); err != nil {
			t.Fatal(err)
		}
		if err := p.scoreHolder(c); err != nil {
			t.Fatal(err)
		}
		if err := p.scoreMachine(c); err != nil {
			t.Fatal(err)
		}
		return c, holder
	}
	_, h1 := enter("sandbox", more(100))
	want("alone", *more(100))
	second, h2 := enter("second", more(700))
	want("a second", *more(700))
	third, h3 := enter("third", more(400))
	want("a third", *more(700))
	_, h4 := enter("fourth", nil)
	want("a fourth, without a score", *more(700))
	for holder, score := range map[int]int{h1: *more(100), h2: *more(700), h3: *more(400), h4: own} {
		if got := scoreOf(t, holder); got != score {
			t.Errorf("a holder has %d, want %d", got, score)
		}
	}
	p.forget(second)
	want("without the second", *more(400))
	p.forget(third)
	want("without the third", *more(100))
}

// carriers is a machine of several processes.
type carriers struct {
	carried
	pids []int
}

func (c carriers) Pids() []int { return c.pids }

func scoreOf(t *testing.T, pid int) (score int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err == nil {
		_, err = fmt.Fscan(strings.NewReader(string(data)), &score)
	}
	if err != nil {
		t.Fatal(err)
	}
	return score
}
