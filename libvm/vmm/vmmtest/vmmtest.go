// Package vmmtest is the contract of a vmm.Driver as a test. Every driver runs
// it, with the guest of this package (Initrd) or something that speaks as it
// does (guest.Serve).
package vmmtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/vmm"
)

// Timeout is how long a test waits for something that must happen. A machine
// under TCG boots in a second, on a busy host in several.
const Timeout = 60 * time.Second

// silence is how long a paused guest is listened to.
const silence = 300 * time.Millisecond

// Run checks that driver keeps the contract, with machines made from cfg. Its
// guest must be this package's. Files of cfg (disks, taps) are not supported:
// a machine takes them over, and several are started.
func Run(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	t.Helper()
	tests := []struct {
		name string
		test func(*testing.T, vmm.Driver, *vmm.Config)
	}{
		{"stream", testStream},
		{"written before the guest listens", testEarlyWrite},
		{"bulk", testBulk},
		{"second dial", testSecondDial},
		{"power off", testPowerOff},
		{"kill", testKill},
		{"kill while booting", testKillBooting},
		{"missing kernel", testMissingKernel},
		{"missing initrd", testMissingInitrd},
		{"cancelled", testCancelled},
		{"context ends after the boot", testContextEnds},
		{"two machines", testTwo},
		{"pause", testPause},
		{"trim", testTrim},
		{"shares", testShares},
		{"console", testConsole},
		{"clone", testClone},
		{"clone of what is no template", testBrokenTemplate},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := openFiles(t)
			tt.test(t, driver, cfg)
			if after := openFiles(t); !slices.Equal(before, after) {
				t.Errorf("descriptors before: %q\nafter: %q", before, after)
			}
		})
	}
}

// Guest is a machine and the stream to its guest.
type Guest struct {
	Machine vmm.Machine
	t       *testing.T
	stream  io.ReadWriteCloser
	in      *bufio.Reader
	waited  chan error
}

// Boot starts a machine and dials it. The caller calls End.
func Boot(t *testing.T, driver vmm.Driver, cfg *vmm.Config) *Guest {
	t.Helper()
	m, err := driver.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return dial(t, m)
}

// dial takes a machine over.
func dial(t *testing.T, m vmm.Machine) *Guest {
	t.Helper()
	var err error
	g := &Guest{Machine: m, t: t, waited: make(chan error, 1)}
	go func() { g.waited <- m.Wait() }()
	g.stream, err = m.Dial(t.Context())
	if err != nil {
		m.Kill()
		<-g.waited
		t.Fatal(err)
	}
	g.in = bufio.NewReader(g.stream)
	return g
}

// Do sends a command and returns its result.
func (g *Guest) Do(command string) string {
	g.t.Helper()
	result, err := g.Try(command)
	if err != nil {
		g.t.Fatalf("%s: %v\nconsole:\n%s", command, err, g.Machine.Console())
	}
	return result
}

// Try sends a command and returns its result, or the guest's error.
func (g *Guest) Try(command string) (string, error) {
	g.t.Helper()
	g.send(command)
	return g.answer()
}

func (g *Guest) send(command string) {
	g.t.Helper()
	if _, err := io.WriteString(g.stream, command+"\n"); err != nil {
		g.t.Fatalf("send %q: %v", command, err)
	}
}

// answer reads an answer. A guest that gives none is killed, which ends the
// stream.
func (g *Guest) answer() (string, error) {
	timer := time.AfterFunc(Timeout, g.Machine.Kill)
	defer timer.Stop()
	line, err := g.in.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the guest's answer: %w", err)
	}
	verdict, quoted, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	text, err := strconv.Unquote(quoted)
	switch {
	case err != nil:
		return "", fmt.Errorf("the guest's answer %q: %w", line, err)
	case verdict != "ok":
		return "", errors.New(text)
	}
	return text, nil
}

// Wait closes the stream and returns how the machine ended.
func (g *Guest) Wait() error {
	g.t.Helper()
	defer g.stream.Close()
	select {
	case err := <-g.waited:
		return err
	case <-time.After(Timeout):
		g.Machine.Kill()
		g.t.Fatalf("the machine has not ended after %v\nconsole:\n%s", Timeout, g.Machine.Console())
		return nil
	}
}

// End kills the machine and checks that nothing is left of it.
func (g *Guest) End() {
	g.t.Helper()
	g.Machine.Kill()
	if err := g.Wait(); err != nil {
		g.t.Errorf("Wait after Kill = %v, want nil", err)
	}
	g.gone()
}

