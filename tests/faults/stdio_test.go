//go:build linux

package faults

import (
	"bufio"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// copyMiB is how much is copied through a container; the long run takes 1024.
var copyMiB = flag.Int("mib", 256, "MiB to copy through a container")

// pipe is one that ends with the test.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// startPiped creates and starts the container with a pipe as its stdout, and
// returns the end to read from.
func (c *container) startPiped() *os.File {
	c.t.Helper()
	r, w := pipe(c.t)
	cmd := c.creation()
	cmd.Stdout = w
	if res := c.finish(cmd); res.code != 0 {
		c.t.Fatalf("create: status %d: %s", res.code, c.read("stderr"))
	}
	c.must(w.Close())
	c.runs("start", c.id)
	return r
}

// waitFull waits until nothing more fits into the pipe: that is not a number of
// bytes, as its pages need not be full.
func waitFull(t *testing.T, r *os.File) {
	t.Helper()
	w, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", r.Fd()), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(w)
	waitFor(t, "a full pipe", commandTime, func() bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(w), Events: unix.POLLOUT}}, 0)
		return err == nil && n == 0
	})
}

// What goes through a container comes out as it went in.
func TestBigCopy(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("exec cat")
	c.save()
	cmd := c.command("run", "--bundle", c.bundle, c.id)
	in, err := cmd.StdinPipe()
	c.must(err)
	out, err := cmd.StdoutPipe()
	c.must(err)
	cmd.Stderr = c.output("stderr")
	c.must(cmd.Start())
	began := time.Now()
	size := int64(*copyMiB) << 20
	sent := sha256.New()
	fed := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(in, sent), rand.NewChaCha8([32]byte{}), size)
		in.Close()
		fed <- err
	}()
	got := sha256.New()
	n, err := io.Copy(got, out)
	c.must(err)
	c.must(<-fed)
	if code := c.end(cmd, commandTime); code != 0 {
		t.Errorf("run: status %d: %s", code, c.read("stderr"))
	}
	if n != size || string(got.Sum(nil)) != string(sent.Sum(nil)) {
		t.Errorf("%d bytes came out of %d, and they are not the same", n, size)
	}
	t.Logf("%d MiB in %v", *copyMiB, time.Since(began).Round(time.Millisecond))
	c.wantNothing()
}

// A reader slower than the writer gets everything, also what the container had
// written long before it ended.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	c := newBox(t).container(fmt.Sprintf("head -c %d /dev/zero; echo end", size))
	c.save()
	cmd := c.command("run", "--bundle", c.bundle, c.id)
	out, err := cmd.StdoutPipe()
	c.must(err)
	cmd.Stderr = c.output("stderr")
	c.must(cmd.Start())
	buf := make([]byte, 64<<10)
	total, last := 0, ""
	for {
		n, err := out.Read(buf)
		total += n
		if n > 0 {
			last = string(buf[max(0, n-4):n])
		}
		if err == io.EOF {
			break
		}
		c.must(err)
		time.Sleep(10 * time.Millisecond) // being slow is the input of this test
	}
	if code := c.end(cmd, soon); code != 0 || total != size+4 || last != "end\n" {
		t.Errorf("status %d, %d bytes, want %d; the last are %q: %s", code, total, size+4, last, c.read("stderr"))
	}
	c.wantNothing()
}

// A reader that goes away ends the writer by SIGPIPE.
func TestReaderCloses(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("yes; exit $?")
	c.save()
	cmd := c.command("run", "--bundle", c.bundle, c.id)
	out, err := cmd.StdoutPipe()
	c.must(err)
	cmd.Stderr = c.output("stderr")
	c.must(cmd.Start())
	_, err = io.ReadFull(out, make([]byte, 1000))
	c.must(err)
	c.must(out.Close())
	if code := c.end(cmd, commandTime); code != 128+int(unix.SIGPIPE) {
		t.Errorf("run: status %d, want %d: %s", code, 128+int(unix.SIGPIPE), c.read("stderr"))
	}
	c.wantNothing()
}

// What a container wrote is in its file as soon as the runtime says that it has
// stopped.
func TestOutputIsCompleteWhenStopped(t *testing.T) {
	t.Parallel()
	const size = 16 << 20
	c := newBox(t).container("dd if=/dev/zero bs=1M count=16")
	c.create()
	c.runs("start", c.id)
	c.waitStopped(commandTime)
	if n := len(c.read("stdout")); n != size {
		t.Errorf("%d bytes of %d", n, size)
	}
	c.runs("delete", c.id)

	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	c.must(err)
	defer null.Close()
	cmd := c.command("run", "--bundle", c.bundle, c.id)
	cmd.Stdin, cmd.Stdout = null, null
	if r := c.finish(cmd); r.code != 0 {
		t.Errorf("run into /dev/null: status %d: %s", r.code, r.stderr)
	}
	c.wantNothing()
}

