//go:build linux

package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/opencontainers/runc/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/agent/internal/mux"
	"github.com/runm/runm/guest/api"
)

// sessions returns the two ends of a session as host and guest have them. A
// socket takes the port's place: what the agent does with either is the same.
func sessions(t *testing.T) (host *yamux.Session, guest *mux.Session) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "host")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	host, err = api.Host(conn)
	if err != nil {
		t.Fatal(err)
	}
	port := &port{fd: fds[1]}
	guest = mux.New(port, api.StreamWindow, portWrite)
	t.Cleanup(func() {
		host.Close()
		for err == nil { // until it has seen the end
			_, err = guest.Accept()
		}
		port.Close()
	})
	return host, guest
}

// streamPair returns one stream's two ends.
func streamPair(t *testing.T) (host *yamux.Stream, guest *mux.Stream) {
	t.Helper()
	hs, gs := sessions(t)
	host, err := hs.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	guest, err = gs.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return host, guest
}

func pipe(t *testing.T, agentReads bool) (agent, child *os.File) {
	t.Helper()
	agent, child, err := newPipe(agentReads, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Close(); child.Close() })
	return agent, child
}

func TestOutputArrivesWhole(t *testing.T) {
	host, guest := streamPair(t)
	mine, theirs := pipe(t, true)
	go newOutput(mine, guest, true).run()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB, several windows
	go func() { theirs.Write(want); theirs.Close() }()
	got, err := io.ReadAll(host)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
	}
}

func TestOutputFlush(t *testing.T) {
	host, guest := streamPair(t)
	mine, theirs := pipe(t, true)
	o := newOutput(mine, guest, true)
	if _, err := theirs.Write(make([]byte, 100000)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { o.flush(); close(done) }()
	select {
	case <-done:
		t.Fatal("flush returned before anything was copied")
	case <-time.After(20 * time.Millisecond):
	}
	go o.run() // theirs stays open, as a background process keeps it
	go io.Copy(io.Discard, host)
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("flush waits for the end of the pipe")
	}
}

// thief opens the pipe anew, as a process can by /proc/PID/fd/1, and reads n
// bytes.
func thief(t *testing.T, pipe *os.File, n int) {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", pipe.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.ReadFull(f, make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

// What somebody else reads from the pipe is neither sent nor waited for, and
// ends nothing.
func TestOutputStolen(t *testing.T) {
	const written = 100000
	for _, stolen := range []int{1, written - spliceFrom/2, written} {
		t.Run(fmt.Sprint(stolen), func(t *testing.T) {
			host, guest := streamPair(t)
			mine, theirs := pipe(t, true)
			o := newOutput(mine, guest, true)
			if _, err := theirs.Write(make([]byte, written)); err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() { o.flush(); close(done) }()
			for counted := false; !counted; {
				o.mu.Lock()
				counted = o.flushed == written
				o.mu.Unlock()
				runtime.Gosched()
			}
			thief(t, theirs, stolen)
			go o.run() // theirs stays open
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Fatal("flush waits for what is not there any more")
			}
			if want := uint64(written - stolen); o.flushed != want {
				t.Errorf("flushed %d bytes, want %d", o.flushed, want)
			}
			if _, err := io.ReadFull(host, make([]byte, written-stolen)); err != nil {
				t.Error(err)
			}
			if _, err := theirs.WriteString("more"); err != nil {
				t.Error(err)
			}
			more := make([]byte, 4)
			if _, err := io.ReadFull(host, more); err != nil || string(more) != "more" {
				t.Errorf("later %q, %v", more, err)
			}
		})
	}
}