// gone checks that the machine has left no process.
func (g *Guest) gone() {
	g.t.Helper()
	p, ok := g.Machine.(vmm.Processes)
	if !ok {
		return
	}
	for _, pid := range p.Pids() {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
			g.t.Errorf("process %d is still there", pid)
		}
	}
}

func testStream(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	g := Boot(t, driver, cfg)
	defer g.End()
	for _, text := range []string{"one", "two", strings.Repeat("long", 10000)} {
		if got := g.Do("echo " + text); got != text {
			t.Errorf("echo of %d bytes returned %d", len(text), len(got))
		}
	}
}

func testEarlyWrite(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	g := Boot(t, driver, cfg)
	defer g.End()
	for i := range 3 {
		g.send(fmt.Sprintf("echo %d", i))
	}
	for i := range 3 {
		if got, err := g.answer(); err != nil || got != strconv.Itoa(i) {
			t.Errorf("answer %d = %q, %v", i, got, err)
		}
	}
}

// testBulk sends more than any buffer between host and guest holds before it
// reads a byte.
func testBulk(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	g := Boot(t, driver, cfg)
	defer g.End()
	const lines = 200
	text := strings.Repeat("x", 20000)
	sent := make(chan error, 1)
	go func() {
		for range lines {
			if _, err := io.WriteString(g.stream, "echo "+text+"\n"); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for i := range lines {
		if got, err := g.answer(); err != nil || got != text {
			t.Fatalf("answer %d has %d bytes, want %d: %v", i, len(got), len(text), err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func testSecondDial(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	g := Boot(t, driver, cfg)
	defer g.End()
	if s, err := g.Machine.Dial(t.Context()); err == nil {
		s.Close()
		t.Error("a second Dial got a stream too")
	}
}

func testPowerOff(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	g := Boot(t, driver, cfg)
	g.Do("echo up")
	g.send("poweroff")
	if _, err := g.in.ReadByte(); err == nil {
		t.Error("the stream goes on after power off")
	}
	if err := g.Wait(); err != nil {
		t.Errorf("Wait after power off = %v, want nil\nconsole:\n%s", err, g.Machine.Console())
	}
	g.gone()
	g.Machine.Kill() // allowed after the end
}

func testKill(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	g := Boot(t, driver, cfg)
	g.Do("echo up")
	g.Machine.Kill()
	g.Machine.Kill()
	g.End()
	g.Machine.Kill()
}

func testKillBooting(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	m, err := driver.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.Kill()
	if err := m.Wait(); err != nil { // never dialled
		t.Errorf("Wait after Kill = %v, want nil", err)
	}
	if s, err := m.Dial(t.Context()); err == nil {
		s.Close()
		t.Error("Dial after the end got a stream")
	}
}

func testMissingKernel(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	missing := *cfg
	missing.Kernel = filepath.Join(t.TempDir(), "no-kernel")
	wantNotInstalled(t, driver, &missing, missing.Kernel)
}

func testMissingInitrd(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	missing := *cfg
	missing.Initrd = filepath.Join(t.TempDir(), "no-initrd")
	wantNotInstalled(t, driver, &missing, missing.Initrd)
}

func wantNotInstalled(t *testing.T, driver vmm.Driver, cfg *vmm.Config, path string) {
	t.Helper()
	m, err := driver.Start(t.Context(), cfg)
	if err == nil {
		m.Kill()
		m.Wait()
		t.Fatal("Start succeeded")
	}
	if !errors.Is(err, vmm.ErrNotInstalled) || !strings.Contains(err.Error(), path) {
		t.Errorf("Start = %v, want %v naming %s", err, vmm.ErrNotInstalled, path)
	}
}

func testCancelled(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m, err := driver.Start(ctx, cfg)
	if err == nil {
		m.Kill()
		m.Wait()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v, want %v", err, context.Canceled)
	}
}

func testContextEnds(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	ctx, cancel := context.WithCancel(t.Context())
	g := Boot(t, driverFunc(func(_ context.Context, cfg *vmm.Config) (vmm.Machine, error) {
		return driver.Start(ctx, cfg)
	}), cfg)
	defer g.End()
	g.Do("echo up")
	cancel()
	if got := g.Do("echo still up"); got != "still up" {
		t.Errorf("got %q", got)
	}
}

// driverFunc is a driver that only starts.
type driverFunc func(context.Context, *vmm.Config) (vmm.Machine, error)

func (driverFunc) Name() string { return "func" }
func (f driverFunc) Start(ctx context.Context, cfg *vmm.Config) (vmm.Machine, error) {
	return f(ctx, cfg)
}

func testTwo(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	a := Boot(t, driver, cfg)
	defer a.End()
	b := Boot(t, driver, cfg)
	if x, y := a.Do("echo a"), b.Do("echo b"); x != "a" || y != "b" {
		t.Errorf("answers %q and %q, want a and b", x, y)
	}
	b.End()
	if got := a.Do("echo alone"); got != "alone" {
		t.Errorf("got %q after the other machine's end", got)
	}
}

func testPause(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	g := Boot(t, driver, cfg)
	defer g.End()
	p, ok := g.Machine.(vmm.Pauser)
	if !ok {
		t.Skip("this driver's machines cannot be paused")
	}
	g.Do("echo up")
	for range 2 {
		if err := p.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.send("echo frozen")
		answer := make(chan string, 1)
		go func() {
			text, err := g.answer()
			answer <- fmt.Sprint(text, err)
		}()
		select {
		case a := <-answer:
			t.Errorf("a paused guest answered: %s", a)
		case <-time.After(silence):
		}
		if err := p.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if a := <-answer; a != "frozen<nil>" {
			t.Errorf("after Resume the guest answered %s", a)
		}
	}
}

// testShares reads and writes each share, and sees what the host adds later.
func testTrim(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	g := Boot(t, driver, cfg)
	defer g.End()
	m, ok := g.Machine.(vmm.Trimmer)
	if !ok {
		t.Skip("this driver's machines have nothing to trim")
	}
	g.Do("echo up")
	late, cancel := context.WithCancel(t.Context())
	cancel()
	_ = m.Trim(late) // whatever comes of it, the guest goes on
	if got := g.Do("echo one"); got != "one" {
		t.Errorf("got %q after a trim whose time was over", got)
	}
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), Timeout)
		err := m.Trim(ctx)
		cancel()
		if err != nil {
			t.Error(err)
		}
		if got := g.Do("echo two"); got != "two" {
			t.Errorf("got %q after a trim", got)
		}
	}
	// One that is at work.
	trimmed := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), Timeout)
		defer cancel()
		trimmed <- m.Trim(ctx)
	}()
	for range 20 {
		g.Do("cat /proc/self/maps")
	}
	if err := <-trimmed; err != nil {
		t.Error(err)
	}
	p, ok := g.Machine.(vmm.Pauser)
	if !ok {
		return
	}
	if err := errors.Join(p.Pause(t.Context()), p.Resume(t.Context())); err != nil {
		t.Errorf("pause and resume after a trim: %v", err)
	}
	if got := g.Do("echo three"); got != "three" {
		t.Errorf("got %q after a trim and a pause", got)
	}
}

