//go:build linux

package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// made bounds the making of a template, which waits until a guest is idle.
const made = 2 * time.Minute

// A store is a box's own: what other tests and the user have stays as it is.
type store struct {
	*box
	dir string
}

// warm gives the box a configuration and a store of templates on a tmpfs, which
// is mounted with options if there are any.
func warm(t *testing.T, options string) store {
	t.Helper()
	parent, err := os.MkdirTemp("/dev/shm", "rf-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the box has been looked at
		if options != "" {
			err = unix.Unmount(parent, 0)
		}
		if err := errors.Join(err, os.RemoveAll(parent)); err != nil {
			t.Error(err)
		}
	})
	if options != "" {
		if err := unix.Mount("faults", parent, "tmpfs", 0, options); err != nil {
			t.Fatal(err)
		}
	}
	s := store{newBox(t), filepath.Join(parent, "templates")}
	s.installed("")
	s.configure("")
	// Its commands have a mount namespace each, for installed's /etc.
	s.runm = append([]string{"unshare", "--mount"}, s.runm...)
	t.Cleanup(s.quiet)
	return s
}

// configure adds to the configuration.
func (s store) configure(more string) {
	s.t.Helper()
	s.must(os.WriteFile(s.path("etc/runm/config.toml"), fmt.Appendf(nil, "template_dir = %q\n%s", s.dir, more), 0o644))
}

// builders are the processes that make templates for the box, of whom nobody
// else has its mounts.
func (s store) builders() (pids []int) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	s.must(err)
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if strings.TrimSpace(commandLine(pid)) != "runm-template" {
			continue
		}
		mounts, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
		if err == nil && strings.Contains(string(mounts), s.box.dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// quiet waits until no template is being made. A builder that nobody waits for
// has the lowest priority: where others keep the host busy it would take as long
// as they do, so it gets the test's.
func (s store) quiet() {
	s.t.Helper()
	own, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	s.must(err)
	waitFor(s.t, "the end of the builders", made, func() bool {
		pids := s.builders()
		for _, builder := range pids {
			// Each has a group of its own, with its threads. The kernel's priority
			// counts the other way (getpriority(2)).
			for _, pid := range append(children(builder), builder) {
				err := unix.Setpriority(unix.PRIO_PGRP, pid, 20-own)
				if err != nil && !errors.Is(err, unix.ESRCH) {
					s.t.Fatalf("priority of %d: %v", pid, err)
				}
			}
		}
		return len(pids) == 0
	})
}

// about is what list says of a template.
type about struct {
	Key   string
	Bytes int64
}

func (s store) list() (all []about) {
	s.t.Helper()
	s.must(json.Unmarshal([]byte(s.runs("template", "list", "--format", "json")), &all))
	return all
}

// one asserts that there is one good template and returns its directory.
func (s store) one() string {
	s.t.Helper()
	all := s.list()
	if len(all) != 1 || all[0].Bytes == 0 {
		s.t.Fatalf("templates: %+v, want one", all)
	}
	return filepath.Join(s.dir, all[0].Key)
}

// make makes the template of a container without limits.
func (s store) make() string {
	s.t.Helper()
	r := s.finishIn(made, s.command("template", "create"))
	if r.code != 0 {
		s.t.Fatalf("template create: status %d: %s", r.code, r.stderr)
	}
	return s.one()
}

// clone asserts that a container is cloned.
func (s store) clone() {
	s.t.Helper()
	if warm, log := s.start(); !warm {
		s.t.Errorf("the machine was booted: %s", log)
	}
}

// boot asserts that a container is created all the same, by a boot, and that
// its log says why.
func (s store) boot(why ...string) {
	s.t.Helper()
	warm, log := s.start()
	if warm {
		s.t.Errorf("the machine was cloned: %s", log)
	}
	contains(s.t, log, why...)
}

// start takes a container through its life. warm is whether its machine was
// cloned: the word is on its kernel's command line.
func (s store) start(annotations ...string) (warm bool, log string) {
	s.t.Helper()
	c := s.container("cat /proc/cmdline; echo up; exec sleep 1000")
	c.spec.Annotations = map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		c.spec.Annotations[annotations[i]] = annotations[i+1]
	}
	c.up()
	text, err := os.ReadFile(filepath.Join(c.state, c.id, "log"))
	c.must(err)
	c.runs("delete", "--force", c.id)
	return strings.Contains(c.read("stdout"), "runm.template"), string(text)
}

