//go:build linux

package holder

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cloneFlags are the namespaces a host process can be given. A time namespace
// is only entered by a later fork (time_namespaces(7)), so it is the guest's
// alone.
func cloneFlag(t specs.LinuxNamespaceType) (flag int, ok bool) {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID, true
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET, true
	case specs.MountNamespace:
		return unix.CLONE_NEWNS, true
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC, true
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS, true
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER, true
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP, true
	default:
		return 0, false
	}
}

// namespaces is what config.json asks of the holder: new ones as clone flags,
// and open files of those to join.
type namespaces struct {
	create int
	join   map[int]*os.File // by clone flag
}

// openNamespaces opens what is given by path and checks that it is of the type
// it is given for ("The runtime MUST generate an error if path is not
// associated with a namespace of type type", config-linux.md).
func openNamespaces(list []specs.LinuxNamespace) (_ *namespaces, err error) {
	n := &namespaces{join: map[int]*os.File{}}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	for _, ns := range list {
		flag, ok := cloneFlag(ns.Type)
		if !ok {
			continue
		}
		if ns.Path == "" {
			n.create |= flag
			continue
		}
		f, err := os.Open(ns.Path)
		if err != nil {
			return nil, fmt.Errorf("%s namespace: %w", ns.Type, err)
		}
		n.join[flag] = f
		got, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
		if err != nil {
			return nil, fmt.Errorf("%s namespace: %s is not a namespace: %w", ns.Type, ns.Path, err)
		}
		if got != flag {
			return nil, fmt.Errorf("%s namespace: %s is a namespace of another type", ns.Type, ns.Path)
		}
	}
	if n.join[unix.CLONE_NEWUSER] != nil {
		return nil, errors.New("linux.namespaces: joining a user namespace by path is not supported; leave its path out to get a new one")
	}
	return n, nil
}

func (n *namespaces) close() {
	for _, f := range n.join {
		f.Close()
	}
}

// start calls f on a thread that is in the namespaces to join and in dir, so
// that a process f starts is too. The mount namespace is left out: f needs the
// host's files, and the process joins it by itself. The thread ends with f.
func (n *namespaces) start(dir string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: a thread in foreign namespaces must not be reused.
		runtime.LockOSThread()
		done <- n.enter(dir, f)
	}()
	return <-done
}

func (n *namespaces) enter(dir string, f func() error) error {
	// A working directory of the thread's own.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare fs: %w", err)
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("chdir %s: %w", dir, err)
	}
	for flag, ns := range n.join {
		if flag == unix.CLONE_NEWNS {
			continue
		}
		if err := unix.Setns(int(ns.Fd()), flag); err != nil {
			return fmt.Errorf("join namespace %s: %w", ns.Name(), err)
		}
	}
	return f()
}

// mappings converts to what the kernel's uid_map takes.
func mappings(list []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, m := range list {
		out = append(out, syscall.SysProcIDMap{
			ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size),
		})
	}
	return out
}

// mapsRoot reports whether list gives id 0 a meaning.
func mapsRoot(list []specs.LinuxIDMapping) bool {
	for _, m := range list {
		if m.ContainerID == 0 && m.Size > 0 {
			return true
		}
	}
	return false
}
