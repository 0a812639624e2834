//go:build linux

package clients

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runm/runm/tests/internal/leak"
)

// setUp makes the sandbox from inside: mounts that nobody else sees, and
// private copies of what daemons write to; in /dev/shm are Podman's locks, all of
// which a first podman after a boot frees. $1 is the scratch directory. Its
// shell is process 1 there: it reaps, and when its stdin ends so does
// everything in the sandbox.
const setUp = `
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /opt
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir /run/lock
mount --bind "$1/etc" /etc
for d in containerd docker containers nerdctl cni; do
	mkdir -p "$1/var/$d" "/var/lib/$d"
	mount --bind "$1/var/$d" "/var/lib/$d"
done
ip link set lo up
echo ready
read -r _
`

// A sandbox is where one client, its daemon and its containers live.
type sandbox struct {
	t     *testing.T
	list  list
	dir   string // short: unix sockets below it must fit 108 bytes
	name  string // of cgroups and namespaces: nobody else's
	init  *exec.Cmd
	stdin io.Closer
}

// newSandbox makes a sandbox. It ends with the test, and everything in it.
func newSandbox(t *testing.T, l list) *sandbox {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "rc")
	must(t, err)
	s := &sandbox{t: t, list: l, dir: dir, name: filepath.Base(dir)}
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	if out, err := exec.Command("cp", "-a", "/etc", filepath.Join(dir, "etc")).CombinedOutput(); err != nil {
		t.Fatalf("copy /etc: %v: %s", err, out)
	}
	must(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o777))
	must(t, writeImages(s.image()))
	s.start()
	return s
}

func (s *sandbox) image() string { return filepath.Join(s.dir, "image.tar") }

func (s *sandbox) start() {
	s.t.Helper()
	var stderr bytes.Buffer
	s.init = exec.Command("bash", "-c", setUp, "sandbox", s.dir)
	s.init.Stderr = &stderr
	s.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Setsid:     true,
	}
	stdin, err := s.init.StdinPipe()
	must(s.t, err)
	s.stdin = stdin
	stdout, err := s.init.StdoutPipe()
	must(s.t, err)
	must(s.t, s.init.Start())
	s.t.Cleanup(s.end)
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		s.t.Fatalf("sandbox: %q: %s", line, stderr.String())
	}
}

// end ends process 1 of the sandbox, and so the whole of it: what is still
// there was found by left.
func (s *sandbox) end() {
	s.stdin.Close()
	_ = s.init.Process.Kill() // one that waits for its children reads no stdin
	_ = s.init.Wait()
	s.removeCgroups()
}

// script is a bash command line that has the functions of lib.sh and of the
// client's list, in the sandbox. rt is runc or runm.
func (s *sandbox) script(ctx context.Context, rt, line string) *exec.Cmd {
	uses, err := filepath.Abs("uses")
	must(s.t, err)
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(s.init.Process.Pid),
		"--pid", "--mount", "--net", "--ipc", "--uts", "--",
		"bash", "-c", `. "$USES/lib.sh"; . "$USES/$LIST.sh"; `+line)
	cmd.Env = []string{
		"PATH=" + filepath.Join(s.dir, "bin") + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=xterm", "LC_ALL=C.UTF-8",
		"TMPDIR=" + filepath.Join(s.dir, "tmp"),
		"USES=" + uses, "LIST=" + s.list.script, "CLIENT=" + s.list.client, "BUILT=" + tools.built,
		"SCRATCH=" + s.dir, "NAME=" + s.name, "IMAGE=" + imageName, "PAUSE=" + pauseName, "ARCHIVE=" + s.image(),
		"RT=" + rt, "RUNTIME=" + tools.runtimes[rt], "RUNM=" + tools.runtimes["runm"],
	}
	cmd.Dir = s.dir
	// A group of its own: what hangs is killed with what it has started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// run runs a line of script to its end, at most limit, and returns what it