// whatever is wrong with a template, the container is created, the log says
// why, and the next is cloned from a new one.
func TestBrokenTemplate(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	dir := s.make()
	s.clone()
	for _, test := range []struct {
		name string
		harm func() error
		want string
	}{
		{"memory cut", func() error { return os.Truncate(filepath.Join(dir, "memory"), 1<<20) }, "memory was changed"},
		{"state overwritten", func() error { return overwrite(filepath.Join(dir, "state")) }, "state was changed"},
		{"state foreign", func() error { return exchange(filepath.Join(dir, "state"), "/bin/busybox") }, "state was changed"},
		{"about broken", func() error { return os.WriteFile(filepath.Join(dir, "about.json"), []byte("{"), 0o600) }, "about.json"},
	} {
		if err := test.harm(); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		s.boot("the template is broken", "machine booted", test.want)
		s.quiet()
		if again := s.one(); again != dir {
			t.Fatalf("%s: %s was made, want %s again", test.name, again, dir)
		}
	}
	s.clone()
	s.wantNothing()
}

// overwrite changes a file's content and leaves its size.
func overwrite(file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, 64<<10), 100)
	return errors.Join(err, f.Close())
}

// exchange puts a copy of another file in the place of one.
func exchange(file, by string) error {
	data, err := os.ReadFile(by)
	if err != nil {
		return err
	}
	return errors.Join(os.Remove(file), os.WriteFile(file, data, 0o600))
}

// A template that seems good and cannot be loaded costs a boot, and is not made
// again at once: the next would be no better.
func TestTemplateOfAnotherShape(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	big := s.make()
	c := s.container("true")
	c.spec.Annotations = map[string]string{"dev.runm.memory-mib": "384"}
	c.save()
	if r := s.finishIn(made, s.command("template", "create", "--bundle", c.bundle)); r.code != 0 {
		t.Fatal(r.stderr)
	}
	var small string
	for _, a := range s.list() {
		if dir := filepath.Join(s.dir, a.Key); dir != big {
			small = dir
		}
	}
	s.must(os.RemoveAll(big))
	s.must(os.Rename(small, big))

	s.boot("is removed, and the machine booted", "load the template")
	s.quiet()
	if all := s.list(); len(all) != 0 {
		t.Errorf("made again: %+v", all)
	}
	r := s.try("template", "list")
	contains(t, r.stderr, "runm: warning: template "+filepath.Base(big)+" failed at ", ": clone: ")
	contains(t, s.runs("check"), "warn  templates", ": clone: ", "`runm template create` tries again")
	s.boot() // there is none
	s.make() // who asks for one gets one
	if r := s.try("template", "list"); r.stderr != "" {
		t.Errorf("after it was made: %s", r.stderr)
	}
	s.clone()
	s.wantNothing()
}

// A store that others could write to is not used, and not touched.
func TestForeignStore(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	aside := s.dir + ".real"
	for name, set := range map[string]func() error{
		"mode":         func() error { return os.Mkdir(s.dir, 0o755) },
		"owner":        func() error { return errors.Join(os.Mkdir(s.dir, 0o700), os.Chown(s.dir, 1234, 1234)) },
		"link":         func() error { return errors.Join(os.Mkdir(aside, 0o700), os.Symlink(aside, s.dir)) },
		"no directory": func() error { return os.WriteFile(s.dir, nil, 0o600) },
	} {
		s.must(set())
		s.boot("is not a directory of this user's alone", "template_dir")
		s.quiet()
		if r := s.try("template", "create"); r.code != 1 || !strings.Contains(r.stderr, "is not a directory of this user's alone") {
			t.Errorf("%s: template create: %+v", name, r)
		}
		contains(t, s.runs("check"), "warn  templates    templates: "+s.dir+" is not a directory")
		if left, _ := filepath.Glob(s.dir + "*/*"); len(left) > 0 {
			t.Errorf("%s: made in it: %q", name, left)
		}
		s.must(os.Remove(s.dir))
	}
	s.must(os.Remove(aside))
}

// What a machine is made of is part of what its template is: a new initramfs is
// booted, and the old one's template makes way.
func TestReplacedInitramfs(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	old := s.make()
	s.clone()
	initramfs := s.path("prefix/lib/runm/initramfs.cpio")
	data, err := os.ReadFile(initramfs)
	s.must(err)
	s.replace(initramfs, data)
	s.boot()
	s.quiet()
	if fresh := s.one(); fresh == old {
		t.Error("the template of the old initramfs is there, and none of the new")
	}
	s.clone()
	s.wantNothing()
}

// The machines that are being cloned when their template is removed run.
func TestTemplateRemovedWhileCloning(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	s.make()
	ends := make(chan func(), 5)
	for range cap(ends) {
		c := s.container("echo up")
		c.save()
		run := c.spawn("run", "run", "--bundle", c.bundle, c.id)
		go func() {
			err := run.Wait()
			ends <- func() {
				if err != nil || c.read("run.stdout") != "up\n" {
					t.Errorf("%v: %q %q", err, c.read("run.stdout"), c.read("run.stderr"))
				}
			}
		}()
	}
	for range 20 {
		s.runs("template", "remove", "--all")
	}
	for range cap(ends) {
		(<-ends)()
	}
	s.wantNothing()
}

