//go:build linux

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

var errSysctl = errors.New("invalid name")

// takeGuestSysctls writes those of a container's sysctls that are not of one of
// its namespaces, new or joined, to root (/proc/sys), and takes them out of l:
// libcontainer refuses them. A container never has a network namespace of its own
// in the guest, so net.* are among them; the whole guest is the container's.
func takeGuestSysctls(root string, l *specs.Linux) error {
	if len(l.Sysctl) == 0 {
		return nil
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("linux.sysctl: %w", err)
	}
	defer dir.Close()
	kept := map[string]string{}
	for name, value := range l.Sysctl {
		path, err := sysctlPath(name)
		if err != nil {
			return fmt.Errorf("linux.sysctl.%s: %w", name, err)
		}
		if ns, ok := sysctlNamespace(path); ok && has(l.Namespaces, ns) {
			kept[name] = value
			continue
		}
		if err := writeSysctl(dir, path, value); err != nil {
			return fmt.Errorf("linux.sysctl.%s: %w", name, err)
		}
	}
	l.Sysctl = kept
	return nil
}

func writeSysctl(dir *os.Root, path, value string) error {
	f, err := dir.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

// sysctlPath is the path of a sysctl below /proc/sys. As in sysctl.d(5) the
// separator is whichever of "." and "/" comes first; where it is ".", a "/" in
// the name stands for a ".".
func sysctlPath(name string) (string, error) {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		name = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	if !filepath.IsLocal(name) || filepath.Clean(name) != name || name == "." {
		return "", errSysctl
	}
	return name, nil
}

// sysctlNamespace says which namespace, if any, a sysctl is private to, by the
// rules of libcontainer/configs/validate.
func sysctlNamespace(path string) (specs.LinuxNamespaceType, bool) {
	ipc := []string{"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem",
		"kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced"}
	switch {
	case slices.Contains(ipc, path), strings.HasPrefix(path, "fs/mqueue/"):
		return specs.IPCNamespace, true
	case path == "kernel/domainname":
		return specs.UTSNamespace, true
	case strings.HasPrefix(path, "user/"):
		return specs.UserNamespace, true
	case strings.HasPrefix(path, "net/"):
		return specs.NetworkNamespace, true
	default:
		return "", false
	}
}

func has(namespaces []specs.LinuxNamespace, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}
