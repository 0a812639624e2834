//go:build linux

package validation

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/tests/validation/internal/tap"
)

// programTime bounds one program. The slowest, linux_cgroups_cpus, boots 17
// machines, most of them under half a CPU.
const programTime = 3 * time.Minute

// shared is the base name of the cgroup that many programs use.
const shared = "cgrouptest"

// An outcome is what one program did.
type outcome struct {
	tap            tap.Result
	stdout, stderr []byte
	err            error // of the program: its exit status
	timedOut       bool
	took           time.Duration
}

// result is pass, fail or nothing.
func (o outcome) result() string {
	switch {
	case o.err != nil || o.timedOut || o.tap.NotOK > 0:
		return fail
	case o.tap.OK == 0:
		return nothing
	case !o.tap.Complete():
		return fail
	}
	return pass
}

// A row is one line of the report.
type row struct {
	expectation
	outcome
	surprise string
}

// TestSuite runs the 58 programs: two at a time, but those that share a
// cgroup one after another.
func TestSuite(t *testing.T) {
	runtime := runtimePath(t)
	expected := loadExpected(t)
	dir := suiteDir(t)
	complete(t, dir, expected)

	var (
		mu   sync.Mutex
		rows []row
	)
	run := func(t *testing.T, e expectation) {
		r := row{expectation: e, outcome: runProgram(t, dir, e)}
		r.surprise = e.surprise(r.outcome)
		if r.surprise != "" && isRunm(runtime) {
			t.Errorf("%s\n%s", r.surprise, r.explain())
		}
		keep(t, r.outcome)
		mu.Lock()
		defer mu.Unlock()
		rows = append(rows, r)
	}
	t.Run("programs", func(t *testing.T) {
		t.Run("shared", func(t *testing.T) {
			t.Parallel()
			lockShared(t)
			for _, e := range expected {
				if sharesCgroup(e.program) {
					t.Run(e.program, func(t *testing.T) { run(t, e) })
				}
			}
		})
		for _, e := range expected {
			if !sharesCgroup(e.program) {
				t.Run(e.program, func(t *testing.T) {
					t.Parallel()
					run(t, e)
				})
			}
		}
	})
	report(t, runtime, rows)
}

// complete asserts that expected.txt names each program once.
func complete(t *testing.T, dir string, expected []expectation) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var built, named []string
	for _, e := range entries {
		if e.Name() != "runtimetest" && !strings.HasPrefix(e.Name(), "rootfs-") {
			built = append(built, e.Name())
		}
	}
	for _, e := range expected {
		named = append(named, e.program)
	}
	slices.Sort(named)
	if !slices.Equal(built, named) {
		t.Fatalf("%s holds %q, expected.txt names %q", dir, built, named)
	}
}

// sharesCgroup says whether a program uses the cgroup named by shared.
func sharesCgroup(program string) bool {
	return strings.HasPrefix(program, "linux_cgroups_") || strings.HasPrefix(program, "delete_")
}

// hostNetwork says whether a program takes the network namespace away: it looks
// at the namespaces of the container's process on the host, or at its cgroup. A
// container of runm then has loopback only, if the administrator lets it.
func hostNetwork(program string) bool {
	return program == "linux_ns_itype" || program == "linux_cgroups_network"
}

// lockShared keeps other runs on this machine off the shared cgroup.
func lockShared(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "runm-validation.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatalf("flock %s: %v", f.Name(), err)
	}
}

