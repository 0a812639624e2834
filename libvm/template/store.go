//go:build linux

// Package template keeps templates: machines that were booted, saved before
// they had a container, and are cloned instead of booting another
// (docs/templates.md).
//
// A store is a directory of the user's alone, on a tmpfs, because a template's
// memory is copied for every clone:
//
//	<dir>/lock        held while a template is made
//	<dir>/failures/   why templates could not be made, by key
//	<dir>/new/        one that is being made
//	<dir>/<key>/      one that is there: memory, state, about.json
//
// A template is never changed. It may be removed while machines are cloned from
// it: they have its files open.
package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/fileid"
	"github.com/runm/runm/libvm/vmm"
)

// Sentinels.
var (
	// ErrNotExist: there is no template of that shape.
	ErrNotExist = errors.New("there is no such template")
	// ErrBroken: a template cannot be used, and is best removed.
	ErrBroken = errors.New("the template is broken")
	// ErrBusy: another process makes a template.
	ErrBusy = errors.New("another template is being made")
)

// Names in a store.
const (
	lockFile   = "lock"
	newDir     = "new"
	memoryFile = "memory"
	stateFile  = "state"
	aboutFile  = "about.json"
)

// keyLength is how much of a shape names its template: enough that two never
// meet.
const keyLength = 16

// Store is a directory of templates and how much may be in it.
type Store struct {
	Dir string `json:"dir"`
	// Count and Bytes bound what is kept; the least recently used go first.
	// The newest stays, whatever its size.
	Count int   `json:"count"`
	Bytes int64 `json:"bytes"`

	settled time.Duration // for tests, instead of quiet
}

// DefaultDir is where this user's templates are: on a tmpfs that every system
// has. /run is none on some, and too small for more than one or two on others,
// where it is a tenth of little memory.
func DefaultDir() string { return defaultDir("/run", os.Geteuid()) }

// enoughRun is how big /run must be, in bytes: half of it is left to all others.
const enoughRun = 256 << 20

func defaultDir(run string, uid int) string {
	var st unix.Statfs_t
	err := unix.Statfs(run, &st)
	if err == nil && st.Type == unix.TMPFS_MAGIC && uid == 0 && (st.Blocks == 0 || int64(st.Blocks)*st.Bsize >= enoughRun) {
		return filepath.Join(run, "runm-templates")
	}
	return fmt.Sprintf("/dev/shm/runm-templates-%d", uid)
}

// DefaultBytes is how much memory templates may take: of a host that has little,
// an eighth.
func DefaultBytes() int64 {
	const most = 512 << 20
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return most
	}
	return min(most, int64(info.Totalram)*int64(info.Unit)/8)
}

// About says what a template is, for people.
type About struct {
	Key       string    `json:"key"`
	Created   time.Time `json:"created"`
	Used      time.Time `json:"used"`
	CPUs      int       `json:"cpus"`
	MemoryMiB int       `json:"memoryMiB"`
	NICs      int       `json:"nics"`
	Accel     vmm.Accel `json:"accel"`
	Share     string    `json:"share"`
	Kernel    string    `json:"kernel"`
	// Bytes is what the template takes.
	Bytes int64 `json:"bytes"`
	// Booted identifies kernel and initramfs, by their paths.
	Booted map[string]string `json:"booted"`
	// Memory and State identify the files as they were when they were saved.
	Memory string `json:"memory"`
	State  string `json:"state"`
}

// Key names the template of a shape.
func Key(shape string) string { return shape[:keyLength] }

