//go:build linux

package agent

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
)

var errNamespace = errors.New("no such namespace")

// namespaceFiles are their names in /proc/<pid>/ns (namespaces(7)). The network
// is not among them: all containers of a guest have the guest's own.
var namespaceFiles = map[specs.LinuxNamespaceType]string{
	specs.PIDNamespace:    "pid",
	specs.IPCNamespace:    "ipc",
	specs.UTSNamespace:    "uts",
	specs.UserNamespace:   "user",
	specs.CgroupNamespace: "cgroup",
}

// joinNamespaces gives the namespaces that spec takes from other containers
// (api.NamespaceOf and an id) their paths. initPid returns the pid of a
// container's init.
func joinNamespaces(spec *specs.Spec, initPid func(id string) (int, error)) error {
	for i := range spec.Linux.Namespaces {
		ns := &spec.Linux.Namespaces[i]
		id, ok := strings.CutPrefix(ns.Path, api.NamespaceOf)
		if !ok {
			if ns.Path != "" {
				return fmt.Errorf("%w: %s %q", errNamespace, ns.Type, ns.Path)
			}
			continue
		}
		file, ok := namespaceFiles[ns.Type]
		if !ok {
			return fmt.Errorf("%w: %s cannot be another container's", errNamespace, ns.Type)
		}
		pid, err := initPid(id)
		if err != nil {
			return fmt.Errorf("%s namespace of container %q: %w", ns.Type, id, err)
		}
		ns.Path = fmt.Sprintf("/proc/%d/ns/%s", pid, file)
	}
	return nil
}

// initPid is the pid of a container's init, which must not have ended.
func (s *server) initPid(id string) (int, error) {
	c, err := s.container(id)
	if err != nil {
		return 0, err
	}
	p, err := c.proc("")
	if err != nil {
		return 0, err
	}
	select {
	case <-p.exited:
		return 0, errFinished
	default:
		return p.pid, nil
	}
}
