//go:build linux

package agent_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runm/runm/guest/agent/agenttest"
	"github.com/runm/runm/guest/api"
)

// wantError checks an error's code and that its text contains want.
func wantError(t *testing.T, err error, code codes.Code, want string) {
	t.Helper()
	if status.Code(err) != code || err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %v with %q", err, code, want)
	}
}

// started creates and starts a container whose output is dropped.
func started(t *testing.T, vm *agenttest.VM, id string, spec *specs.Spec) {
	t.Helper()
	vm.Rootfs(t, id)
	vm.MustCreate(t, id, spec, &api.Stdio{})
	vm.MustStart(t, id)
	t.Cleanup(func() { remove(vm, id) })
}

// remove kills and deletes a container.
func remove(vm *agenttest.VM, id string) {
	ctx, cancel := contextWithTimeout()
	defer cancel()
	vm.Signal(ctx, &api.SignalRequest{Id: id, Signal: uint32(unix.SIGKILL), All: true})
	vm.Wait(ctx, &api.WaitRequest{Id: id})
	vm.Delete(ctx, &api.ContainerRequest{Id: id})
}

// sh is a specification that runs a shell script.
func sh(id, script string) *specs.Spec { return agenttest.Spec(id, "sh", "-c", script) }

// execSh runs a script in a container and returns its output and status.
func execSh(t *testing.T, vm *agenttest.VM, id, execID, script string) (string, uint32) {
	t.Helper()
	out := vm.Stream(t)
	p := sh(id, script).Process
	_, err := vm.Exec(t.Context(), &api.ExecRequest{
		Id: id, ExecId: execID, Process: agenttest.Encode(t, p),
		Stdio: &api.Stdio{Stdout: out.StreamID()},
	})
	if err != nil {
		t.Fatal(err)
	}
	output := agenttest.Collect(out)
	code := vm.MustWait(t, id, execID).GetStatus()
	return <-output, code
}

func testHelloAgain(t *testing.T, vm *agenttest.VM) {
	if _, err := vm.Hello(t.Context(), vm.HelloRequest()); err != nil {
		t.Error(err)
	}
	req := vm.HelloRequest()
	req.Version++
	_, err := vm.Hello(t.Context(), req)
	wantError(t, err, codes.FailedPrecondition, "different versions")
	req = vm.HelloRequest()
	req.ShareTag = "other"
	_, err = vm.Hello(t.Context(), req)
	wantError(t, err, codes.FailedPrecondition, "another share")
}

func testRun(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "c1")
	for i := range 3 {
		begin := time.Now()
		out, errs, code := vm.Run(t, "c1", sh("c1", "cat; echo err >&2; exit 7"), "hello\n")
		if out != "hello\n" || errs != "err\n" || code != 7 {
			t.Errorf("got %q %q %d, want \"hello\\n\" \"err\\n\" 7", out, errs, code)
		}
		t.Logf("run %d: %v", i, time.Since(begin))
	}
}

func testInherit(t *testing.T, vm *agenttest.VM) {
	root := vm.Rootfs(t, "inherit")
	out, errs, _ := vm.Run(t, "inherit", sh("inherit",
		"cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn; ulimit -l; ls /proc/self/fd | wc -l; hostname; echo made > /tmp/made"), "")
	if want := "0\n1024\n1048576\n8192\n4\ninherit\n"; out != want {
		t.Errorf("got %q %q, want %q", out, errs, want)
	}
	if made, err := os.ReadFile(filepath.Join(root, "tmp/made")); string(made) != "made\n" {
		t.Errorf("file on the host: %q, %v", made, err)
	}
}

