//go:build linux

package faults

import (
	"os"
	"path/filepath"
	"testing"
)

// Ten containers at once are more than the machine has cores: all run to their
// end. The benchmark does it with twenty.
func TestManyAtOnce(t *testing.T) {
	b := newBox(t) // not beside others
	var all []*container
	for range 10 {
		c := b.container("echo $0; exit 7")
		c.spec.Process.Args = append(c.spec.Process.Args, c.id)
		c.save()
		all = append(all, c)
	}
	ends := make(chan func(), len(all))
	for _, c := range all {
		run := c.spawn("run", "run", "--bundle", c.bundle, c.id)
		go func() {
			err := run.Wait()
			ends <- func() {
				if code := run.ProcessState.ExitCode(); code != 7 || c.read("run.stdout") != c.id+"\n" {
					t.Errorf("%s: %v: %q %q", c.id, err, c.read("run.stdout"), c.read("run.stderr"))
				}
			}
		}()
	}
	for range all {
		(<-ends)()
	}
	b.wantNothing()
}

// An id is free again after delete, and a bundle can be run twice at once.
func TestReuse(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	c := b.container("echo up; exec sleep 1000")
	c.up()
	if r := c.try("create", "--bundle", c.bundle, c.id); r.code != 1 {
		t.Errorf("create with an id in use: status %d", r.code)
	} else {
		contains(t, r.stderr, "container with given ID already exists")
	}

	twin := *c
	twin.id += "-twin"
	twin.up()
	for _, one := range []*container{c, &twin} {
		other := map[*container]string{c: twin.id, &twin: c.id}[one]
		c.must(os.RemoveAll(filepath.Join(c.path("rootfs"), "tmp", "who")))
		one.runs("exec", one.id, "sh", "-c", "echo "+one.id+" >/tmp/who")
		if out := b.runs("exec", other, "cat", "/tmp/who"); out != one.id+"\n" {
			t.Errorf("%s wrote into the shared rootfs, %s reads %q", one.id, other, out)
		}
	}
	twin.runs("delete", "--force", twin.id)
	if out := c.runs("exec", c.id, "echo", "alive"); out != "alive\n" {
		t.Errorf("after its twin's end: %q", out)
	}
	c.runs("delete", "--force", c.id)
	c.wantNothing()
	c.up()
	c.runs("delete", "--force", c.id)
	c.wantNothing()
}