// Two that are asked for at once are one; a builder that is killed leaves a
// store that can be used, and one that is interrupted nothing.
func TestBuilders(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	create := func() (*container, *exec.Cmd) {
		c := s.container("")
		s.must(os.MkdirAll(c.bundle, 0o755))
		return c, c.spawn("create", "template", "create")
	}

	c, killed := create()
	s.must(unix.Kill(s.building(), unix.SIGKILL))
	if code := s.end(killed, soon); code != 1 {
		t.Errorf("its builder was killed: status %d", code)
	}
	contains(t, c.read("create.stderr"), "signal: killed")
	s.quiet()
	s.wantNothing()
	if all := s.list(); len(all) != 0 {
		t.Errorf("templates: %+v", all)
	}
	s.runs("template", "remove", "--all")
	s.wantNoTemplate()

	c, interrupted := create()
	s.building()
	s.must(interrupted.Process.Signal(unix.SIGINT))
	if code := s.end(interrupted, soon); code != 1 {
		t.Errorf("interrupted: status %d", code)
	}
	if out := c.read("create.stdout"); out != "" {
		t.Errorf("in a pipe it prints %q", out)
	}
	s.quiet()
	s.wantNothing()
	s.wantNoTemplate()

	_, gone := create()
	s.building()
	s.must(gone.Process.Kill())
	_ = gone.Wait()
	s.quiet()
	s.wantNothing()
	s.wantNoTemplate()

	a, one := create()
	b, other := create()
	for c, cmd := range map[*container]*exec.Cmd{a: one, b: other} {
		if code := s.end(cmd, made); code != 0 {
			t.Errorf("two at once: status %d: %s", code, c.read("create.stderr"))
		}
	}
	s.one()
	s.clone()
}

// Who makes a template that nobody waits for lets all others go first; the user
// who asked for one waits no longer than for a container.
func TestBuildersPriority(t *testing.T) {
	t.Parallel()
	own, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	const lowest = 1 // of 40 (getpriority(2), "C library/kernel differences")
	s := warm(t, "")
	c := s.container("echo up; exec sleep 1000")
	c.up()
	for _, pid := range s.making() {
		waitFor(t, "the builder yields", soon, func() bool { return priority(pid) <= lowest })
	}
	c.runs("delete", "--force", c.id)
	s.quiet()
	s.runs("template", "remove", "--all")

	cmd := c.spawn("create", "template", "create")
	for _, pid := range s.making() {
		if got := priority(pid); got != own && got != 0 {
			t.Errorf("%q has the priority %d, want the caller's, %d", commandLine(pid), got, own)
		}
	}
	if code := s.end(cmd, made); code != 0 {
		t.Errorf("status %d: %s", code, c.read("create.stderr"))
	}
	s.wantNothing()
}

// making waits until a guest runs for a template, and returns its builder and the
// processes of the guest.
func (s store) making() []int {
	s.t.Helper()
	pid := s.building()
	return append(children(pid), pid)
}

// priority is what getpriority(2) of the kernel says, or 0 if the process is gone.
func priority(pid int) int {
	p, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
	if err != nil {
		return 0
	}
	return p
}

// building waits until a guest runs for a template, and returns its builder, which
// may be the last whom the host serves.
func (s store) building() int {
	s.t.Helper()
	var pid int
	waitFor(s.t, "a builder", made, func() bool {
		for _, p := range s.builders() {
			for _, c := range children(p) {
				if strings.Contains(commandLine(c), "qemu-system") {
					pid = p
				}
			}
		}
		return pid != 0
	})
	return pid
}

// wantNoTemplate asserts that only the lock, and why the last one failed, are in the
// store.
func (s store) wantNoTemplate() {
	s.t.Helper()
	left, err := os.ReadDir(s.dir)
	s.must(err)
	for _, e := range left {
		if e.Name() != "lock" && e.Name() != "failures" {
			s.t.Errorf("left in the store: %s", e.Name())
		}
	}
}