func testErrors(t *testing.T, vm *agenttest.VM) {
	root := vm.Rootfs(t, "bad")
	if err := os.WriteFile(filepath.Join(root, "bin/plain"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id   string
		spec *specs.Spec
		code codes.Code
		want string
	}{
		{"bad", agenttest.Spec("bad", "nonsuch"), codes.Unknown, "executable file not found in $PATH"},
		{"bad", agenttest.Spec("bad", "/nonsuch"), codes.Unknown, "no such file or directory"},
		{"bad", agenttest.Spec("bad", "/bin/plain"), codes.Unknown, "permission denied"},
		{"bad", agenttest.Spec("elsewhere", "true"), codes.Unknown, "no such file or directory"},
		{"a/b", agenttest.Spec("bad", "true"), codes.InvalidArgument, "invalid container ID"},
		{"", agenttest.Spec("bad", "true"), codes.InvalidArgument, "invalid container ID"},
		{"bad", &specs.Spec{Process: &specs.Process{}, Root: &specs.Root{Path: "/run"}}, codes.InvalidArgument, "not below the share"},
	} {
		_, err := vm.Create(t.Context(), &api.CreateRequest{Id: c.id, Spec: agenttest.Encode(t, c.spec), Stdio: &api.Stdio{}})
		wantError(t, err, c.code, c.want)
	}
	_, err := vm.Create(t.Context(), &api.CreateRequest{Id: "bad", Spec: []byte("{")})
	wantError(t, err, codes.Unknown, "config")
	_, err = vm.Start(t.Context(), &api.StartRequest{Id: "nobody"})
	wantError(t, err, codes.NotFound, "container does not exist")
	// Nothing of the failures is in the way of a success.
	if _, _, code := vm.Run(t, "bad", agenttest.Spec("bad", "true"), ""); code != 0 {
		t.Errorf("status %d", code)
	}
}

func testExec(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "exec")
	vm.MustCreate(t, "exec", sh("exec", "sleep 1000"), &api.Stdio{})
	defer remove(vm, "exec")
	if out, code := execSh(t, vm, "exec", "created", "echo in $HOME; exit 3"); out != "in /\n" && out != "in \n" || code != 3 {
		t.Errorf("in created: %q %d", out, code)
	}
	vm.MustStart(t, "exec")
	begin := time.Now()
	if out, code := execSh(t, vm, "exec", "running", "readlink /proc/1/exe; cat /proc/self/oom_score_adj"); out != "/bin/busybox\n0\n" || code != 0 {
		t.Errorf("in running: %q %d", out, code)
	}
	t.Logf("exec: %v", time.Since(begin))
	// Wait may come again, also for init's execs.
	if code := vm.MustWait(t, "exec", "created").GetStatus(); code != 3 {
		t.Errorf("second wait: %d", code)
	}
	p := agenttest.Encode(t, sh("exec", "true").Process)
	_, err := vm.Exec(t.Context(), &api.ExecRequest{Id: "exec", ExecId: "running", Process: p, Stdio: &api.Stdio{}})
	wantError(t, err, codes.AlreadyExists, "already exists")
	_, err = vm.Exec(t.Context(), &api.ExecRequest{Id: "exec", ExecId: "x", Process: agenttest.Encode(t, agenttest.Spec("exec", "nonsuch").Process), Stdio: &api.Stdio{}})
	wantError(t, err, codes.Unknown, "executable file not found in $PATH")
	vm.Signal(t.Context(), &api.SignalRequest{Id: "exec", Signal: uint32(unix.SIGKILL)})
	vm.MustWait(t, "exec", "")
	_, err = vm.Exec(t.Context(), &api.ExecRequest{Id: "exec", ExecId: "y", Process: p, Stdio: &api.Stdio{}})
	wantError(t, err, codes.FailedPrecondition, "cannot exec in a stopped container")
}

// A background process that keeps stdout open does not keep Wait from answering,
// and its output still arrives.
func testBackground(t *testing.T, vm *agenttest.VM) {
	started(t, vm, "bg", sh("bg", "sleep 1000"))
	out := vm.Stream(t)
	_, err := vm.Exec(t.Context(), &api.ExecRequest{
		Id: "bg", ExecId: "e",
		Process: agenttest.Encode(t, sh("bg", "mkfifo /tmp/gate; (read x </tmp/gate; echo late) & yes | head -c 300000").Process),
		Stdio:   &api.Stdio{Stdout: out.StreamID()},
	})
	if err != nil {
		t.Fatal(err)
	}
	// Wait answers only once all this is sent, and more than a window may be
	// unread meanwhile; 300000 bytes are less.
	if end := vm.MustWait(t, "bg", "e"); end.GetStatus() != 0 || end.GetStdoutBytes() != 300000 || end.GetStderrBytes() != 0 {
		t.Errorf("%v, want status 0 and 300000 bytes", end)
	}
	if _, err := io.ReadFull(out, make([]byte, 300000)); err != nil {
		t.Fatal(err)
	}
	execSh(t, vm, "bg", "gate", "echo open >/tmp/gate")
	if got := <-agenttest.Collect(out); got != "late\n" {
		t.Errorf("got %q from the background process, want \"late\\n\"", got)
	}
}

func testTerminal(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "tty")
	spec := sh("tty", "tty; stty size; read x; stty size; echo got $x")
	spec.Process.Terminal = true
	in, out := vm.Stream(t), vm.Stream(t)
	vm.MustCreate(t, "tty", spec, &api.Stdio{Stdin: in.StreamID(), Stdout: out.StreamID(), Terminal: true, Width: 100, Height: 30})
	defer remove(vm, "tty")
	vm.MustStart(t, "tty")
	buf := make([]byte, 256)
	var got string
	for !strings.Contains(got, "30 100") {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		got += string(buf[:n])
	}
	if _, err := vm.Resize(t.Context(), &api.ResizeRequest{Id: "tty", Width: 80, Height: 24}); err != nil {
		t.Error(err)
	}
	rest := agenttest.Collect(out)
	io.WriteString(in, "it\r")
	if code := vm.MustWait(t, "tty", "").GetStatus(); code != 0 {
		t.Errorf("status %d", code)
	}
	got += <-rest
	in.Close()
	if want := "/dev/pts/0\r\n30 100\r\nit\r\n24 80\r\ngot it\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func testHangUp(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "hup")
	spec := sh("hup", "trap 'echo hup > /tmp/hup; exit 9' HUP; echo ready; while :; do sleep 1; done")
	spec.Process.Terminal = true
	in, out := vm.Stream(t), vm.Stream(t)
	vm.MustCreate(t, "hup", spec, &api.Stdio{Stdin: in.StreamID(), Stdout: out.StreamID(), Terminal: true})
	defer remove(vm, "hup")
	vm.MustStart(t, "hup")
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if code := vm.MustWait(t, "hup", "").GetStatus(); code != 9 {
		t.Errorf("status %d, want 9 from the trap", code)
	}
	out.Close()
}