func testShares(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	if len(cfg.Shares) == 0 {
		t.Skip("no shares")
	}
	g := Boot(t, driver, cfg)
	defer g.End()
	for _, s := range cfg.Shares {
		dir := g.Do(fmt.Sprintf("mount %s %s", s.Type, s.Tag))
		host := filepath.Join(s.Path, "from-host")
		if err := os.WriteFile(host, []byte("hello"), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := g.Do("cat " + filepath.Join(dir, "from-host")); got != "hello" {
			t.Errorf("%s: the guest read %q", s.Tag, got)
		}
		_, err := g.Try("write " + filepath.Join(dir, "from-guest") + " hi")
		if s.ReadOnly {
			if err == nil {
				t.Errorf("%s: the guest wrote to a read-only share", s.Tag)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: write: %v", s.Tag, err)
		}
		if b, err := os.ReadFile(filepath.Join(s.Path, "from-guest")); string(b) != "hi" {
			t.Errorf("%s: the host read %q, %v", s.Tag, b, err)
		}
	}
}

func testConsole(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	g := Boot(t, driver, cfg)
	defer g.End()
	g.Do("echo up")
	c := g.Machine.Console()
	if len(c) > 64<<10 {
		t.Errorf("the console has %d bytes, want at most 64 KiB", len(c))
	}
	for i := range c {
		c[i] = '?'
	}
	if again := g.Machine.Console(); len(again) > 0 && again[0] == '?' {
		t.Error("Console returns the driver's own memory")
	}
}

// openFiles lists what our descriptors are, sorted; nil where there is no
// /proc. Sockets and pipes are counted by kind: their numbers change.
func openFiles(t *testing.T) []string {
	t.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || strings.HasPrefix(target, "/proc/") { // the listing itself
			continue
		}
		kind, _, _ := strings.Cut(target, ":[")
		// The Go runtime opens these once and keeps them.
		if kind == "anon_inode:[eventpoll]" || kind == "anon_inode:[eventfd]" {
			continue
		}
		names = append(names, kind)
	}
	slices.Sort(names)
	return names
}

// template is what saved has saved; clones get files of their own.
type template struct{ memory, state *os.File }

func (f template) close() {
	f.memory.Close()
	f.state.Close()
}

func (f template) open(t *testing.T) vmm.Template {
	t.Helper()
	reopen := func(f *os.File) *os.File {
		again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		return again
	}
	return vmm.Template{Memory: reopen(f.memory), State: reopen(f.state)}
}

func copyAll(_ context.Context, to, from *os.File) error {
	st, err := from.Stat()
	if err != nil {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(to, 0), io.NewSectionReader(from, 0, st.Size()))
	return err
}

// saved saves a machine of cfg whose guest waits for its first command. It skips
// the test of a driver that cannot.
func saved(t *testing.T, driver vmm.Driver, cfg *vmm.Config) (vmm.Cloner, template) {
	t.Helper()
	d, ok := driver.(vmm.Cloner)
	if !ok {
		t.Skip("this driver does not clone machines")
	}
	f := template{memory: memoryFile(t), state: memoryFile(t)}
	err := f.memory.Truncate(int64(cfg.MemoryMiB) << 20)
	if err == nil {
		err = f.save(t.Context(), d, cfg)
	}
	if err != nil {
		f.close()
		t.Fatal(err)
	}
	return d, f
}

func (f template) save(ctx context.Context, d vmm.Cloner, cfg *vmm.Config) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	m, err := d.StartSavable(ctx, cfg, f.memory)
	if err != nil {
		return err
	}
	waited := make(chan error, 1)
	go func() { waited <- m.Wait() }()
	if err = m.Ready(ctx); err == nil {
		err = m.Save(ctx, f.state)
	}
	m.Kill()
	return errors.Join(err, <-waited)
}

