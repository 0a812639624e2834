//go:build linux

package monitor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/cgroup"
	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/libvm/vmm"
)

const mib = 1 << 20

// updating is an agent that notes what it is asked, and answers when it is told.
type updating struct {
	api.AgentService
	asked  chan *api.UpdateRequest
	answer chan error
}

func (u *updating) Update(_ context.Context, r *api.UpdateRequest) (*api.Empty, error) {
	u.asked <- r
	return &api.Empty{}, <-u.answer
}

// group is a cgroup that keeps the memory limit last set, 0 for none.
type group struct {
	hostCgroup
	memory int64
	limits map[string]int64 // of all, by container
	id     string
	joined []int
}

func (g *group) Join(pid int) error   { g.joined = append(g.joined, pid); return nil }
func (g *group) Limit() error         { g.limits[g.id] = g.memory; return nil }
func (g *group) Pids() ([]int, error) { return nil, nil }

// pod is a monitor whose owner is the test, with a machine of 512 MiB and the
// agent in it.
type pod struct {
	*monitor
	t      *testing.T
	agent  *updating
	limits map[string]int64
}

func newPod(t *testing.T) *pod {
	p := &pod{t: t, agent: &updating{asked: make(chan *api.UpdateRequest), answer: make(chan error)}, limits: map[string]int64{}}
	p.monitor = &monitor{
		guest: &guest{agent: p.agent}, containers: map[string]*container{}, results: make(chan func(), 16),
		cgroupOf: func(s *store.State) (hostCgroup, error) {
			g := &group{id: s.ID, limits: p.limits, memory: memoryLimit(s.Spec)}
			if g.memory > 0 {
				g.memory += s.OverheadBytes
			}
			return g, nil
		},
	}
	return p
}

// add takes in a created container with a memory limit.
func (p *pod) add(id string, limit int64) *container {
	p.t.Helper()
	dir, err := store.Create(p.t.TempDir(), id)
	if err != nil {
		p.t.Fatal(err)
	}
	s := &Setup{ID: id, Spec: &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: memory(limit)}}}
	if p.setup == nil {
		p.setup = s
		p.setup.Plan.Machine.MemoryMiB = 512
	}
	c := &container{id: id, setup: s, status: specs.StateRunning, log: logrus.New(), dir: dir, state: &store.State{ID: id, Spec: s.Spec}}
	c.holder, _ = connection(p.t)
	p.containers[id] = c
	if err := p.share(c); err != nil {
		p.t.Fatal(err)
	}
	if c.cgroup, err = p.cgroupOf(c.state); err != nil {
		p.t.Fatal(err)
	}
	return c
}

func memory(limit int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
}

// update asks for r and returns where the answer will be.
func (p *pod) update(c *container, r *specs.LinuxResources) *control.Conn {
	p.t.Helper()
	ours, theirs := connection(p.t)
	p.monitor.update(c, request{Request: Request{Op: OpUpdate, ID: c.id, Resources: r}, conn: theirs})
	return ours
}

// asked waits until the guest is told.
func (p *pod) asked() *api.UpdateRequest {
	p.t.Helper()
	select {
	case r := <-p.agent.asked:
		return r
	case <-time.After(10 * time.Second):
		p.t.Fatal("the guest is not told")
		return nil
	}
}