// Nor does it lose the session when it happens just after the agent has counted:
// here the host's window is full, so that what is claimed stays in the pipe.
func TestOutputStolenWhileClaimed(t *testing.T) {
	host, guest := streamPair(t)
	mine, theirs := pipe(t, true)
	o := newOutput(mine, guest, true)
	go o.run()
	block := make([]byte, pipeSize)
	if _, err := theirs.Write(block[:api.StreamWindow]); err != nil {
		t.Fatal(err)
	}
	for sent := uint64(0); sent < api.StreamWindow; runtime.Gosched() {
		if read, idle, _ := o.progress(); idle {
			sent = read
		}
	}
	if _, err := theirs.Write(block[:spliceFrom]); err != nil {
		t.Fatal(err)
	}
	for claimed := 0; claimed == 0; {
		o.mu.Lock()
		claimed = o.claimed
		o.mu.Unlock()
		runtime.Gosched()
	}
	thief(t, theirs, spliceFrom)
	if _, err := io.ReadFull(host, block[:api.StreamWindow]); err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.WriteString("more"); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if more, err := io.ReadAll(host); err != nil || string(more) != "more" {
		t.Errorf("later %q, %v", more, err)
	}
}

// A background process may write for ever: flush must still find its moment, and
// be exact.
func TestOutputFlushUnderFlood(t *testing.T) {
	host, guest := streamPair(t)
	mine, theirs := pipe(t, true)
	o := newOutput(mine, guest, true)
	go o.run()
	go func() {
		for block := make([]byte, 300000); ; {
			if _, err := theirs.Write(block); err != nil {
				return
			}
		}
	}()
	if _, err := io.CopyN(io.Discard, host, 4<<20); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { o.flush(); close(done) }()
	copied := make(chan uint64)
	go func() {
		n, _ := io.Copy(io.Discard, host)
		copied <- 4<<20 + uint64(n)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("flush waits for the flood's end")
	}
	theirs.Close()
	if n := <-copied; n < o.flushed {
		t.Errorf("the host got %d bytes, fewer than the %d that were counted", n, o.flushed)
	}
}

func TestOutputReaderGone(t *testing.T) {
	host, guest := streamPair(t)
	mine, theirs := pipe(t, true)
	go newOutput(mine, guest, true).run()
	host.Close()
	var err error
	for deadline := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(deadline); {
		_, err = theirs.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.EPIPE) {
		t.Errorf("got %v, want EPIPE", err)
	}
}