// open opens the store, made if create is set, and refuses one that is not this
// user's alone: somebody else's memory would run with the files of our
// containers.
func (s Store) open(create bool) (*os.Root, error) {
	if create {
		if err := os.Mkdir(s.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("templates: %w", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(s.Dir, &st); err != nil {
		if err == unix.ENOENT {
			return nil, ErrNotExist
		}
		return nil, fmt.Errorf("templates: %w", &os.PathError{Op: "lstat", Path: s.Dir, Err: err})
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return nil, fmt.Errorf("templates: %s is not a directory of this user's alone: remove it, or set template_dir", s.Dir)
	}
	return os.OpenRoot(s.Dir)
}

// Find opens the template of a shape, for a clone. The caller closes its files.
func (s Store) Find(shape string) (vmm.Template, error) {
	root, err := s.open(false)
	if err != nil {
		return vmm.Template{}, err
	}
	defer root.Close()
	return find(root, Key(shape))
}

func find(root *os.Root, key string) (t vmm.Template, err error) {
	about, err := readAbout(root, key)
	if err != nil {
		return t, err
	}
	defer func() {
		if err != nil {
			t.Close()
			t = vmm.Template{}
		}
	}()
	if t.Memory, err = openSame(root, filepath.Join(key, memoryFile), about.Memory); err != nil {
		return t, err
	}
	if t.State, err = openSame(root, filepath.Join(key, stateFile), about.State); err != nil {
		return t, err
	}
	now := time.Now() // for who is least recently used
	_ = root.Chtimes(filepath.Join(key, aboutFile), now, now)
	return t, nil
}

// openSame opens a file that nobody has written, cut or replaced since it had
// that identity.
func openSame(root *os.Root, name, want string) (*os.File, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	got, err := fileid.OfOpen(f)
	if err == nil && got != want {
		err = fmt.Errorf("%w: %s was changed", ErrBroken, name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func readAbout(root *os.Root, key string) (*About, error) {
	name := filepath.Join(key, aboutFile)
	data, err := root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := root.Lstat(key); serr != nil {
			return nil, ErrNotExist
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	var a About
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBroken, name, err)
	}
	if fi, err := root.Stat(name); err == nil {
		a.Used = fi.ModTime()
	}
	a.Key = key
	return &a, nil
}

// outdated: what the template was booted from is no more, after an upgrade.
func (a About) outdated() bool {
	for path, want := range a.Booted {
		if got, err := fileid.Of(path); err != nil || got != want {
			return true
		}
	}
	return false
}

// List describes the templates, the most recently used first. A broken one has
// a Key only.
func (s Store) List() ([]About, error) {
	root, err := s.open(false)
	if errors.Is(err, ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return list(root)
}

func list(root *os.Root) ([]About, error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	var all []About
	for _, e := range entries {
		if len(e.Name()) != keyLength {
			continue
		}
		a, err := readAbout(root, e.Name())
		if errors.Is(err, ErrNotExist) {
			continue // removed just now
		}
		if err != nil {
			a = &About{Key: e.Name()}
		}
		all = append(all, *a)
	}
	slices.SortFunc(all, func(a, b About) int { return b.Used.Compare(a.Used) })
	return all, nil
}

// Remove removes a template by its key.
func (s Store) Remove(key string) error {
	root, err := s.open(false)
	if err != nil {
		return err
	}
	defer root.Close()
	if len(key) != keyLength || filepath.Base(key) != key {
		return ErrNotExist
	}
	if _, err := root.Lstat(key); err != nil {
		return ErrNotExist
	}
	if err := root.RemoveAll(key); err != nil {
		return fmt.Errorf("remove template %s: %w", key, err)
	}
	return nil
}

// Discard removes a template because no machine could be cloned from it. One of
// its shape that is made in the background would be no better for a while.
func (s Store) Discard(key string, cause error) error {
	return errors.Join(s.noteFailure(key, fmt.Errorf("clone: %w", cause)), s.Remove(key))
}

// evict removes what no machine can be cloned from any more, and the least
// recently used until what is left is within bounds. The template called newest
// stays, whatever its size.
func (s Store) evict(root *os.Root, newest string) error {
	all, err := list(root)
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b About) int {
		switch newest {
		case a.Key:
			return -1
		case b.Key:
			return 1
		}
		return 0
	})
	var count int
	var bytes int64
	for _, a := range all {
		good := a.Bytes > 0 && !a.outdated() && count < s.Count && bytes+a.Bytes <= s.Bytes
		if good || a.Key == newest {
			count, bytes = count+1, bytes+a.Bytes
			continue
		}
		if err := root.RemoveAll(a.Key); err != nil {
			return fmt.Errorf("remove template %s: %w", a.Key, err)
		}
	}
	return nil
}
