//go:build linux

package libvm

import (
	"encoding/json"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/monitor"
	"github.com/runm/runm/libvm/store"
)

func resources(t *testing.T, text string) *specs.LinuxResources {
	t.Helper()
	var r specs.LinuxResources
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return &r
}

func TestMergeResources(t *testing.T) {
	for _, c := range []struct{ name, current, given, want string }{
		{"nothing", `{"memory":{"limit":5}}`, `{}`, `{"memory":{"limit":5}}`},
		{"onto nothing", `{}`, `{"memory":{"limit":5},"pids":{"limit":3}}`, `{"memory":{"limit":5},"pids":{"limit":3}}`},
		{"one of two", `{"memory":{"limit":5,"swap":9}}`, `{"memory":{"limit":6}}`, `{"memory":{"limit":6,"swap":9}}`},
		{"0 is not given", `{"memory":{"limit":5},"cpu":{"shares":7,"quota":1}}`,
			`{"memory":{"limit":0,"swap":0},"cpu":{"shares":0,"quota":0,"period":0}}`, `{"memory":{"limit":5},"cpu":{"shares":7,"quota":1}}`},
		{"no limit, no swap limit", `{"memory":{"limit":5,"swap":9}}`, `{"memory":{"limit":-1}}`, `{"memory":{"limit":-1}}`},
		{"quota keeps period", `{"cpu":{"quota":1,"period":2}}`, `{"cpu":{"quota":3}}`, `{"cpu":{"quota":3,"period":2}}`},
		{"idle drops the weight", `{"cpu":{"shares":512}}`, `{"cpu":{"idle":1}}`, `{"cpu":{"idle":1}}`},
		{"pids of 0 count", `{"pids":{"limit":5}}`, `{"pids":{"limit":0}}`, `{"pids":{"limit":0}}`},
		{"devices stay", `{"devices":[{"allow":false,"access":"rwm"}]}`, `{"devices":[]}`, `{"devices":[{"allow":false,"access":"rwm"}]}`},
		{"throttles by device", `{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":8,"minor":1,"rate":2}]}}`,
			`{"blockIO":{"weight":20,"throttleReadBpsDevice":[{"major":8,"minor":1,"rate":3},{"major":9,"minor":0,"rate":4}]}}`,
			`{"blockIO":{"weight":20,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":8,"minor":1,"rate":3},{"major":9,"minor":0,"rate":4}]}}`},
		{"unified by file", `{"unified":{"memory.high":"1","cpu.idle":"1"}}`, `{"unified":{"memory.high":"2"}}`,
			`{"unified":{"memory.high":"2","cpu.idle":"1"}}`},
	} {
		current, given := resources(t, c.current), resources(t, c.given)
		got, err := json.Marshal(mergeResources(current, given))
		if err != nil {
			t.Fatal(err)
		}
		want, _ := json.Marshal(resources(t, c.want))
		if string(got) != string(want) {
			t.Errorf("%s: %s, want %s", c.name, got, want)
		}
		before, _ := json.Marshal(resources(t, c.current))
		if after, _ := json.Marshal(current); string(after) != string(before) {
			t.Errorf("%s: the current resources were changed to %s", c.name, after)
		}
	}
}

// Of two updates at once each keeps what the other has changed.
func TestUpdatesAtOnce(t *testing.T) {
	root := t.TempDir()
	dir, err := store.Create(root, "c1")
	if err != nil {
		t.Fatal(err)
	}
	state := &store.State{ID: "c1", Spec: &specs.Spec{Linux: &specs.Linux{Resources: resources(t, `{"cpu":{"period":1000}}`)}}}
	if err := dir.Save(state); err != nil {
		t.Fatal(err)
	}
	l, err := control.Listen(string(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 2)
	go func() { // a monitor
		for range 2 {
			served <- func() error {
				c, err := l.AcceptUnix()
				if err != nil {
					return err
				}
				conn := control.Accept(c)
				defer conn.Close()
				var r monitor.Request
				if _, err := conn.Recv(&r); err != nil {
					return err
				}
				state.Spec.Linux.Resources = r.Resources
				if err := dir.Save(state); err != nil {
					return err
				}
				return conn.Send(monitor.Reply{})
			}()
		}
	}()
	// Both have begun before either has changed anything.
	var both []*Container
	for range 2 {
		c, err := Load(root, "c1")
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, c)
	}
	for i, given := range []string{`{"pids":{"limit":7}}`, `{"cpu":{"quota":500}}`} {
		if err := both[i].Update(resources(t, given)); err != nil {
			t.Fatal(err)
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
	}
	got, err := json.Marshal(state.Spec.Linux.Resources)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"cpu":{"quota":500,"period":1000},"pids":{"limit":7}}`; string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
}
