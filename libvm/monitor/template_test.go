//go:build linux

package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/runm/runm/libvm/fileid"
	"github.com/runm/runm/libvm/template"
	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/libvm/vmm/fake"
)

// cloner is a driver whose clones are carried by a process, and end.
type cloner struct {
	fake.Driver
	clones fake.Driver
	pid    int
}

const shape = "0123456789abcdef, and what else there is"

func (*cloner) Shape(*vmm.Config) (string, error) { return shape, nil }

func (*cloner) StartSavable(context.Context, *vmm.Config, *os.File) (vmm.Savable, error) {
	panic("no template is made here")
}

func (c *cloner) Clone(ctx context.Context, cfg *vmm.Config, t vmm.Template, _ vmm.CopyMemory) (vmm.Machine, error) {
	t.Close()
	c.clones.Guest = func(io.ReadWriteCloser) {}
	m, err := c.clones.Start(ctx, cfg)
	return carried{m, c.pid}, err
}

type carried struct {
	vmm.Machine
	pid int
}

func (m carried) Pids() []int { return []int{m.pid} }

// full is a cgroup that nobody can join.
type full struct{ hostCgroup }

var errFull = errors.New("the cgroup is full")

func (full) Join(int) error { return errFull }

// templates is a store with one template of shape.
func templates(t *testing.T) *template.Store {
	t.Helper()
	s := &template.Store{Dir: filepath.Join(t.TempDir(), "templates")}
	dir := filepath.Join(s.Dir, template.Key(shape))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	id := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		id, err := fileid.Of(path)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	about, err := json.Marshal(template.About{Memory: id("memory"), State: id("state")})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "about.json"), about, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sleeper is a child that lives as long as the test; gone has ended before.
func sleeper(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func gone(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// A template is removed for what is wrong with it, and not for what is wrong
// with the container's cgroup, which a boot finds in the same way.
func TestWhoseFaultItIs(t *testing.T) {
	answers := serveAgent(t, greeter{})
	ends := func(io.ReadWriteCloser) {}
	for name, c := range map[string]struct {
		pid  func(*testing.T) int
		boot func(io.ReadWriteCloser)
		kept bool
		want string // of the error
	}{
		"the cgroup's, which takes no machine":        {sleeper, answers, true, errFull.Error()},
		"the cgroup's, in which every machine ends":   {gone, ends, true, "the machine has ended"},
		"the template's: a machine that boots is one": {gone, answers, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := &cloner{pid: c.pid(t)}
			d.Guest = c.boot
			m := &monitor{driver: d, joined: make(chan struct{})}
			close(m.joined)
			log := &strings.Builder{}
			one := &container{
				setup: &Setup{Templates: templates(t), BootSeconds: 60}, cgroup: full{},
				log: &logrus.Logger{Out: log, Formatter: &logrus.TextFormatter{}, Level: logrus.InfoLevel},
			}
			g, err := m.startGuest(t.Context(), one, &vmm.Config{Shares: []vmm.Share{{Type: vmm.Share9p}}})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if g != nil {
				if !g.booted {
					t.Error("the machine was cloned")
				}
				g.end()
			}
			found, err := one.setup.Templates.Find(shape)
			found.Close()
			if kept := err == nil; kept != c.kept {
				t.Errorf("the template is kept: %v, want %v; log %s", kept, c.kept, log)
			}
			if f, err := one.setup.Templates.LastFailure(); (f == nil) != c.kept || err != nil {
				t.Errorf("failure %+v, %v; log %s", f, err, log)
			}
		})
	}
}
