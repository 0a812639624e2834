//go:build linux

// Package leak finds what a container runtime left behind: processes, mounts,
// cgroups, tap devices, listening sockets and state.
//
// The machine is shared with other tests, so only what bears the test's own
// names counts: its scratch directory, and the container ids and cgroups it
// used.
package leak

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	// settle bounds the wait for what is already on its way out: a killed
	// process, a lazily detached mount, a cgroup whose last process is dying.
	settle = 5 * time.Second
	// again is the pause between two looks at facts that send no event.
	again = 50 * time.Millisecond
)

// A Scope is what one test calls its own. The zero value owns nothing.
type Scope struct {
	// Root is the absolute path of the test's scratch directory; the
	// runtime's state, TMPDIR and the bundles must all be below it.
	Root string
	// State lists the runtimes' --root directories, where each container
	// has one entry.
	State []string
	// Names are container ids and cgroup names that nobody else uses.
	Names []string

	taps []string // tap devices that were there before
}

// Watch fails t at its end if anything of root or of names is left. Call it
// before anything is made in root, and after the t.TempDir that made root, so
// that it looks before root is removed. State is root/root.
func Watch(t testing.TB, root string, names ...string) {
	t.Helper()
	scope, err := New(root, names...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Check(t, scope) })
}

// IDs lists the containers that have a state directory below root. What is no
// container, such as a machine's staging directory, begins with a character that
// no id has, or with a dot.
func IDs(root string) (ids []string, err error) {
	entries, err := os.ReadDir(root)
	for _, e := range entries {
		if !strings.ContainsAny(e.Name()[:1], ".@") {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}

// New is the Scope of root as the machine is now.
func New(root string, names ...string) (*Scope, error) {
	if !filepath.IsAbs(root) || filepath.Clean(root) == "/" {
		return nil, fmt.Errorf("leak: root %q: want an absolute path below /", root)
	}
	taps, err := tapDevices()
	if err != nil {
		return nil, err
	}
	root = filepath.Clean(root)
	return &Scope{Root: root, State: []string{filepath.Join(root, "root")}, Names: names, taps: taps}, nil
}

// Check reports everything that is still there once it had the time to go.
func Check(t testing.TB, s *Scope) {
	t.Helper()
	left, err := s.Wait(settle)
	if err != nil {
		t.Error(err)
	}
	for _, l := range left {
		t.Errorf("left behind: %s", l)
	}
}

// Wait looks until nothing is left or the time is over, and returns what is.
func (s *Scope) Wait(limit time.Duration) ([]string, error) {
	deadline := time.Now().Add(limit)
	for {
		left, err := s.Left()
		if err != nil || len(left) == 0 || time.Now().After(deadline) {
			return left, err
		}
		time.Sleep(again) // mounts, cgroups and other people's children send no event
	}
}

// Left names what is there now, each with its kind. Zombies count as gone:
// process 1 may take seconds to reap them.
func (s *Scope) Left() ([]string, error) {
	var left []string
	for _, look := range []func() ([]string, error){
		s.processes, s.Mounts, s.cgroups, s.newTaps, s.sockets, s.containers,
	} {
		found, err := look()
		if err != nil {
			return nil, fmt.Errorf("leak: %w", err)
		}
		left = append(left, found...)
	}
	return left, nil
}

// owns says whether text names something of the test.
func (s *Scope) owns(text string) bool {
	return s.below(text) || slices.ContainsFunc(s.Names, func(name string) bool {
		return name != "" && strings.Contains(text, name)
	})
}

// below finds Root in text, as a whole path: /tmp/a is not in /tmp/ab.
func (s *Scope) below(text string) bool {
	for {
		i := strings.Index(text, s.Root)
		if i < 0 || s.Root == "" {
			return false
		}
		text = text[i+len(s.Root):]
		if text == "" || strings.IndexByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.", text[0]) < 0 {
			return true
		}
	}
}

// containers lists what State still holds. A name with a leading dot is the
// runtime's own (locks, templates), not a container.
func (s *Scope) containers() ([]string, error) {
	var left []string
	for _, dir := range s.State {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				left = append(left, "state "+filepath.Join(dir, e.Name()))
			}
		}
	}
	return left, nil
}

// Mounts lists the mounts below Root in the test's own mount namespace; those
// of other namespaces last as long as a process, which processes finds.
func (s *Scope) Mounts() ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var left []string
	for line := range strings.Lines(string(info)) {
		// ID PARENT MAJOR:MINOR ROOT MOUNTPOINT …, proc_pid_mountinfo(5)
		if f := strings.Fields(line); len(f) > 4 && s.below(f[4]) {
			left = append(left, "mount "+f[4])
		}
	}
	return left, nil
}

// sockets lists the unix sockets bound below Root.
func (s *Scope) sockets() ([]string, error) {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	var left []string
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 7 && s.below(f[7]) {
			left = append(left, "socket "+f[7])
		}
	}
	return left, nil
}