// printed. The output is a file: a daemon that keeps it open is no obstacle.
func (s *sandbox) run(rt, line string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out, err := os.CreateTemp(s.dir, "out")
	must(s.t, err)
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := s.script(ctx, rt, line)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("had not ended after %v", limit)
	}
	text, rerr := os.ReadFile(out.Name())
	must(s.t, rerr)
	return string(text), err
}

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cgroups are the cgroups of the sandbox's name, deepest first. A client's
// parents of them are not a leak, what is below them is.
func (s *sandbox) cgroups() (parents, below []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/" + s.name, "/sys/fs/cgroup/*/" + s.name} {
		tops, err := filepath.Glob(pattern)
		must(s.t, err)
		for _, top := range tops {
			parents = append(parents, top)
			below = append(below, directories(top)...)
		}
	}
	return parents, below
}

// directories lists what is below top, children before their parents.
func directories(top string) []string {
	entries, err := os.ReadDir(top)
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range entries {
		if e.IsDir() {
			path := filepath.Join(top, e.Name())
			list = append(append(list, directories(path)...), path)
		}
	}
	return list
}

func (s *sandbox) removeCgroups() {
	parents, below := s.cgroups()
	for _, dir := range append(below, parents...) {
		// A process of the sandbox may be on its way out.
		for deadline := time.Now().Add(settle); ; time.Sleep(again) {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, os.ErrNotExist) {
				break
			}
			if time.Now().After(deadline) {
				s.t.Errorf("cgroup: %v", err)
				break
			}
		}
	}
}

// facts are what a runtime or client could leave in the sandbox.
type facts map[string]bool

// look lists processes, mounts, interfaces, cgroups and state.
func (s *sandbox) look() facts {
	f := facts{}
	pid := strconv.Itoa(s.init.Process.Pid)
	ns, err := os.Readlink("/proc/" + pid + "/ns/pid")
	must(s.t, err)
	processes, err := filepath.Glob("/proc/[0-9]*")
	must(s.t, err)
	for _, dir := range processes {
		if its, err := os.Readlink(dir + "/ns/pid"); err != nil || (its != ns && !s.inside(dir)) {
			continue // a zombie, which has none, counts as gone
		}
		if number, err := strconv.Atoi(filepath.Base(dir)); err != nil || leak.MakesTemplate(number) {
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		// Without its number: a use may start the daemon again.
		f["process "+strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))] = true
	}
	info, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	must(s.t, err)
	for line := range strings.Lines(string(info)) {
		f["mount "+strings.Fields(line)[4]] = true
	}
	links, err := os.ReadFile("/proc/" + pid + "/net/dev")
	must(s.t, err)
	for line := range strings.Lines(string(links)) {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			f["interface "+name] = true
		}
	}
	_, below := s.cgroups()
	for _, dir := range below {
		f["cgroup "+dir] = true
	}
	for _, pattern := range []string{"run/runm/*", "run/runc/*", "run/containerd/runc/*/*", "run/docker/runtime-*/*/*"} {
		found, err := filepath.Glob(filepath.Join("/proc", pid, "root", pattern))
		must(s.t, err)
		for _, path := range found {
			f["state "+strings.TrimPrefix(path, "/proc/"+pid+"/root")] = true
		}
	}
	return f
}

// inside says whether a process of another pid namespace, a container's, is in
// the sandbox: its NSpid line then has the sandbox's number between.
func (s *sandbox) inside(dir string) bool {
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "NSpid:") {
			// Host's, sandbox's, container's. Other sandboxes have the same
			// depth: the cgroup and the mounts tell them apart.
			if len(strings.Fields(line)) < 4 {
				return false
			}
			cgroup, _ := os.ReadFile(dir + "/cgroup")
			return strings.Contains(string(cgroup), s.name)
		}
	}
	return false
}

const (
	settle = 10 * time.Second
	again  = 50 * time.Millisecond
)

// leaks waits for what is on its way out, and returns what is there now and
// was not before.
func (s *sandbox) leaks(before facts) []string {
	for deadline := time.Now().Add(settle); ; time.Sleep(again) {
		var left []string
		for fact := range s.look() {
			if !before[fact] && !s.list.stays(fact) {
				left = append(left, fact)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}
