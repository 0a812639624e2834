//go:build linux

// Package store keeps one directory for each container: <root>/<id>/ with
// state.json, the monitor's socket and its log. state.json says what a
// container is, never how it is: whether it runs is asked of its processes.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/proc"
)

// Sentinels. Their text is runc's, which clients match on.
var (
	ErrNotExist = errors.New("container does not exist")
	ErrExist    = errors.New("container with given ID already exists")
)

// Names in a state directory.
const (
	stateFile = "state.json"
	// LogFile is the monitor's log.
	LogFile = "log"
)

// ShareDir is where a monitor mounts its machine's staging directory: beside the
// containers, for a machine can outlive any of them, and a mount goes with the
// directory it is on. No container has the name for its id.
func ShareDir(root string, monitor proc.ID) string {
	return filepath.Join(root, fmt.Sprintf("@share-%d-%d", monitor.Pid, monitor.Start))
}

// State is what state.json holds.
type State struct {
	ID      string    `json:"id"`
	Bundle  string    `json:"bundle"`
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	// Owner is the name or uid of who created the container.
	Owner string `json:"owner"`
	// Spec is config.json as create found it: later changes have no effect.
	Spec *specs.Spec `json:"spec"`
	// Systemd: the cgroup is systemd's to manage.
	Systemd bool `json:"systemd,omitempty"`
	// CgroupPaths are those of cgroup.Cgroup.
	CgroupPaths map[string]string `json:"cgroupPaths,omitempty"`
	// Overhead of the machine, added to limits on the host.
	OverheadBytes int64 `json:"overheadBytes,omitempty"`
	// GuestMemoryBytes is what the machine has.
	GuestMemoryBytes int64 `json:"guestMemoryBytes,omitempty"`

	// Pod: others are or were in the machine too, and the monitor's end is not
	// the container's.
	Pod bool `json:"pod,omitempty"`

	Monitor proc.ID `json:"monitor"`
	Holder  proc.ID `json:"holder"`
}

// Dir is a container's state directory.
type Dir string

// Path returns the directory of id below root. It checks the id, which may be
// anything a user typed.
func Path(root, id string) (Dir, error) {
	if err := bundle.CheckID(id); err != nil {
		return "", err
	}
	return Dir(filepath.Join(root, id)), nil
}

// Create makes the directory, or returns ErrExist. The path it returns has no
// symlinks (Docker says /var/run), so that it can be found among mounts.
func Create(root, id string) (Dir, error) {
	if err := bundle.CheckID(id); err != nil {
		return "", err
	}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return "", fmt.Errorf("state root: %w", err)
	}
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return "", fmt.Errorf("state root: %w", err)
	}
	d := Dir(filepath.Join(root, id))
	err = os.Mkdir(string(d), 0o700)
	if errors.Is(err, os.ErrExist) {
		return "", ErrExist
	}
	if err != nil {
		return "", fmt.Errorf("state directory: %w", err)
	}
	return d, nil
}

// Open returns the directory of id, or ErrNotExist.
func Open(root, id string) (Dir, error) {
	d, err := Path(root, id)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(string(d)); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return "", ErrNotExist
		}
		return "", fmt.Errorf("state directory: %w", err)
	}
	return d, nil
}

// List returns the ids below root, sorted. A root that is not there has none.
func List(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("state root: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && bundle.CheckID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	sort.Strings(ids)
	return ids, nil
}

// Save writes s so that a reader sees the old state or the new one.
func (d Dir) Save(s *State) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return WriteFile(filepath.Join(string(d), stateFile), data, 0o600)
}

// Load reads state.json. A directory without one is a container whose create
// has only begun, or was killed then; the error is os.ErrNotExist.
func (d Dir) Load() (*State, error) {
	data, err := os.ReadFile(filepath.Join(string(d), stateFile))
	if err != nil {
		return nil, err
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", stateFile, err)
	}
	return &s, nil
}

// Lock waits for the directory's lock, which orders the commands that change a
// container, until ctx ends. Closing the file gives it back. It is a lock on the
// directory itself: on a full disk no file for it could be made, and nothing be
// deleted. ErrNotExist: the container was deleted meanwhile; what has its id now is
// another.
func (d Dir) Lock(ctx context.Context) (*os.File, error) {
	f, err := os.Open(string(d))
	if err != nil {
		return nil, lockError(err)
	}
	if err := flock(ctx, f); err != nil {
		f.Close()
		return nil, lockError(err)
	}
	locked, err := f.Stat()
	if err == nil {
		var now os.FileInfo
		if now, err = os.Stat(string(d)); err == nil && !os.SameFile(locked, now) {
			err = os.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, lockError(err)
	}
	return f, nil
}

func lockError(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return ErrNotExist
	}
	return fmt.Errorf("lock: %w", err)
}

// flock is flock(2), which has no time-out.
func flock(ctx context.Context, f *os.File) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// Remove removes the directory and the files in it. It never descends. A directory
// with anything in it that runm has not made is none of runm's, whatever its name:
// it stays as it is, and the error says what is in it.
func (d Dir) Remove() error {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	for _, e := range entries {
		if !ours(e.Name()) {
			return fmt.Errorf("%s is no container of runm's: it has %q in it; is --root right?", d, e.Name())
		}
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(string(d), e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("state directory: %w", err)
		}
	}
	if err := os.Remove(string(d)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// ours says whether a state directory may have a file of that name: state.json is
// written under another one first.
func ours(name string) bool {
	switch name {
	case stateFile, LogFile, control.Socket:
		return true
	}
	return strings.HasPrefix(name, "."+stateFile+".")
}

// WriteFile writes path atomically: a reader finds nothing or all of it.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