// runProgram runs one program in a mount namespace and a box of its own.
func runProgram(t *testing.T, dir string, e expectation) outcome {
	var names []string
	if sharesCgroup(e.program) {
		names = append(names, shared)
	}
	b := newBox(t, names...)
	t.Cleanup(func() { removeParents(t) })
	ctx, cancel := context.WithTimeout(t.Context(), programTime)
	defer cancel()

	var stdout, stderr bytes.Buffer
	etc := filepath.Join(b.dir, "etc")
	if out, err := exec.Command("cp", "-a", "/etc", etc).CombinedOutput(); err != nil {
		t.Fatalf("copy /etc: %v: %s", err, out)
	}
	if hostNetwork(e.program) {
		conf := filepath.Join(etc, "runm")
		if err := errors.Join(os.MkdirAll(conf, 0o755),
			os.WriteFile(filepath.Join(conf, "config.toml"), []byte("host_network = \"loopback\"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	// "mounts" gives the host's /etc to its container, writable: whatever the
	// runtime does to it, it does to a copy.
	const shielded = `mount --bind "$1" /etc && exec "$2"`
	cmd := exec.CommandContext(ctx, "sh", "-c", shielded, "sh", etc, filepath.Join(dir, e.program))
	cmd.Dir = dir // it looks for runtimetest and the archive here
	cmd.Env = b.env()
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// Setpgid: what the program started (unshare, sleep) dies with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second // somebody kept its stdout

	begin := time.Now()
	err := cmd.Run()
	o := outcome{
		stdout: stdout.Bytes(), stderr: stderr.Bytes(), err: err,
		timedOut: ctx.Err() != nil || errors.Is(err, exec.ErrWaitDelay),
		took:     time.Since(begin),
	}
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", e.program, err) // it did not even start
	}
	if o.tap, err = tap.Parse(bytes.NewReader(o.stdout)); err != nil {
		t.Error(err)
	}
	return o
}

// removeParents removes the empty parents of the relative cgroup path,
// testdir/cgrouptest/container, which is relative to our own cgroup. They may
// be anybody's, so no runtime removes them.
func removeParents(t *testing.T) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(own)) {
		// HIERARCHY:CONTROLLERS:PATH, cgroups(7)
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, below := range []string{"testdir/" + shared, "testdir"} {
			dirs, err := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", f[len(f)-1], below))
			if err != nil {
				t.Error(err)
			}
			for _, dir := range dirs {
				_ = os.Remove(dir) // one in use stays, and the leak check names it
			}
		}
	}
}

// explain shows what is needed to understand a failure.
func (r row) explain() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d ok, %d not ok, planned %d, %v, after %v\n",
		r.tap.OK, r.tap.NotOK, r.tap.Planned, cmp.Or(r.err, errors.New("exit status 0")), r.took.Round(time.Millisecond))
	for _, f := range r.tap.Failures {
		fmt.Fprintf(&s, "not ok %s\n", f)
	}
	fmt.Fprintf(&s, "stderr: %s\nstdout: %s\n", tail(r.stderr), tail(r.stdout))
	return s.String()
}

// tail is the end of an output, short enough for a log.
func tail(b []byte) []byte { return b[max(0, len(b)-3000):] }

// keep stores the outputs with the test's artifacts.
func keep(t *testing.T, o outcome) {
	dir := t.ArtifactDir()
	for name, data := range map[string][]byte{"stdout": o.stdout, "stderr": o.stderr} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Error(err)
		}
	}
}

// report prints the table, and writes it to $RUNM_REPORT.
func report(t *testing.T, runtime string, rows []row) {
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.program, b.program) })
	text := table(runtime, rows)
	t.Logf("\n%s", text)
	if name := os.Getenv("RUNM_REPORT"); name != "" {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// table is the report as text: what is worth a container is counted apart
// from the host stand-ins.
func table(runtime string, rows []row) string {
	var s strings.Builder
	fmt.Fprintf(&s, "OCI validation suite, %s\n\n", runtime)
	fmt.Fprintf(&s, "%-32s %-10s %-8s %9s %7s  %s\n", "program", "class", "result", "ok/not ok", "seconds", "remark")
	real, stands := map[string]int{}, map[string]int{}
	surprises := 0
	for _, r := range rows {
		remark := r.reason
		if r.surprise != "" {
			remark = "UNEXPECTED: " + r.surprise
			surprises++
		}
		points := fmt.Sprintf("%d/%d", r.tap.OK, r.tap.NotOK)
		fmt.Fprintf(&s, "%-32s %-10s %-8s %9s %7.1f  %s\n", r.program, r.class, r.result(), points, r.took.Seconds(), remark)
		switch {
		case r.class == standIn:
			stands[r.result()]++
		case r.class == nothing && r.result() == pass:
			real[nothing]++
		default:
			real[r.result()]++
		}
	}
	fmt.Fprintf(&s, "\ncontainer:     %2d pass, %2d fail, %2d assert nothing\n", real[pass], real[fail], real[nothing])
	fmt.Fprintf(&s, "host stand-in: %2d pass, %2d fail\n", stands[pass], stands[fail]+stands[nothing])
	fmt.Fprintf(&s, "all:           %2d pass, %2d fail, %2d assert nothing; %d unexpected\n",
		real[pass]+stands[pass], real[fail]+stands[fail], real[nothing]+stands[nothing], surprises)
	return s.String()
}