// A full file system costs the templates, and nothing else.
func TestTemplatesDiskFull(t *testing.T) {
	t.Parallel()
	t.Run("before", func(t *testing.T) {
		s := warm(t, "size=20m")
		r := s.try("template", "create")
		if r.code != 1 {
			t.Errorf("template create: status %d", r.code)
		}
		contains(t, r.stderr, "20 MiB free", "make room, or set template_dir")
		s.boot()
		s.quiet()
		s.wantNoTemplate()
		contains(t, s.runs("check"), "warn  templates", "20 MiB free")
	})
	t.Run("meanwhile", func(t *testing.T) {
		s := warm(t, "size=130m")
		c := s.container("")
		create := c.spawn("create", "template", "create")
		s.building()
		filler, err := os.Create(filepath.Join(filepath.Dir(s.dir), "filler"))
		s.must(err)
		defer filler.Close()
		for mib := int64(0); unix.Fallocate(int(filler.Fd()), 0, mib<<20, 1<<20) == nil; mib++ {
		}
		if code := s.end(create, made); code != 1 {
			t.Errorf("template create: status %d", code)
		}
		contains(t, c.read("create.stderr"), "bus error")
		s.wantNoTemplate()
		s.boot()
	})
}

// A container that wants none is not cloned, and none is made for it.
func TestTemplateOff(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	if warm, _ := s.start("dev.runm.template", "off"); warm {
		t.Error("cloned, and there is no template")
	}
	if pids := s.builders(); len(pids) > 0 {
		t.Errorf("a template is made by %d", pids)
	}
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("the store was made: %v", err)
	}
	s.make()
	if warm, _ := s.start("dev.runm.template", "off"); warm {
		t.Error("cloned, and it was turned off")
	}
	s.clone()
}

// Killed while it clones, whoever it is, a create fails, and nothing is left.
func TestKilledWhileCloning(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	s.make()
	for _, victim := range []string{"holder", "monitor"} {
		for _, ms := range []int{0, 10, 30, 60, 100, 150, 250, 400} {
			c := s.container("exec sleep 1000")
			cmd := c.creation()
			c.must(cmd.Start())
			pid := 0
			waitFor(t, victim, soon, func() bool {
				data, err := os.ReadFile(filepath.Join(c.state, c.id, "state.json"))
				var state struct{ Holder, Monitor struct{ Pid int } }
				if err != nil || json.Unmarshal(data, &state) != nil {
					return false
				}
				pid = map[string]int{"holder": state.Holder.Pid, "monitor": state.Monitor.Pid}[victim]
				return pid != 0
			})
			// The moment is the input of this test, not a wait for something.
			time.Sleep(time.Duration(ms) * time.Millisecond)
			c.must(unix.Kill(pid, unix.SIGKILL))
			if code := c.end(cmd, commandTime); code != 0 && code != 1 {
				t.Errorf("%s killed after %d ms: status %d", victim, ms, code)
			}
			c.runs("delete", "--force", c.id)
			c.wantNothing()
		}
	}
	s.one() // it was not the template's fault
	s.clone()
}

// Making a template says on a terminal what it does.
func TestTemplateOnATerminal(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	line := strings.Join(s.command("template", "create").Args, "' '")
	r := s.finishIn(made, exec.Command("script", "--quiet", "--return", "--command", "'"+line+"'", "/dev/null"))
	if r.code != 0 {
		t.Errorf("status %d: %s", r.code, r.stdout)
	}
	contains(t, r.stdout, "booting a machine with CPUs: 1, memory: 512 MiB", "ready after ")
}

// A clone that never answers costs half of the time that there is, and the
// machine is booted in the other.
func TestCloneHangs(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	_, qemu, _ := strings.Cut(s.runs("check"), "  qemu         ")
	qemu, _, found := strings.Cut(qemu, ": ")
	if !found {
		t.Fatal("check does not name QEMU")
	}
	s.replace(s.path("qemu"), fmt.Appendf(nil, "#!/bin/sh\ncase \"$*\" in *-incoming*) exec sleep 1000; esac\nexec '%s' \"$@\"\n", qemu))
	s.configure(fmt.Sprintf("qemu = %q\nboot_timeout_seconds = 30\n", s.path("qemu")))
	s.make()
	s.boot("is removed, and the machine booted", "no answer for 15s")
	s.quiet()
	if all := s.list(); len(all) != 0 {
		t.Errorf("made again: %+v", all)
	}
	s.wantNothing()
}

// A container that its command waits for outlives the builder, which must not
// stay as a zombie of that command.
func TestBuilderIsReaped(t *testing.T) {
	t.Parallel()
	s := warm(t, "")
	c := s.container("echo up; exec sleep 1000")
	c.save()
	run := c.spawn("run", "run", "--bundle", c.bundle, c.id)
	c.prints("run.stdout", "up\n")
	s.quiet()
	s.one()
	waitFor(t, "the builder's end", soon, func() bool {
		for _, pid := range children(run.Process.Pid) {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if err == nil && strings.TrimSpace(string(data)) == "runm-template" {
				return false
			}
		}
		return true
	})
	c.runs("delete", "--force", c.id)
	if code := s.end(run, soon); code != 137 {
		t.Errorf("run: status %d, want 137", code)
	}
}
