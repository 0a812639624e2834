package plan

import (
	"errors"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/vmm"
)

// errHostNetwork: what `--network host` asks for.
var errHostNetwork = errors.New("linux.namespaces: there is no network namespace but the host's, and a machine cannot be in that one; " +
	"give the container a network of its own and publish its ports, or, for loopback alone, set the annotation dev.runm.host-network=loopback (host_network in " + config.DefaultPath + ")")

// nics are the machine's network interfaces. Their number is fixed when the
// machine is made, which is before hooks and clients have put interfaces into
// the container's network namespace; they are told apart by their MACs until
// each has the one of its interface.
func (p *Plan) nics(l *specs.Linux, c config.Config, h Host) ([]vmm.NIC, error) {
	if h.HostNetwork || !hasNetwork(l) {
		if c.HostNetwork != config.HostNetworkLoopback {
			return nil, errHostNetwork
		}
		p.warn("linux.namespaces", "a machine cannot share the host's network: the container has loopback only (host-network=loopback).")
		return nil, nil
	}
	var list []vmm.NIC
	for i := range c.NICs {
		list = append(list, vmm.NIC{MAC: api.NICMAC(byte(i))})
	}
	return list, nil
}

func hasNetwork(l *specs.Linux) bool {
	return l != nil && slices.ContainsFunc(l.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
}
