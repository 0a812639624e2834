//go:build linux

package main

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/tests/bench/report"
)

func TestChoose(t *testing.T) {
	for only, want := range map[string][]string{
		"":              names(),
		"exec":          {"exec"},
		"network,start": {"start", "network"}, // in the table's order
	} {
		got, err := choose(only)
		if err != nil {
			t.Fatalf("%q: %v", only, err)
		}
		var list []string
		for _, m := range got {
			list = append(list, m.name)
		}
		if !slices.Equal(list, want) {
			t.Errorf("-only %q measures %v, want %v", only, list, want)
		}
	}
	for _, only := range []string{"nothing", "exec,", ",", "Exec"} {
		if list, err := choose(only); err == nil {
			t.Errorf("-only %q measures %d parts, want an error", only, len(list))
		}
	}
}

func TestCheckNamesTheFlag(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-n 0", "-n 0"}, {"-density 1", "-density 1"}, {"-batch 0", "-batch 0"}, {"-cpus -1", "-cpus -1"}, {"start", `"start"`},
	} {
		var o options
		f := o.flags()
		if err := f.Parse(strings.Fields(c.args)); err != nil {
			t.Fatal(err)
		}
		if err := o.check(f.Args()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.args, err, c.want)
		}
	}
}

// TestComplete: parts that were not measured are taken from the file, if it is
// this machine's; who has measured everything does not need it.
func TestComplete(t *testing.T) {
	path := filepath.Join(t.TempDir(), "figures.json")
	part := func(cpu string, names ...string) *report.Report {
		r := &report.Report{Machine: report.Machine{CPU: cpu}}
		for _, name := range names {
			r.Sections = append(r.Sections, report.Section{Name: name})
		}
		return r
	}
	if err := complete(part("a", "exec"), path); err != nil {
		t.Errorf("without a file: %v", err)
	}
	if err := part("a", "start", "exec").Save(path); err != nil {
		t.Fatal(err)
	}
	r := part("a", "exec")
	if err := complete(r, path); err != nil || len(r.Sections) != 2 || r.Sections[0].Name != "start" {
		t.Errorf("%+v (%v), want start and exec", r.Sections, err)
	}
	if err := complete(part("b", "exec"), path); !errors.Is(err, report.ErrMachine) {
		t.Errorf("with another machine's: %v, want %v", err, report.ErrMachine)
	}
	if err := complete(part("b", names()...), path); err != nil {
		t.Errorf("everything is measured, and yet: %v", err)
	}
}

