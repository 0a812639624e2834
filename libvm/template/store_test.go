//go:build linux

package template

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/vmm"
)

// cloner is a driver whose machines are what they write into their memory.
type cloner struct {
	vmm.Cloner
	shape  string
	then   string // the shape after the start, if it is another
	starts *int
	// fail is Ready's answer; dies: the machine ends instead of being ready.
	fail error
	dies bool
	cfg  *vmm.Config
}

func (c *cloner) Shape(*vmm.Config) (string, error) {
	if c.then != "" && *c.starts > 0 {
		return c.then, nil
	}
	return c.shape, nil
}

func (c *cloner) StartSavable(_ context.Context, cfg *vmm.Config, memory *os.File) (vmm.Savable, error) {
	*c.starts++
	c.cfg = cfg
	if _, err := memory.WriteAt([]byte("guest"), 1<<20); err != nil {
		return nil, err
	}
	_, err := memory.WriteAt(make([]byte, 64<<10), 0) // zeros that are no hole
	m := &savable{c: c, end: make(chan struct{})}
	if c.dies {
		m.Kill()
	}
	return m, err
}

type savable struct {
	vmm.Machine
	c   *cloner
	end chan struct{}
}

func (m *savable) Ready(ctx context.Context) error {
	if m.c.dies {
		<-ctx.Done()
		return ctx.Err()
	}
	return m.c.fail
}

func (m *savable) Save(_ context.Context, state io.Writer) error {
	_, err := io.WriteString(state, "devices")
	return err
}

func (m *savable) Kill() {
	select {
	case <-m.end:
	default:
		close(m.end)
	}
}

func (m *savable) Wait() error {
	<-m.end
	if m.c.dies {
		return errors.New("no such CPU")
	}
	return nil
}

func newStore(t *testing.T) Store {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "runm-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Store{Dir: filepath.Join(dir, "templates"), Count: 2, Bytes: 1 << 30, settled: time.Millisecond}
}

func shape(c byte) string { return strings.Repeat(string(c), 64) }

func makeOne(t *testing.T, s Store, c byte) *cloner {
	t.Helper()
	d := &cloner{shape: shape(c), starts: new(int)}
	if err := s.Make(t.Context(), d, &vmm.Config{MemoryMiB: 2, CPUs: 1, Cmdline: []string{"quiet"}, Shares: []vmm.Share{{Type: vmm.Share9p}}}, true); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestMakeAndFind(t *testing.T) {
	s := newStore(t)
	if _, err := s.Find(shape('a')); !errors.Is(err, ErrNotExist) {
		t.Errorf("of an empty store: %v, want %v", err, ErrNotExist)
	}
	d := makeOne(t, s, 'a')
	if got := strings.Join(d.cfg.Cmdline, " "); got != api.TemplateParameter+" quiet" {
		t.Errorf("the machine's command line is %q", got)
	}
	if left, err := os.ReadDir(s.Dir); err != nil || len(left) != 2 {
		t.Errorf("the store has %v, %v; want the template and the lock", left, err)
	}
	found, err := s.Find(shape('a'))
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	state, err := io.ReadAll(found.State)
	if err != nil || string(state) != "devices" {
		t.Errorf("state %q, %v", state, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(found.Memory.Fd()), &st); err != nil || st.Size != 2<<20 || st.Blocks*512 > 8<<10 {
		t.Errorf("memory has %d bytes in %d blocks, want 2 MiB with one page: zeros are holes", st.Size, st.Blocks)
	}
	clone, err := os.CreateTemp(filepath.Dir(s.Dir), "clone")
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	if err := errors.Join(clone.Truncate(2<<20), CopyMemory(clone, found.Memory)); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 5)
	if _, err := clone.ReadAt(data, 1<<20); err != nil || string(data) != "guest" {
		t.Errorf("the copy has %q, %v", data, err)
	}
	if d := makeOne(t, s, 'a'); *d.starts != 0 {
		t.Error("a template that was there was made again")
	}
}

func TestWhatIsWrongWithATemplateIsSeen(t *testing.T) {
	for name, harm := range map[string]func(dir string) error{
		"memory cut":      func(d string) error { return os.Truncate(filepath.Join(d, memoryFile), 4096) },
		"memory written":  func(d string) error { return write(filepath.Join(d, memoryFile), "x") },
		"state replaced":  func(d string) error { return replace(filepath.Join(d, stateFile)) },
		"state gone":      func(d string) error { return os.Remove(filepath.Join(d, stateFile)) },
		"state a link":    func(d string) error { return link("/etc/passwd", filepath.Join(d, stateFile)) },
		"about is broken": func(d string) error { return os.WriteFile(filepath.Join(d, aboutFile), []byte("{"), 0o600) },
		"about is gone":   func(d string) error { return os.Remove(filepath.Join(d, aboutFile)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			makeOne(t, s, 'a')
			if err := harm(filepath.Join(s.Dir, Key(shape('a')))); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Find(shape('a')); !errors.Is(err, ErrBroken) {
				t.Errorf("Find: %v, want %v", err, ErrBroken)
			}
			if d := makeOne(t, s, 'a'); *d.starts != 1 {
				t.Error("it was not made again")
			}
			found, err := s.Find(shape('a'))
			if err != nil {
				t.Fatal(err)
			}
			found.Close()
		})
	}
}

func write(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte(text), 100)
	return err
}

