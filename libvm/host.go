//go:build linux

package libvm

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/network"
	"github.com/runm/runm/libvm/plan"
	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/libvm/vmm/qemu"
)

// host gathers the facts that a plan depends on.
func host(s *specs.Spec, c config.Config, a config.Assets) (plan.Host, error) {
	if os.Geteuid() != 0 {
		return plan.Host{}, errors.New("runm must be run as root: it mounts the container's files and joins its namespaces")
	}
	if err := a.Require("kernel", "initrd", "qemu"); err != nil {
		return plan.Host{}, err
	}
	accel, reason, err := qemu.Accelerator(c.Accel)
	if err != nil {
		return plan.Host{}, err
	}
	share, err := shareType(c, a)
	if err != nil {
		return plan.Host{}, err
	}
	// Who has chosen one knows.
	var warnings []string
	if accel == vmm.AccelTCG && c.Accel == vmm.AccelAuto {
		warnings = append(warnings, fmt.Sprintf("no hardware virtualisation (%s): the guest is emulated, which is slower and a weaker boundary", reason))
	}
	if share == vmm.Share9p && c.Share == config.ShareAuto {
		warnings = append(warnings, "no virtiofsd: files are shared by 9p, which is slower")
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return plan.Host{}, fmt.Errorf("host memory: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		return plan.Host{}, fmt.Errorf("hostname: %w", err)
	}
	hostNetwork, err := namesHostNetwork(s.Linux)
	if err != nil {
		return plan.Host{}, err
	}
	return plan.Host{
		CPUs:      runtime.NumCPU(),
		MemoryMiB: int(uint64(info.Totalram) * uint64(info.Unit) >> 20),
		Accel:     accel,
		Share:     share,
		Kernel:    a.Kernel,
		Initrd:    a.Initrd,
		Hostname:  name,
		Warnings:  warnings,

		HostNetwork:   hostNetwork,
		OwnNamespaces: ownNamespaces(s.Linux),
	}, nil
}

// namesHostNetwork reports whether the network namespace that l gives by path is
// the host's own.
func namesHostNetwork(l *specs.Linux) (bool, error) {
	if l == nil {
		return false, nil
	}
	for _, n := range l.Namespaces {
		if n.Type == specs.NetworkNamespace && n.Path != "" {
			return network.IsOurs(n.Path)
		}
	}
	return false, nil
}

// ownNamespaces are the paths in l of namespaces, the network's apart, that are
// this process's own: the host's.
func ownNamespaces(l *specs.Linux) map[string]bool {
	own := map[string]bool{}
	for path, name := range joinedNamespaces(l) {
		if name != sharedNamespaces[specs.NetworkNamespace] && isOf(path, name, "self") {
			own[path] = true
		}
	}
	return own
}

// shareType takes virtiofs where it can be had.
func shareType(c config.Config, a config.Assets) (vmm.ShareType, error) {
	switch {
	case c.Share == config.ShareAuto && a.Virtiofsd == "":
		return vmm.Share9p, nil
	case c.Share == config.ShareAuto:
		return vmm.ShareVirtiofs, nil
	case vmm.ShareType(c.Share) == vmm.ShareVirtiofs:
		return vmm.ShareVirtiofs, a.Require("virtiofsd")
	default:
		return vmm.ShareType(c.Share), nil
	}
}
