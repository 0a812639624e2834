//go:build linux

package leak

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// processes lists the living processes that name the test in their command
// line, environment, cgroup, mounts, working directory or open files. The
// caller and its ancestors do not count.
func (s *Scope) processes() ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	family := ancestors(os.Getpid())
	var left []string
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || slices.Contains(family, pid) || !alive(dir) || MakesTemplate(pid) {
			continue
		}
		if why := s.trace(dir); why != "" {
			left = append(left, fmt.Sprintf("process %d %q (%s)", pid, command(dir), why))
		}
	}
	return left, nil
}

// MakesTemplate says whether a process is, or belongs to, one that makes a
// template in the background. It outlives, on purpose, the create that started
// it, and is nobody's: it has only the PATH of its environment.
func MakesTemplate(pid int) bool {
	return slices.ContainsFunc(ancestors(pid), func(p int) bool {
		return command(filepath.Join("/proc", strconv.Itoa(p))) == "runm-template"
	})
}

// trace says where a process names the test, or "". What cannot be read
// belongs to a process that has just ended.
func (s *Scope) trace(dir string) string {
	for _, file := range []string{"cmdline", "environ", "cgroup"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err == nil && s.owns(strings.ReplaceAll(string(data), "\x00", " ")) {
			return file
		}
	}
	links, err := filepath.Glob(filepath.Join(dir, "fd", "*"))
	if err != nil {
		return ""
	}
	for _, link := range append(links, filepath.Join(dir, "cwd"), filepath.Join(dir, "root")) {
		if target, err := os.Readlink(link); err == nil && s.below(target) {
			name, _ := filepath.Rel(dir, link)
			return name + " is " + target
		}
	}
	if foreignMounts(dir) {
		data, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
		if err == nil && s.below(string(data)) {
			return "mounts"
		}
	}
	return ""
}

// foreignMounts says that the process has a mount namespace of its own.
func foreignMounts(dir string) bool {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return false
	}
	its, err := os.Readlink(filepath.Join(dir, "ns", "mnt"))
	return err == nil && its != own
}

// alive is false for zombies.
func alive(dir string) bool {
	state, _, ok := status(dir)
	return ok && state != "Z" && state != "X"
}

// status reads the state letter and the parent from /proc/PID/stat.
func status(dir string) (state string, parent int, ok bool) {
	data, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return "", 0, false
	}
	// The second field is the name in parentheses and may hold anything.
	i := strings.LastIndexByte(string(data), ')')
	f := strings.Fields(string(data)[i+1:])
	if i < 0 || len(f) < 2 {
		return "", 0, false
	}
	parent, err = strconv.Atoi(f[1])
	return f[0], parent, err == nil
}

// ancestors is pid, its parent, and so on to process 1.
func ancestors(pid int) []int {
	var family []int
	for pid > 0 {
		family = append(family, pid)
		_, parent, ok := status(filepath.Join("/proc", strconv.Itoa(pid)))
		if !ok {
			break
		}
		pid = parent
	}
	return family
}

func command(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
}