// memoryFile is a file in memory, without a name.
func memoryFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp("/dev/shm", "vmmtest-")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// testClone: clones have one past and futures of their own, and the shares are
// those of their own Config.
func testClone(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	d, tmpl := saved(t, driver, cfg)
	defer tmpl.close()
	before, err := d.Shape(cfg)
	if err != nil || before == "" {
		t.Fatalf("shape %q, %v", before, err)
	}
	takes, err := blocks(tmpl.memory)
	if err != nil {
		t.Fatal(err)
	}
	var clones []*Guest
	for i := range 2 {
		c := *cfg
		c.Shares = slices.Clone(cfg.Shares)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "who"), []byte(strconv.Itoa(i)), 0o644); err != nil {
			t.Fatal(err)
		}
		c.Shares[0].Path = dir
		if shape, err := d.Shape(&c); err != nil || shape != before {
			t.Errorf("with another share the shape is %q, %v, was %q", shape, err, before)
		}
		m, err := d.Clone(t.Context(), &c, tmpl.open(t), copyAll)
		if err != nil {
			t.Fatal(err)
		}
		g := dial(t, m)
		defer g.End()
		clones = append(clones, g)
	}
	for i, g := range clones {
		g.Do(fmt.Sprintf("write /mine %d", i))
	}
	for i, g := range clones {
		if got := g.Do("cat /mine"); got != strconv.Itoa(i) {
			t.Errorf("clone %d reads what another wrote: %q", i, got)
		}
		dir := g.Do(fmt.Sprintf("mount %s %s", cfg.Shares[0].Type, cfg.Shares[0].Tag))
		if got := g.Do("cat " + dir + "/who"); got != strconv.Itoa(i) {
			t.Errorf("clone %d has the share of %q", i, got)
		}
	}
	// Fewer it may be: the kernel takes a page back that was read and never written.
	if now, err := blocks(tmpl.memory); err != nil || now > takes {
		t.Errorf("the template takes %d blocks now, %v, took %d", now, err, takes)
	}
	other := *cfg
	other.MemoryMiB++
	if shape, err := d.Shape(&other); err != nil || shape == before {
		t.Errorf("with other memory the shape is the same (%v)", err)
	}
}

// blocks says what a file takes, in 512 bytes.
func blocks(f *os.File) (int64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return st.Blocks, err
}

// testBrokenTemplate: what is wrong with a template ends the machine, with a
// reason.
func testBrokenTemplate(t *testing.T, driver vmm.Driver, cfg *vmm.Config) {
	d, tmpl := saved(t, driver, cfg)
	defer tmpl.close()
	fails := func(what string, copyMemory vmm.CopyMemory) {
		t.Helper()
		m, err := d.Clone(t.Context(), cfg, tmpl.open(t), copyMemory)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Wait(); err == nil {
			t.Errorf("%s: the machine ended well", what)
		}
	}
	fails("no copy", func(context.Context, *os.File, *os.File) error { return errors.New("no copy") })
	if err := tmpl.state.Truncate(1000); err != nil {
		t.Fatal(err)
	}
	fails("half of the state", copyAll)
}