// connection is both ends of one.
func connection(t *testing.T) (ours, theirs *control.Conn) {
	t.Helper()
	a, b, err := control.Pair()
	if err == nil {
		ours, err = control.NewConn(a)
	}
	if err == nil {
		theirs, err = control.NewConn(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	return ours, theirs
}

// finish lets the guest answer, and the owner go on.
func (p *pod) finish(conn *control.Conn) Reply {
	p.t.Helper()
	p.agent.answer <- nil
	(<-p.results)()
	return reply(p.t, conn)
}

func reply(t *testing.T, conn *control.Conn) Reply {
	t.Helper()
	var a Reply
	if _, err := conn.Recv(&a); err != nil {
		t.Fatal(err)
	}
	return a
}

func saved(t *testing.T, c *container) *store.State {
	t.Helper()
	s, err := c.dir.Load()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A container joins the machine while the guest is being told new limits of the
// one that is there.
func TestUpdateWhileAnotherJoins(t *testing.T) {
	p := newPod(t)
	c := p.add("first", 256*mib)
	conn := p.update(c, memory(128*mib))
	p.asked()
	p.add("second", 64*mib)
	if a := p.finish(conn); a.Error != "" {
		t.Fatal(a.Error)
	}
	s := saved(t, c)
	if !s.Pod {
		t.Error("it is in a pod, and its state does not say so: delete would end the others' monitor")
	}
	if got := memoryLimit(s.Spec); got != 128*mib {
		t.Errorf("the limit in its state is %d MiB, want the new one, 128", got/mib)
	}
}

// The machine moves into a container's cgroup while the guest is being told its
// new limits.
func TestUpdateWhileTheMachineMoves(t *testing.T) {
	p := newPod(t)
	first, second := p.add("first", 256*mib), p.add("second", 64*mib)
	conn := p.update(second, memory(128*mib))
	p.asked()
	if err := p.moveMachine(second); err != nil {
		t.Fatal(err)
	}
	p.forget(first)
	if a := p.finish(conn); a.Error != "" {
		t.Fatal(a.Error)
	}
	if got, want := p.limits["second"], int64(512*mib+cgroup.VMMMemoryBytes); got != want {
		t.Errorf("the cgroup that has the machine has a limit of %d MiB, want %d", got/mib, want/mib)
	}
	s := saved(t, second)
	if want := int64(512-128)*mib + cgroup.VMMMemoryBytes; s.OverheadBytes != want || !s.Pod {
		t.Errorf("its state has an overhead of %d MiB and pod %v, want %d MiB and true", s.OverheadBytes/mib, s.Pod, want/mib)
	}
}

// The machine ends with its only container while create still asks for another
// one in it.
func TestStepAfterTheMachinesEnd(t *testing.T) {
	p := newPod(t)
	p.add("first", 64*mib)
	joining := p.add("second", 64*mib)
	ours, theirs := connection(t)
	joining.create, joining.status = theirs, specs.StateCreating
	joining.making, joining.cancel = context.WithCancelCause(t.Context())
	p.guest.machine, p.guest.gone = deadMachine{}, make(chan error, 1)
	p.guest.gone <- nil
	p.wiring = &wiring{quit: make(chan struct{}), closed: make(chan error, 1)}
	p.wiring.closed <- nil
	p.endMachine()
	p.step(joining, Step{Kind: StepCommit})
	var answer Step
	if _, err := ours.Recv(&answer); err != nil || answer.Kind != StepFailed || answer.Error != errMachineEnded.Error() {
		t.Errorf("commit is answered by %+v, %v, want %q", answer, err, errMachineEnded)
	}
	if p.containers["second"] != nil {
		t.Error("it is a container of a machine that has ended")
	}
	p.endMachine() // as the last one's end does
}

// What moves with the machine is what carries it, and nothing else.
func TestTheMachineMoves(t *testing.T) {
	p := newPod(t)
	p.add("first", 0)
	second := p.add("second", 0)
	vmm, daemon := sleeper(t), sleeper(t)
	p.guest.machine = carriers{pids: []int{vmm, gone(t), daemon}}
	if err := p.moveMachine(second); err != nil {
		t.Fatal(err)
	}
	if got, want := second.cgroup.(*group).joined, []int{vmm, daemon}; !slices.Equal(got, want) {
		t.Errorf("the new cgroup is joined by %v, want %v", got, want)
	}
	if p.payer != second {
		t.Error("it does not pay")
	}
}

type deadMachine struct{ vmm.Machine }

func (deadMachine) Kill() {}

// A container that ends meanwhile is not written down again: it may be deleted.
func TestUpdateOfOneThatEnds(t *testing.T) {
	p := newPod(t)
	c := p.add("first", 256*mib)
	conn := p.update(c, memory(128*mib))
	p.asked()
	delete(p.containers, c.id)
	if a := p.finish(conn); a.Code != CodeEnded {
		t.Errorf("answered %+v, want the code %q", a, CodeEnded)
	}
	if len(p.limits) > 0 {
		t.Errorf("limits were set: %v", p.limits)
	}
}

// Memory cannot grow beyond the machine's, but what create accepted stays.
func TestUpdateOfMemory(t *testing.T) {
	const unlimited = 9223372036854771712 // what cgroup v1 shows for no limit
	for _, c := range []struct {
		name    string
		has     int64
		given   int64
		refused bool
	}{
		{"within the machine", 256 * mib, 512 * mib, false},
		{"more than the machine", 256 * mib, 513 * mib, true},
		{"more, as it was created with", 600 * mib, 600 * mib, false},
		{"more, and another than it was created with", 600 * mib, 601 * mib, true},
		{"less again", 600 * mib, 100 * mib, false},
		{"unlimited stays", unlimited, unlimited, false},
		{"unlimited from now on", 256 * mib, unlimited, false},
		{"none from now on", 256 * mib, -1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPod(t)
			one := p.add("one", c.has)
			conn := p.update(one, memory(c.given))
			if c.refused {
				if a := reply(t, conn); !strings.Contains(a.Error, "the machine has 536870912; its memory cannot grow") {
					t.Errorf("answered %+v", a)
				}
				return
			}
			if got, want := string(p.asked().Resources), fmt.Sprintf(`{"memory":{"limit":%d}}`, c.given); got != want {
				t.Errorf("the guest is told %s, want %s", got, want)
			}
			if a := p.finish(conn); a.Error != "" {
				t.Fatal(a.Error)
			}
			if got := *saved(t, one).Spec.Linux.Resources.Memory.Limit; got != c.given {
				t.Errorf("its state has a limit of %d, want %d", got, c.given)
			}
			if _, set := p.limits["one"]; !set {
				t.Error("no limit was set on the host")
			}
		})
	}
}