// TestTurns: everybody has as many rounds, the first round does not count, and
// nobody always comes after the same one.
func TestTurns(t *testing.T) {
	b := &bench{options: options{rounds: 4}}
	var order strings.Builder
	rounds := map[string]float64{}
	contend := func(name string) contender {
		return contender{name: name, take: func() (float64, error) {
			order.WriteString(name)
			rounds[name]++
			return rounds[name], nil
		}}
	}
	broken := errors.New("broken")
	var s report.Section
	all, err := b.turns(&s, []contender{
		contend("a"), contend("b"),
		{name: "c", optional: true, take: func() (float64, error) { return 0, broken }},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := order.String(), "abbaababba"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	for i, name := range []string{"a", "b"} {
		if want := []float64{2, 3, 4, 5}; !slices.Equal(all[i].values, want) || len(all[i].cpu) != 4 {
			t.Errorf("%s: values %v with %d processor times, want %v", name, all[i].values, len(all[i].cpu), want)
		}
	}
	if len(all[2].values) != 0 || len(s.Notes) != 1 || s.Notes[0] != "c: broken" {
		t.Errorf("what failed has values %v, notes %q", all[2].values, s.Notes)
	}
	if _, err := b.turns(&s, []contender{{name: "d", take: func() (float64, error) { return 0, broken }}}); !errors.Is(err, broken) {
		t.Errorf("a contender that may not fail: %v", err)
	}
}

// TestCPU: the time of a process that outlives the command that started it counts
// as the command's, and a process that was there before is not waited for.
func TestCPU(t *testing.T) {
	if err := adoptOrphans(); err != nil {
		t.Fatal(err)
	}
	there := exec.Command("sleep", "1000")
	if err := there.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = there.Process.Kill()
		_ = there.Wait()
	}()
	const orphan = "(i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done) &"
	seconds, err := cpu(func() error { return exec.Command("sh", "-c", orphan).Run() })
	if err != nil {
		t.Fatal(err)
	}
	if alone, err := cpu(func() error { return exec.Command("sh", "-c", ":").Run() }); err != nil || seconds < 5*alone || seconds < 0.01 {
		t.Errorf("100,000 rounds in the background took %v s, nothing at all %v s (%v)", seconds, alone, err)
	}
}

func TestParseStat(t *testing.T) {
	all, steal, err := parseStat("cpu  100 200 300 4000 5000 60 70 800 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
	if err != nil || all != 7.3 || steal != 8 {
		t.Errorf("%v and %v of steal (%v), want 7.3 and 8", all, steal, err)
	}
	for _, text := range []string{"", "cpu 1 2", "intr 1 2 3 4 5 6 7 8", "cpu 1 2 3 4 5 6 7 x"} {
		if all, steal, err := parseStat(text); err == nil {
			t.Errorf("%q gave %v, %v", text, all, steal)
		}
	}
}

func TestQuietness(t *testing.T) {
	at := time.Now()
	q := quietness(moment{at: at, load: 1, all: 100, ours: 10, steal: 1}, moment{at: at.Add(10 * time.Second), load: 2, all: 115, ours: 20, steal: 2})
	if math.Abs(q.Others-0.5) > 1e-9 || math.Abs(q.Steal-0.1) > 1e-9 || q.Load != 1 || q.After != 2 {
		t.Errorf("%+v, want 0.5 cores for others and 0.1 of steal", q)
	}
}

func TestParseRollup(t *testing.T) {
	const text = "00400000-7ffd rollup\nRss: 90000 kB\nPss: 50000 kB\nPss_Anon: 1024 kB\nPss_File: 2048 kB\nPss_Shmem: 46928 kB\n"
	if own, shared, err := parseRollup(text); err != nil || own != 3 || shared != 46928./1024 {
		t.Errorf("%v and %v MiB (%v), want 3 and %v", own, shared, err, 46928./1024)
	}
	if own, shared, err := parseRollup("Pss: 50000 kB\nPss_Anon: 1024 kB\n"); err == nil {
		t.Errorf("%v and %v MiB of half a text", own, shared)
	}
}

func TestParseWritableCode(t *testing.T) {
	const text = `55d0c0000000-55d0c0a00000 r-xp 00000000 fe:00 123 /usr/bin/qemu
Size: 10240 kB
Pss: 5000 kB
7f00a0000000-7f00a8000000 rwxp 00000000 00:00 0
Size: 131072 kB
Pss: 1536 kB
VmFlags: rd wr ex mr mw me ac
7f00b0000000-7f00b0001000 rw-p 00000000 00:00 0
Pss: 4 kB
7f00c0000000-7f00c0001000 rwxp 00000000 00:00 0
Pss: 512 kB
`
	if mib, err := parseWritableCode(text); err != nil || mib != 2 {
		t.Errorf("%v MiB (%v), want 2", mib, err)
	}
}

// TestSharedFiles: a memfd's pages count whether or not they are mapped, once,
// and a file that has a name does not count.
func TestSharedFiles(t *testing.T) {
	before, err := sharedFiles([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("bench-test", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Pwrite(fd, make([]byte, 3<<20), 8<<20); err != nil {
		t.Fatal(err)
	}
	again, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(again)
	after, err := sharedFiles([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if got := after - before; got < 3 || got > 3.1 {
		t.Errorf("a memfd with 3 MiB of data counts as %v MiB", got)
	}
}

func TestFileRows(t *testing.T) {
	round := func(seconds float64, done string) []step { return []step{{"find", done, seconds, seconds / 2}} }
	var s report.Section
	all := [2][][]step{{round(1, "9"), round(3, "9")}, {round(2.2, "9"), round(2.2, "9")}}
	if err := fileRows(&s, all, []string{"x"}); err != nil {
		t.Fatal(err)
	}
	r := s.Rows[0]
	if r.Ratio() != 1.1 || !*r.Met || len(r.CPU) != 2 || r.FloorCPU[1] != 1.5 {
		t.Errorf("row %+v with ratio %v", r, r.Ratio())
	}
	all[1][1] = round(2.2, "8")
	if err := fileRows(&s, all, []string{"x"}); err == nil {
		t.Error("a guest that did less than the other is compared with it")
	}
	all[1][1] = nil
	if err := fileRows(&s, all, []string{"x"}); err == nil {
		t.Error("a round without steps is counted")
	}
}

func TestReadSteps(t *testing.T) {
	pids := func() ([]int, error) { return []int{os.Getpid()}, nil }
	steps, err := readSteps(strings.NewReader("begin 0\nfind 12\nsmall 3\nmore 1\n"), pids)
	if err != nil || len(steps) != 2 || steps[0].name != "find" || steps[0].done != "12" || steps[1].name != "small" {
		t.Errorf("steps %+v (%v)", steps, err)
	}
	for _, text := range []string{"", "begin 0\nfind 12\n", "panic\n"} {
		if steps, err := readSteps(strings.NewReader(text), pids); err == nil {
			t.Errorf("%q gave %+v", text, steps)
		}
	}
}

func TestMakeTree(t *testing.T) {
	dir := t.TempDir()
	mib, err := makeTree(dir, 120)
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(found) != 120 {
		t.Errorf("%d files (%v), want 120", len(found), err)
	}
	var size int64
	for _, f := range found {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += fi.Size()
	}
	if got := float64(size) / (1 << 20); math.Abs(got-mib) > 1e-9 {
		t.Errorf("%v MiB, said %v", got, mib)
	}
}

// TestWithout: what is started does not see the mount, and we still do.
func TestWithout(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("bench-test", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	list := oci{name: "ls", path: "/bin/ls", unmount: dir}
	if _, err := list.run(context.Background(), filepath.Join(dir, "file")); err == nil {
		t.Error("the mount is seen")
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
		t.Errorf("the mount is gone for us: %v", err)
	}
	list.unmount = t.TempDir() // nothing is mounted there
	if _, err := list.run(context.Background(), filepath.Join(dir, "file")); err != nil {
		t.Errorf("a path where nothing is mounted: %v", err)
	}
}