func testBrokenPipe(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "epipe")
	out := vm.Stream(t)
	vm.MustCreate(t, "epipe", agenttest.Spec("epipe", "sh", "-c", "yes; echo $? > /tmp/status; exit 5"), &api.Stdio{Stdout: out.StreamID()})
	defer remove(vm, "epipe")
	vm.MustStart(t, "epipe")
	if _, err := io.ReadFull(out, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	out.Close()
	if code := vm.MustWait(t, "epipe", "").GetStatus(); code != 5 {
		t.Errorf("status %d, want 5", code)
	}
	if n, err := out.Read(make([]byte, 10)); n < 0 || err == io.ErrUnexpectedEOF {
		t.Error(n, err)
	}
}

// A container that does not read its input does not stall the host for ever:
// the agent closes its side and drops the rest.
func testStdinUnread(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "unread")
	in := vm.Stream(t)
	vm.MustCreate(t, "unread", sh("unread", "exec 0</dev/null; sleep 1000"), &api.Stdio{Stdin: in.StreamID()})
	defer remove(vm, "unread")
	vm.MustStart(t, "unread")
	in.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if n, err := in.Write(make([]byte, 8<<20)); err != nil {
		t.Errorf("after %d bytes: %v", n, err)
	}
	in.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := in.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v, want EOF from the agent", err)
	}
	in.Close()
}

func testSignals(t *testing.T, vm *agenttest.VM) {
	started(t, vm, "sig", sh("sig", "trap 'exit 42' USR1; while :; do sleep 0.1; done"))
	if _, err := vm.Signal(t.Context(), &api.SignalRequest{Id: "sig", Signal: uint32(unix.SIGUSR1)}); err != nil {
		t.Fatal(err)
	}
	// The trap may not be set yet when the signal comes; init ignores it then.
	done := make(chan uint32, 1)
	go func() { done <- vm.MustWait(t, "sig", "").GetStatus() }()
	for {
		select {
		case code := <-done:
			if code != 42 {
				t.Errorf("status %d, want 42", code)
			}
			_, err := vm.Signal(t.Context(), &api.SignalRequest{Id: "sig", Signal: uint32(unix.SIGTERM)})
			wantError(t, err, codes.NotFound, "process already finished")
			return
		case <-time.After(200 * time.Millisecond):
			vm.Signal(t.Context(), &api.SignalRequest{Id: "sig", Signal: uint32(unix.SIGUSR1)})
		}
	}
}

func testSharedPID(t *testing.T, vm *agenttest.VM) {
	vm.Rootfs(t, "shared")
	spec := sh("shared", "sleep 1000 & echo; exit 0")
	spec.Linux.Namespaces = spec.Linux.Namespaces[1:]
	out := vm.Stream(t)
	vm.MustCreate(t, "shared", spec, &api.Stdio{Stdout: out.StreamID()})
	output := agenttest.Collect(out)
	vm.MustStart(t, "shared")
	if code := vm.MustWait(t, "shared", "").GetStatus(); code != 0 {
		t.Errorf("status %d", code)
	}
	// sleep held it: it ends only because sleep was killed.
	if got := <-output; got != "\n" {
		t.Errorf("got %q", got)
	}
	if _, err := vm.Delete(t.Context(), &api.ContainerRequest{Id: "shared"}); err != nil {
		t.Error(err)
	}
}

func testPause(t *testing.T, vm *agenttest.VM) {
	started(t, vm, "pause", sh("pause", "sleep 1000"))
	c := &api.ContainerRequest{Id: "pause"}
	_, err := vm.Resume(t.Context(), c)
	wantError(t, err, codes.FailedPrecondition, "container not paused")
	if _, err := vm.Pause(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	_, err = vm.Exec(t.Context(), &api.ExecRequest{Id: "pause", ExecId: "e", Process: []byte(`{"args":["true"],"cwd":"/"}`), Stdio: &api.Stdio{}})
	wantError(t, err, codes.FailedPrecondition, "paused")
	if _, err := vm.Resume(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, code := execSh(t, vm, "pause", "after", "true"); code != 0 {
		t.Errorf("status %d", code)
	}
	// A paused container can be killed.
	if _, err := vm.Pause(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Signal(t.Context(), &api.SignalRequest{Id: "pause", Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	if code := vm.MustWait(t, "pause", "").GetStatus(); code != 128+uint32(unix.SIGKILL) {
		t.Errorf("status %d, want 137", code)
	}
	_, err = vm.Pause(t.Context(), c)
	wantError(t, err, codes.FailedPrecondition, "container not running")
}