// replace puts an equal file in its place.
func replace(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return errors.Join(os.Remove(file), os.WriteFile(file, data, 0o600))
}

func link(to, at string) error { return errors.Join(os.Remove(at), os.Symlink(to, at)) }

func TestOthersDirectoriesAreRefused(t *testing.T) {
	s := newStore(t)
	makeOne(t, s, 'a')
	for name, mode := range map[string]os.FileMode{"group": 0o750, "others": 0o705} {
		if err := os.Chmod(s.Dir, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Find(shape('a')); err == nil || !strings.Contains(err.Error(), "not a directory of this user's alone") {
			t.Errorf("%s may use it: %v", name, err)
		}
	}
	if err := os.Chmod(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(s.Dir, 1234, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Find(shape('a')); err == nil {
			t.Error("another user's is used")
		}
		if err := os.Chown(s.Dir, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	real := s.Dir + ".real"
	if err := errors.Join(os.Rename(s.Dir, real), os.Symlink(real, s.Dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(shape('a')); err == nil {
		t.Error("a symbolic link is followed")
	}
}

func TestTheLeastRecentlyUsedGoFirst(t *testing.T) {
	s := newStore(t)
	makeOne(t, s, 'a')
	makeOne(t, s, 'b')
	for _, c := range []byte("ba") { // a is the last used
		time.Sleep(10 * time.Millisecond) // the file system's clock ticks
		found, err := s.Find(shape(c))
		if err != nil {
			t.Fatal(err)
		}
		defer found.Close() // in use, and may be removed
	}
	makeOne(t, s, 'c')
	keys := func() (got string) {
		all, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range all {
			got += a.Key[:1]
		}
		return got
	}
	if got := keys(); got != "ca" {
		t.Errorf("kept %q, want c and a", got)
	}
	s.Bytes = 1
	makeOne(t, s, 'd')
	if got := keys(); got != "d" {
		t.Errorf("kept %q in one byte, want the newest", got)
	}
	if err := s.Remove(Key(shape('d'))); err != nil {
		t.Error(err)
	}
	if err := s.Remove(Key(shape('d'))); !errors.Is(err, ErrNotExist) {
		t.Errorf("Remove again: %v", err)
	}
	for _, bad := range []string{"", "..", "lock", "../../../etc/pas", "././././././././"} {
		if err := s.Remove(bad); !errors.Is(err, ErrNotExist) {
			t.Errorf("Remove(%q): %v", bad, err)
		}
	}
}

func TestOutdatedTemplatesGo(t *testing.T) {
	s := newStore(t)
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	kernel := filepath.Join(filepath.Dir(s.Dir), "vmlinux")
	if err := os.WriteFile(kernel, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	makeFrom := func(c byte) {
		t.Helper()
		d := &cloner{shape: shape(c), starts: new(int)}
		if err := s.Make(t.Context(), d, &vmm.Config{MemoryMiB: 2, Kernel: kernel}, true); err != nil {
			t.Fatal(err)
		}
	}
	s.Count = 10
	makeFrom('a')
	makeOne(t, s, 'b') // of another kernel
	if _, err := os.Stat(filepath.Join(s.Dir, Key(shape('a')))); err != nil {
		t.Errorf("removed, and its kernel is there: %v", err)
	}
	if err := replace(kernel); err != nil {
		t.Fatal(err)
	}
	makeFrom('c')
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].Key != Key(shape('c')) || all[1].Key != Key(shape('b')) {
		t.Errorf("kept %+v, %v; want c and b", all, err)
	}
}

// A template must not have booted anything but what its shape names.
func TestReplacedWhileItIsMade(t *testing.T) {
	s := newStore(t)
	d := &cloner{shape: shape('a'), then: shape('b'), starts: new(int)}
	err := s.Make(t.Context(), d, &vmm.Config{MemoryMiB: 2}, true)
	if err == nil || !strings.Contains(err.Error(), "replaced while") {
		t.Errorf("Make: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Dir, "*")); len(left) != 1 {
		t.Errorf("left in the store: %q, want the lock alone", left)
	}
}

func TestDiscard(t *testing.T) {
	s := newStore(t)
	makeOne(t, s, 'a')
	if err := s.Discard(Key(shape('a')), errors.New("no answer")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(shape('a')); !errors.Is(err, ErrNotExist) {
		t.Errorf("Find: %v, want %v", err, ErrNotExist)
	}
	if f, err := s.LastFailure(); err != nil || f == nil || f.Error != "clone: no answer" || !s.failedLately(Key(shape('a'))) {
		t.Errorf("LastFailure: %v, %v", f, err)
	}
}

func TestQuiet(t *testing.T) {
	for mib, want := range map[int]time.Duration{
		1: 5 * time.Second, 256: 5 * time.Second, 512: 7 * time.Second, 1024: 11 * time.Second, 4096: 25 * time.Second,
	} {
		if got := quiet(mib); got != want {
			t.Errorf("%d MiB: %v, want %v", mib, got, want)
		}
	}
}

func TestOneIsMadeAtATime(t *testing.T) {
	s := newStore(t)
	makeOne(t, s, 'a')
	root, err := s.open(false)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	unlock, err := lock(t.Context(), root, false)
	if err != nil {
		t.Fatal(err)
	}
	d := &cloner{shape: shape('b'), starts: new(int)}
	if err := s.Make(t.Context(), d, &vmm.Config{MemoryMiB: 2}, false); !errors.Is(err, ErrBusy) || *d.starts != 0 {
		t.Errorf("Make beside another: %v, want %v", err, ErrBusy)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Make(ctx, d, &vmm.Config{MemoryMiB: 2}, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited for its turn: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	// What one that was killed has left.
	if err := os.MkdirAll(filepath.Join(s.Dir, newDir, "share"), 0o700); err != nil {
		t.Fatal(err)
	}
	if d := makeOne(t, s, 'b'); *d.starts != 1 {
		t.Error("not made after one that was killed")
	}
}

func TestFailure(t *testing.T) {
	s := newStore(t)
	for want, d := range map[string]*cloner{
		"no stream":   {fail: errors.New("no stream")},
		"no such CPU": {dies: true},
	} {
		d.shape, d.starts = shape('a'), new(int)
		err := s.Make(t.Context(), d, &vmm.Config{MemoryMiB: 2}, true)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Make: %v, want %q in it", err, want)
		}
		if left, _ := filepath.Glob(filepath.Join(s.Dir, "[^f]*")); len(left) != 1 {
			t.Errorf("left in the store: %q, want the lock alone beside what has failed", left)
		}
		if err := s.noteFailure(Key(shape('a')), err); err != nil {
			t.Fatal(err)
		}
		if f, err := s.LastFailure(); err != nil || f == nil || !strings.Contains(f.Error, want) {
			t.Errorf("LastFailure: %v, %v", f, err)
		}
		if !s.failedLately(Key(shape('a'))) || s.failedLately(Key(shape('b'))) {
			t.Error("failedLately is wrong")
		}
		if err := s.noteFailure(Key(shape('a')), nil); err != nil || s.failedLately(Key(shape('a'))) {
			t.Errorf("after a success: %v", err)
		}
		if f, err := s.LastFailure(); err != nil || f != nil {
			t.Errorf("LastFailure after a success: %v, %v", f, err)
		}
	}
}

// What one shape comes to says nothing of another.
func TestFailuresOfSeveralShapes(t *testing.T) {
	s := newStore(t)
	makeOne(t, s, 'c') // the store is there
	note := func(c byte, cause error) {
		t.Helper()
		if err := s.noteFailure(Key(shape(c)), cause); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when, lately, last string) {
		t.Helper()
		for _, c := range []byte("abc") {
			if got := s.failedLately(Key(shape(c))); got != strings.Contains(lately, string(c)) {
				t.Errorf("%s: %c failed lately: %v", when, c, got)
			}
		}
		f, err := s.LastFailure()
		if err != nil || (f == nil) != (last == "") || f != nil && f.Error != last {
			t.Errorf("%s: the last is %+v, %v; want %q", when, f, err, last)
		}
	}
	note('a', errors.New("no stream"))
	note('b', errors.New("no such CPU"))
	want("two have failed", "ab", "no such CPU")
	note('c', nil)
	want("another was made", "ab", "no such CPU")
	note('a', errors.New("no stream again"))
	want("the first failed again", "ab", "no stream again")
	note('b', nil)
	want("the second was made", "a", "no stream again")

	age(t, s, 'a')
	want("ten minutes later", "", "no stream again")
	note('c', nil)
	want("another was made since", "", "")

	// Half of a file, of a writer that goes on or one that found the disk full.
	if err := os.WriteFile(filepath.Join(s.Dir, failureDir, Key(shape('a'))), []byte(`{"err`), 0o600); err != nil {
		t.Fatal(err)
	}
	want("half written", "", "")
	note('b', errors.New("no such CPU"))
	want("beside a half", "b", "no such CPU")

	for c := range byte(2 * mostFailures) {
		note('A'+c, errors.New("many"))
	}
	if left, err := os.ReadDir(filepath.Join(s.Dir, failureDir)); err != nil || len(left) != mostFailures {
		t.Errorf("%d are kept, %v; want %d", len(left), err, mostFailures)
	}
	if err := s.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("all were removed", "", "")
}

// age makes the failure of a shape ten minutes old.
func age(t *testing.T, s Store, c byte) {
	t.Helper()
	data, err := json.Marshal(Failure{Time: time.Now().Add(-retryAfter), Error: "no stream again"})
	if err == nil {
		err = os.WriteFile(filepath.Join(s.Dir, failureDir, Key(shape(c))), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRoom: another template is made where old ones can make way for it, and they
// stay where that would not be enough.
func TestRoom(t *testing.T) {
	const page, mib = 4 << 10, 1 << 20
	dir := t.TempDir()
	mountTmpfs(t, dir, "size=4m")
	s := Store{Dir: filepath.Join(dir, "templates"), Count: 8, Bytes: 1 << 30, settled: time.Millisecond}
	makeOne(t, s, 'a') // of two pages, and one for what is said about it
	makeOne(t, s, 'b')
	root, err := s.open(false)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	// leave fills the file system until so many bytes are free.
	leave := func(bytes int64) {
		t.Helper()
		f, err := os.Create(filepath.Join(dir, "filler")) // empties it
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		free, err := freeBytes(root)
		if err == nil {
			err = unix.Fallocate(int(f.Fd()), 0, 0, free-bytes)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name      string
		free      int64
		shape     byte
		memoryMiB int
		kept, err string
	}{
		{"room", 2 * mib, 'c', 2, "cba", ""},
		{"room if one goes", 2*mib - page, 'd', 2, "dcb", ""},
		{"no room, whatever goes", mib, 'e', 2, "dcb", "1 MiB free, a template takes up to 2"},
		{"a guest for which there is no memory", 2 * mib, 'e', 1 << 30, "dcb", "of the host's memory are available"},
	} {
		leave(c.free)
		time.Sleep(10 * time.Millisecond) // the file system's clock ticks
		d := &cloner{shape: shape(c.shape), starts: new(int)}
		err := s.Make(t.Context(), d, &vmm.Config{MemoryMiB: c.memoryMiB, CPUs: 1}, true)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
		kept := ""
		all, err := s.List()
		for _, a := range all {
			kept += a.Key[:1]
		}
		if err != nil || kept != c.kept {
			t.Errorf("%s: kept %q, %v; want %q", c.name, kept, err, c.kept)
		}
	}
}

// TestRoomForGuests: a big guest's descriptors of pages count, and no guest can
// take more than it has.
func TestRoomForGuests(t *testing.T) {
	for mib, want := range map[int]int64{64: 64, 512: 128, 16 << 10: 376, 64 << 10: 1144} {
		if got := room(mib) >> 20; got != want {
			t.Errorf("of %d MiB: %d MiB, want %d", mib, got, want)
		}
	}
}

func TestDefaultDir(t *testing.T) {
	for options, want := range map[string]string{
		"size=256m": "%s/runm-templates", "size=0": "%s/runm-templates", "size=255m": "/dev/shm/runm-templates-0",
	} {
		run := t.TempDir()
		mountTmpfs(t, run, options)
		if got, want := defaultDir(run, 0), strings.ReplaceAll(want, "%s", run); got != want {
			t.Errorf("%q: %s, want %s", options, got, want)
		}
		if got := defaultDir(run, 12); got != "/dev/shm/runm-templates-12" {
			t.Errorf("%q: another user's is %s", options, got)
		}
	}
	if got := defaultDir("/proc", 0); got != "/dev/shm/runm-templates-0" {
		t.Errorf("where /run is no tmpfs: %s", got)
	}
}

func mountTmpfs(t *testing.T, dir, options string) {
	t.Helper()
	if err := unix.Mount("test", dir, "tmpfs", 0, options); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}