func TestOutputReaderGoneWhileBlocked(t *testing.T) {
	host, guest := streamPair(t)
	mine, theirs := pipe(t, true)
	go newOutput(mine, guest, true).run()
	werr := make(chan error, 1)
	go func() {
		_, err := theirs.Write(make([]byte, 16<<20)) // more than windows and pipe hold
		werr <- err
	}()
	if _, err := host.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	host.Close()
	select {
	case err := <-werr:
		if !errors.Is(err, unix.EPIPE) {
			t.Errorf("got %v, want EPIPE", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the writer is still blocked")
	}
}

func TestInput(t *testing.T) {
	host, guest := streamPair(t)
	mine, theirs := pipe(t, false)
	go pumpInput(mine, guest)
	go func() { io.WriteString(host, "input"); host.Close() }()
	got, err := io.ReadAll(theirs)
	if string(got) != "input" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := host.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("host reads %v, want EOF: the agent is done with the stream", err)
	}
}

func TestInputUnread(t *testing.T) {
	host, guest := streamPair(t)
	mine, theirs := pipe(t, false)
	go pumpInput(mine, guest)
	theirs.Close()
	host.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if n, err := host.Write(make([]byte, 8<<20)); err != nil {
		t.Errorf("stalled after %d bytes: %v", n, err)
	}
}

type fakeStream struct {
	stream
	id uint32
}

func (f fakeStream) StreamID() uint32 { return f.id }

func TestStreams(t *testing.T) {
	table := newStreams()
	table.put(fakeStream{id: 4})
	if s, err := table.take(t.Context(), 4); err != nil || s.StreamID() != 4 {
		t.Errorf("present: %v", err)
	}
	time.AfterFunc(10*time.Millisecond, func() { table.put(fakeStream{id: 6}) })
	if s, err := table.take(t.Context(), 6); err != nil || s.StreamID() != 6 {
		t.Errorf("late: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := table.take(ctx, 4); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("taken before: %v, want a deadline", err)
	}
}

func TestClaim(t *testing.T) {
	hs, gs := sessions(t)
	table := newStreams()
	var ids []uint32
	for range 2 {
		st, err := hs.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, st.StreamID())
		defer func() {
			if _, err := st.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("stream %d: %v, want it closed", st.StreamID(), err)
			}
		}()
		got, err := gs.Accept()
		if err != nil {
			t.Fatal(err)
		}
		table.put(got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := table.claim(ctx, &api.Stdio{Stdin: ids[0], Stdout: ids[1], Stderr: 99})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "stderr") {
		t.Errorf("got %v", err)
	}
}

func TestRetire(t *testing.T) {
	c := &container{procs: map[string]*proc{"": {}}}
	for i := range maxFinished + 10 {
		id := fmt.Sprint(i)
		c.procs[id] = &proc{}
		c.retire(id)
	}
	if len(c.procs) != maxFinished+1 || c.procs[""] == nil || c.procs["9"] != nil || c.procs["10"] == nil {
		t.Errorf("%d remembered", len(c.procs))
	}
}

func TestFindPort(t *testing.T) {
	class := t.TempDir()
	for name, content := range map[string]string{"vport0p0": "\n", "vport1p1": api.PortName + "\n"} {
		if err := os.Mkdir(filepath.Join(class, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, name, "name"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := findPort(class, api.PortName); got != "/dev/vport1p1" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := findPort(class, "other"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestReaper(t *testing.T) {
	r := newReaper()
	die := func() int {
		cmd := exec.Command("true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Until it is a zombie, not reaped.
		if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
		return cmd.Process.Pid
	}
	isZombie := func(pid int) bool { return slices.Contains(zombies("/proc", os.Getpid()), pid) }
	own, orphan := die(), die()
	r.begin()
	if r.sweep() || !isZombie(orphan) {
		t.Error("swept while a start is under way")
	}
	r.end(own)
	if !r.sweep() || isZombie(orphan) || !isZombie(own) {
		t.Errorf("orphan left: %v, own stolen: %v", isZombie(orphan), !isZombie(own))
	}
	r.waited(own)
	r.begin()
	r.end(0) // a start that failed
	if !r.sweep() || isZombie(own) {
		t.Error("a pid nobody waits for any more is left")
	}
}

func TestDecodeSpec(t *testing.T) {
	good := `{"process":{"args":["x"],"cwd":"/"},"root":{"path":"` + api.ShareMountpoint + `/rootfs/c"},
		"linux":{"cgroupsPath":"/../escape"},"hooks":{"prestart":[{"path":"/a"}],"startContainer":[{"path":"/b"}]}}`
	spec, err := decodeSpec("c", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if spec.Linux.CgroupsPath != "/c" || len(spec.Hooks.StartContainer) != 1 || spec.Hooks.Prestart != nil { //nolint:staticcheck // checked to be gone
		t.Errorf("spec: %+v %+v", spec.Linux, spec.Hooks)
	}
	for text, want := range map[string]error{
		`{"root":{"path":"/run/runm/share/x"}}`:                 errProcess,
		`{"process":{}}`:                                        errRootfs,
		`{"process":{},"root":{"path":"/"}}`:                    errRootfs,
		`{"process":{},"root":{"path":"/run/runm/share"}}`:      errRootfs,
		`{"process":{},"root":{"path":"/run/runm/share/../x"}}`: errRootfs,
		`{"process":{},"root":{"path":"/run/runm/shared/x"}}`:   errRootfs,
	} {
		if _, err := decodeSpec("c", []byte(text)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
}

func TestCheckID(t *testing.T) {
	for id, ok := range map[string]bool{
		"c1": true, strings.Repeat("x", 1024): true,
		"": false, "a/b": false, strings.Repeat("x", 1025): false,
	} {
		if err := checkID(id); (err == nil) != ok {
			t.Errorf("%.20q: %v", id, err)
		}
	}
}

func TestNewProcess(t *testing.T) {
	lp, err := newProcess(&specs.Process{
		Args: []string{"x"}, Cwd: "/",
		User:    specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{3}},
		Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 20, Soft: 10}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if lp.UID != 1 || lp.GID != 2 || !slices.Equal(lp.AdditionalGroups, []int{3}) || lp.Capabilities != nil {
		t.Errorf("%+v", lp)
	}
	if len(lp.Rlimits) != 2 || lp.Rlimits[0].Soft != 10 || lp.Rlimits[1].Type != unix.RLIMIT_MEMLOCK {
		t.Errorf("rlimits: %+v", lp.Rlimits)
	}
	if lp.Env == nil {
		t.Error("no list of variables: HOME would not be set")
	}
	for _, bad := range []*specs.Process{
		nil, {}, {Args: []string{"x"}}, {Args: []string{"x"}, Cwd: "rel"},
		{Args: []string{"x"}, Cwd: "/", Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_TEST"}}},
	} {
		if _, err := newProcess(bad); !errors.Is(err, errProcess) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestExitStatus(t *testing.T) {
	for script, want := range map[string]uint32{"exit 3": 3, "kill -9 $$": 137, "true": 0} {
		cmd := exec.Command("sh", "-c", script)
		cmd.Run()
		if got := exitStatus(cmd.ProcessState); got != want {
			t.Errorf("%s: %d, want %d", script, got, want)
		}
	}
	if got := exitStatus(nil); got != 137 {
		t.Errorf("unknown: %d", got)
	}
}

func TestParseStat(t *testing.T) {
	line := "42 (a) b (c)) S 7 42 42 34817 42 4194304 1 0 0 0 150 50 0 0 20 0 1 0 12345 1 1 18446744073709551615"
	st, err := parseStat(line)
	want := stat{comm: "a) b (c)", state: 'S', ppid: 7, tty: 34817, utime: 150, stime: 50, start: 12345}
	if err != nil || st != want {
		t.Errorf("%+v, %v", st, err)
	}
	if got := ttyName(st.tty); got != "pts/1" {
		t.Errorf("tty %q", got)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1", "1 (x) S a b c d e f g h i j k l m n o p q r s t u"} {
		if _, err := parseStat(bad); !errors.Is(err, errStat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":              "net/ipv4/ip_forward",
		"net/ipv4/conf/eno2.100/rp_filter": "net/ipv4/conf/eno2.100/rp_filter",
		"net.ipv4.conf.eno2/100.rp_filter": "net/ipv4/conf/eno2.100/rp_filter",
		"hostname":                         "hostname",
		"":                                 "", "..": "", "net/../../x": "", "/etc/passwd": "", "a..b": "", ".": "",
	} {
		got, err := sysctlPath(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestTakeGuestSysctls(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "net/ipv4"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "net/ipv4/ip_forward")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l := &specs.Linux{
		Namespaces: []specs.LinuxNamespace{{Type: specs.IPCNamespace}},
		Sysctl:     map[string]string{"net.ipv4.ip_forward": "1", "kernel.sem": "1 2 3 4"},
	}
	if err := takeGuestSysctls(root, l); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "1" || len(l.Sysctl) != 1 || l.Sysctl["kernel.sem"] == "" {
		t.Errorf("wrote %q, left %v", got, l.Sysctl)
	}
	// One that it joins is its own, too.
	l.Namespaces[0].Path = "/proc/5/ns/ipc"
	l.Sysctl = map[string]string{"kernel.sem": "1 2 3 4"}
	if err := takeGuestSysctls(root, l); err != nil || len(l.Sysctl) != 1 {
		t.Errorf("of a joined namespace: %v, left %v", err, l.Sysctl)
	}
	l.Sysctl = map[string]string{"net.ipv4.nonsuch": "1"}
	if err := takeGuestSysctls(root, l); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "linux.sysctl.net.ipv4.nonsuch") {
		t.Errorf("unknown: %v", err)
	}
}

func TestPoolInfo(t *testing.T) {
	info := poolInfo([]byte("0123"))
	if binary.NativeEndian.Uint32(info) != 256 || binary.NativeEndian.Uint32(info[4:]) != 4 || string(info[8:]) != "0123" {
		t.Errorf("%v", info)
	}
}

func TestFilesystems(t *testing.T) {
	got := filesystems("nodev\tsysfs\nnodev\ttmpfs\n\text4\n")
	if !slices.Equal(got, []string{"sysfs", "tmpfs", "ext4"}) {
		t.Errorf("%v", got)
	}
}

// The agent is the guest's: it knows the protocol and nothing of the host side;
// and what it links is paid for at every start of a process.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-tags", "seccomp netgo osusergo runc_nocriu", "github.com/runm/runm/guest/cmd/agent").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		for _, bad := range []string{"github.com/runm/runm/libvm", "github.com/urfave", "net/http", "github.com/checkpoint-restore"} {
			if dep == bad || strings.HasPrefix(dep, bad+"/") {
				t.Errorf("the agent depends on %s", dep)
			}
		}
	}
}

func TestParseCounters(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     840      10    0    0    0     0          0         0      840      10    0    0    0     0       0          0
  eth0:    1250      13    1    2    0     0          0         0     1830      19    3    4    0     0       0          0
spare1:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
`
	got := parseCounters(text)
	if len(got) != 1 {
		t.Fatalf("%d interfaces, want eth0", len(got))
	}
	want := types.NetworkInterface{Name: "eth0", RxBytes: 1250, RxPackets: 13, RxErrors: 1, RxDropped: 2, TxBytes: 1830, TxPackets: 19, TxErrors: 3, TxDropped: 4}
	if *got[0] != want {
		t.Errorf("got %+v, want %+v", *got[0], want)
	}
}

func TestJoinNamespaces(t *testing.T) {
	pids := func(id string) (int, error) {
		if id == "pod" {
			return 42, nil
		}
		return 0, errNoContainer
	}
	for _, c := range []struct {
		ns   specs.LinuxNamespace
		want string
		err  error
	}{
		{specs.LinuxNamespace{Type: specs.IPCNamespace}, "", nil},
		{specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "container:pod"}, "/proc/42/ns/ipc", nil},
		{specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "container:pod"}, "/proc/42/ns/pid", nil},
		{specs.LinuxNamespace{Type: specs.UTSNamespace, Path: "container:gone"}, "", errNoContainer},
		{specs.LinuxNamespace{Type: specs.MountNamespace, Path: "container:pod"}, "", errNamespace},
		{specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/proc/1/ns/ipc"}, "", errNamespace},
	} {
		spec := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{c.ns}}}
		err := joinNamespaces(spec, pids)
		if !errors.Is(err, c.err) || err == nil && spec.Linux.Namespaces[0].Path != c.want {
			t.Errorf("%v: %q, %v; want %q, %v", c.ns, spec.Linux.Namespaces[0].Path, err, c.want, c.err)
		}
	}
}

func TestCheckSources(t *testing.T) {
	here := specs.Mount{Destination: "/a", Type: "bind", Source: t.TempDir()}
	gone := specs.Mount{Destination: "/b", Type: "bind", Source: "/sys/no/such"}
	for _, mounts := range [][]specs.Mount{nil, {here}, {{Destination: "/proc", Type: "proc", Source: "proc"}}} {
		if err := checkSources(mounts); err != nil {
			t.Errorf("%+v: %v", mounts, err)
		}
	}
	err := checkSources([]specs.Mount{here, gone})
	if err == nil || !strings.Contains(err.Error(), "mount at /b: /sys/no/such: no such file or directory in the guest") {
		t.Errorf("%v, want an error that says where it is not", err)
	}
}

func TestShmRefuses(t *testing.T) {
	s := newShms(api.ShmDir)
	for _, source := range []string{"/x", "/x/y", "/-1/y", "/10", "/10/", "/10/..", "/10/../../etc", "/10/."} {
		spec := &specs.Spec{Mounts: []specs.Mount{{Destination: "/dev/shm", Source: api.ShmDir + source}}}
		if err := s.prepare(spec); !errors.Is(err, errShm) {
			t.Errorf("%s: %v, want %v", source, err, errShm)
		}
	}
	if len(s.made) != 0 {
		t.Errorf("made %v", s.made)
	}
}