// A process that floods a pipe nobody reads holds up nobody else, and can be
// killed.
func TestFlood(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("trap '' USR1; echo up >&2; exec yes")
	r := c.startPiped()
	c.prints("stderr", "up\n")
	waitFull(t, r)
	for _, args := range [][]string{{"exec", c.id, "true"}, {"state", c.id}, {"kill", c.id, "USR1"}, {"exec", c.id, "true"}} {
		c.runs(args...) // what waits for the reader lasts for ever
	}
	// An exec that floods is no different, and its stub's end is its end.
	flood := c.command("exec", c.id, "sh", "-c", "exec yes flood")
	fr, fw := pipe(t)
	flood.Stdout = fw
	c.must(flood.Start())
	c.must(fw.Close())
	waitFull(t, fr)
	c.runs("exec", c.id, "true")
	c.must(flood.Process.Kill())
	_ = flood.Wait()
	c.waitNoProcess("yes flood")

	holder := c.processes()["holder"]
	c.runs("kill", c.id, "KILL")
	c.runs("delete", "--force", c.id)
	if line := commandLine(holder); line != "" {
		t.Errorf("the holder is still there: %s", line)
	}
	c.wantNothing()
}

// A process that reads what a container writes, as `cat /proc/1/fd/1` does,
// takes its share, and the rest goes on to where it went.
func TestOutputIsReadInside(t *testing.T) {
	t.Parallel()
	const size = 8 << 20 // more than everything on the way holds
	c := newBox(t).container(fmt.Sprintf("head -c %d /dev/zero; echo done >&2; exec sleep 1000", size))
	r := c.startPiped()
	waitFull(t, r)
	c.runs("exec", c.id, "true") // the agent has time to count what it will send when there is room
	cat := c.spawn("cat", "exec", c.id, "cat", "/proc/1/fd/1")
	c.prints("stderr", "done\n")
	c.runs("exec", c.id, "sh", "-c", "echo last >/proc/1/fd/1")
	c.prints("cat.stdout", "last\n")
	c.must(cat.Process.Kill()) // and there is nothing of that any more
	_ = cat.Wait()
	c.waitNoProcess("cat /proc/1/fd/1")

	c.must(r.SetReadDeadline(time.Now().Add(commandTime)))
	if _, err := io.CopyN(io.Discard, r, int64(size-len(c.read("cat.stdout"))+len("last\n"))); err != nil {
		t.Fatalf("what cat did not take: %v", err)
	}
	c.runs("exec", c.id, "sh", "-c", "echo late >/proc/1/fd/1")
	late := make([]byte, 5)
	if _, err := io.ReadFull(r, late); err != nil || string(late) != "late\n" {
		t.Errorf("later output is %q, %v", late, err)
	}
	c.wantStatus(specs.StateRunning)
	c.runs("delete", "--force", c.id)
	c.wantNothing()
}

// running counts the container's processes that have text in their command
// line.
func (c *container) running(text string) int {
	c.t.Helper()
	return strings.Count(c.runs("ps", c.id), text)
}

// waitNoProcess waits until there is none.
func (c *container) waitNoProcess(text string) {
	c.t.Helper()
	if !strings.Contains(c.runs("ps", c.id), "PID") {
		c.t.Fatal("ps shows no table")
	}
	waitFor(c.t, "no "+text, commandTime, func() bool { return c.running(text) == 0 })
}

// SIGKILL ends a container whose output nobody reads: like any process, it does
// not outlive the signal for the sake of its output.
func TestKillFlood(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("exec yes")
	r := c.startPiped()
	waitFull(t, r)
	c.runs("kill", c.id, "KILL")
	c.waitStopped(soon)
	c.runs("delete", c.id)
	c.wantNothing()
}

// The output of short processes is whole.
func TestExecOutputIsWhole(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("echo up; exec sleep 1000")
	c.up()
	for i := range 15 {
		want := strconv.Itoa(i) + "\n"
		r := c.try("exec", c.id, "sh", "-c", fmt.Sprintf("echo %d; echo %d >&2; exit %d", i, i, i))
		if r.code != i || r.stdout != want || r.stderr != want {
			t.Errorf("exec %d: status %d, %q %q", i, r.code, r.stdout, r.stderr)
		}
	}
	// A child that holds its output keeps no exec from returning, and its
	// output goes on where it went.
	background := c.spawn("background", "exec", c.id, "sh", "-c",
		"(while test ! -e /tmp/gate; do sleep 0.1; done; echo late; exec sleep 1000) & echo started")
	if code := c.end(background, soon); code != 0 || c.read("background.stdout") != "started\n" {
		t.Errorf("exec with a child: status %d: %q", code, c.read("background.stdout"))
	}
	c.runs("exec", c.id, "sh", "-c", "echo >/tmp/gate")
	c.prints("background.stdout", "late\n")
	waitFor(t, "init and the exec's child in ps", soon, func() bool { return c.running("sleep 1000") == 2 })
	c.runs("delete", "--force", c.id)
	c.wantNothing()
}

