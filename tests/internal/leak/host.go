//go:build linux

package leak

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// cgroups lists the cgroups, in every hierarchy, that bear one of Names.
// Empty parents of a configured path ("testdir" of "testdir/c1") bear none.
func (s *Scope) cgroups() ([]string, error) {
	const top = "/sys/fs/cgroup"
	if len(s.Names) == 0 {
		return nil, nil
	}
	var left []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while we looked
		}
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return nil
		}
		if slices.ContainsFunc(s.Names, func(n string) bool { return n != "" && strings.Contains(d.Name(), n) }) {
			left = append(left, "cgroup "+path)
			return fs.SkipDir
		}
		return nil
	})
	return left, err
}

// newTaps lists the tap devices of this network namespace that came after the
// Scope was made and that no process holds: one that lives with its process
// is found, or forgiven, with that process.
func (s *Scope) newTaps() ([]string, error) {
	now, err := tapDevices()
	if err != nil {
		return nil, err
	}
	now = slices.DeleteFunc(now, func(name string) bool { return slices.Contains(s.taps, name) })
	if len(now) == 0 {
		return nil, nil
	}
	held, err := heldTaps()
	if err != nil {
		return nil, err
	}
	var left []string
	for _, name := range now {
		if !slices.Contains(held, name) {
			left = append(left, "tap device "+name)
		}
	}
	return left, nil
}

// tapDevices names the tun and tap interfaces of this network namespace.
func tapDevices() ([]string, error) {
	files, err := filepath.Glob("/sys/class/net/*/tun_flags")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, file := range files {
		names = append(names, filepath.Base(filepath.Dir(file)))
	}
	return names, nil
}

// heldTaps names the interfaces whose /dev/net/tun descriptor some process
// has open: the kernel prints them as "iff:" in fdinfo.
func heldTaps() ([]string, error) {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != "/dev/net/tun" {
			continue
		}
		info, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "fdinfo", filepath.Base(link)))
		if err != nil {
			continue // closed while we looked
		}
		for line := range strings.Lines(string(info)) {
			if name, ok := strings.CutPrefix(line, "iff:"); ok {
				names = append(names, strings.TrimSpace(name))
			}
		}
	}
	return names, nil
}