// When what stands for an exec is killed, so is the process.
func TestKillExec(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("echo up; exec sleep 1000")
	c.up()
	attached := c.spawn("attached", "exec", c.id, "sh", "-c", "echo in; exec sleep 1001")
	c.prints("attached.stdout", "in\n")
	waitFor(t, "the exec in ps", soon, func() bool { return c.running("sleep 1001") == 1 })
	c.must(attached.Process.Kill())
	_ = attached.Wait()
	c.waitNoProcess("sleep 1001")

	detached := c.spawn("detached", "exec", "--detach", "--pid-file", c.path("pid"), c.id, "sh", "-c", "echo in; exec sleep 1002")
	if code := c.end(detached, soon); code != 0 {
		t.Fatalf("exec --detach: status %d: %s", code, c.read("detached.stderr"))
	}
	c.prints("detached.stdout", "in\n")
	waitFor(t, "the exec in ps", soon, func() bool { return c.running("sleep 1002") == 1 })
	pid, err := strconv.Atoi(c.read("pid"))
	c.must(err)
	c.must(unix.Kill(pid, unix.SIGKILL))
	c.waitNoProcess("sleep 1002")
	c.wantStatus(specs.StateRunning)

	// An exec ends with the container's init.
	last := c.spawn("last", "exec", c.id, "sh", "-c", "echo in; exec sleep 1003")
	c.prints("last.stdout", "in\n")
	c.runs("kill", c.id, "KILL")
	if code := c.end(last, soon); code != 137 {
		t.Errorf("exec, after init's end: status %d, want 137: %s", code, c.read("last.stderr"))
	}
	c.waitStopped(soon)
	c.runs("delete", c.id)
	c.wantNothing()
}

// eof asserts that nobody holds the other end of r any more.
func eof(t *testing.T, what string, r *os.File) {
	t.Helper()
	if err := r.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, bufio.NewReader(r)); err != nil {
		t.Errorf("%s: %v: somebody still holds it", what, err)
	}
}

// Descriptors that a client leaks into a command, and the pipes it reads its
// output from, are closed when the command has ended: nothing that lives on
// holds them.
func TestLeakedDescriptors(t *testing.T) {
	t.Parallel()
	c := newBox(t).container("echo up; exec sleep 1000")
	c.spec.Process.Terminal = true
	c.save()
	socket := c.path("console.sock")
	master := receiveConsole(t, socket)
	leaky := func(args ...string) {
		t.Helper()
		cmd := c.command(args...)
		or, ow := pipe(t)
		lr, lw := pipe(t)
		high, hw := pipe(t)
		cmd.Stdout, cmd.Stderr = ow, ow
		// As descriptors 3 and 12, with a gap between them.
		cmd.ExtraFiles = []*os.File{lw, nil, nil, nil, nil, nil, nil, nil, nil, hw}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ow.Close()
		lw.Close()
		hw.Close()
		if code := c.end(cmd, commandTime); code != 0 {
			text, _ := io.ReadAll(or)
			t.Fatalf("%q: status %d: %s", args, code, text)
		}
		eof(t, args[0]+" output", or)
		eof(t, args[0]+" descriptor 3", lr)
		eof(t, args[0]+" descriptor 12", high)
	}
	leaky("create", "--bundle", c.bundle, "--console-socket", socket, c.id)
	tty := <-master
	defer tty.Close()
	leaky("start", c.id)
	leaky("state", c.id)
	second := c.path("second.sock")
	master = receiveConsole(t, second)
	leaky("exec", "--detach", "--tty", "--console-socket", second, c.id, "sleep", "1000")
	defer (<-master).Close()
	leaky("exec", c.id, "true")
	leaky("kill", c.id, "USR1")
	leaky("kill", c.id, "KILL")
	c.waitStopped(soon)
	leaky("delete", c.id)
	c.wantNothing()
}

// receiveConsole listens on path for the master of a terminal.
func receiveConsole(t *testing.T, path string) <-chan *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	master := make(chan *os.File, 1)
	go func() {
		defer unix.Close(fd)
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		defer unix.Close(conn)
		oob := make([]byte, unix.CmsgSpace(4))
		if _, n, _, _, err := unix.Recvmsg(conn, make([]byte, 4096), oob, unix.MSG_CMSG_CLOEXEC); err == nil {
			if msgs, err := unix.ParseSocketControlMessage(oob[:n]); err == nil && len(msgs) == 1 {
				if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
					master <- os.NewFile(uintptr(fds[0]), "master")
				}
			}
		}
	}()
	return master
}
