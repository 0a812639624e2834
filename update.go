//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"

	"github.com/docker/go-units"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm"
)

func updateCommand() *cli.Command {
	text := func(name, usage string) cli.Flag { return &cli.StringFlag{Name: name, Usage: usage} }
	return &cli.Command{
		Name:      "update",
		Usage:     "change the resource limits of a container",
		ArgsUsage: "<container-id>",
		Description: "What is not given stays as it is. With --resources all other flags are ignored.\n" +
			"Memory may grow up to what the machine was made with.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "resources", Aliases: []string{"r"}, Usage: "file with linux.resources of config.json, or - for stdin"},
			&cli.IntFlag{Name: "blkio-weight", Usage: "weight of block I/O, 10 to 1000"},
			text("cpu-period", "CPU period in microseconds"),
			text("cpu-quota", "CPU time in microseconds that may be used in each period, -1 for no limit"),
			text("cpu-burst", "CPU time in microseconds that may be saved for a burst"),
			text("cpu-share", "CPU shares, relative to other containers"),
			text("cpu-rt-period", "realtime period: the guest's kernel has none, refused"),
			text("cpu-rt-runtime", "realtime runtime: the guest's kernel has none, refused"),
			text("cpuset-cpus", "CPUs to use, like 0-3,7"),
			text("cpuset-mems", "memory nodes to use"),
			&cli.StringFlag{Name: "kernel-memory", Hidden: true},
			&cli.StringFlag{Name: "kernel-memory-tcp", Hidden: true},
			text("memory", "memory limit, in bytes or like 64M; -1 for none"),
			text("cpu-idle", "1: run only when nothing else wants to (SCHED_IDLE); 0: do not"),
			text("memory-reservation", "memory reservation, in bytes or like 64M"),
			text("memory-swap", "memory and swap together, in bytes or like 64M; -1 for no limit"),
			&cli.IntFlag{Name: "pids-limit", Usage: "most processes, -1 for no limit"},
			text("l3-cache-schema", "Intel RDT: not supported, refused"),
			text("mem-bw-schema", "Intel RDT: not supported, refused"),
		},
		Action: func(c *cli.Context) error {
			id, err := containerID(c)
			if err != nil {
				return err
			}
			container, err := load(c)
			if err == nil {
				err = update(c, container)
			}
			if err != nil {
				return fmt.Errorf("update %q: %w", id, err)
			}
			return nil
		},
	}
}

func update(c *cli.Context, container *libvm.Container) error {
	for _, name := range []string{"l3-cache-schema", "mem-bw-schema"} {
		if c.String(name) != "" {
			return fmt.Errorf("--%s: Intel RDT is not supported", name)
		}
	}
	given, err := givenResources(c)
	if err != nil {
		return err
	}
	if container.State.Spec == nil {
		return libvm.ErrNotRunning // it is still being created
	}
	current := &specs.LinuxResources{}
	if l := container.State.Spec.Linux; l != nil && l.Resources != nil {
		current = l.Resources
	}
	return container.Update(mergeResources(current, given))
}

// givenResources is --resources, or what the flags say.
func givenResources(c *cli.Context) (*specs.LinuxResources, error) {
	switch path := c.String("resources"); path {
	case "":
		return flagResources(c)
	case "-":
		return decodeResources(os.Stdin)
	default:
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return decodeResources(f)
	}
}

func decodeResources(r io.Reader) (*specs.LinuxResources, error) {
	var given specs.LinuxResources
	if err := json.NewDecoder(r).Decode(&given); err != nil {
		return nil, fmt.Errorf("--resources: %w", err)
	}
	if m := given.Memory; m != nil && (m.Kernel != nil || m.KernelTCP != nil) { //nolint:staticcheck // deprecated, and ignored
		logrus.Warn("kernel memory settings are ignored")
	}
	for _, name := range unchangeable(&given) {
		logrus.Warnf("linux.resources.%s: a running container's cannot be changed; it stays as it is", name)
	}
	return &given, nil
}

// unchangeable names the resources in r that update does not change, as runc does
// not.
func unchangeable(r *specs.LinuxResources) []string {
	var names []string
	if len(r.Devices) > 0 {
		names = append(names, "devices")
	}
	if len(r.HugepageLimits) > 0 {
		names = append(names, "hugepageLimits")
	}
	if r.Network != nil {
		names = append(names, "network")
	}
	if len(r.Rdma) > 0 {
		names = append(names, "rdma")
	}
	return names
}

func flagResources(c *cli.Context) (*specs.LinuxResources, error) {
	f := flagReader{c: c}
	r := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{
			Period: f.unsigned("cpu-period"), Burst: f.unsigned("cpu-burst"), Shares: f.unsigned("cpu-share"),
			RealtimePeriod: f.unsigned("cpu-rt-period"), RealtimeRuntime: f.signed("cpu-rt-runtime"),
			Quota: f.signed("cpu-quota"), Idle: f.signed("cpu-idle"),
			Cpus: c.String("cpuset-cpus"), Mems: c.String("cpuset-mems"),
		},
		Memory: &specs.LinuxMemory{
			Limit: f.bytes("memory"), Swap: f.bytes("memory-swap"), Reservation: f.bytes("memory-reservation"),
		},
		BlockIO: &specs.LinuxBlockIO{},
		Pids:    &specs.LinuxPids{},
	}
	if f.bytes("kernel-memory") != nil || f.bytes("kernel-memory-tcp") != nil {
		logrus.Warn("kernel memory settings are ignored")
	}
	if v := c.Int("blkio-weight"); v != 0 {
		if v < 10 || v > 1000 {
			return nil, fmt.Errorf("invalid value for blkio-weight: %d is not between 10 and 1000", v)
		}
		w := uint16(v)
		r.BlockIO.Weight = &w
	}
	if c.IsSet("pids-limit") {
		n := int64(c.Int("pids-limit"))
		r.Pids.Limit = &n
	}
	return r, f.err
}

// flagReader parses flags that may be missing; err has what was wrong.
type flagReader struct {
	c   *cli.Context
	err error
}

func (f *flagReader) unsigned(name string) *uint64 {
	return parseFlag(f, name, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
}

func (f *flagReader) signed(name string) *int64 {
	return parseFlag(f, name, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) })
}

// bytes takes units of 1024: 64M, 1g, 512KiB.
func (f *flagReader) bytes(name string) *int64 {
	return parseFlag(f, name, func(s string) (int64, error) {
		if s == "-1" {
			return -1, nil
		}
		return units.RAMInBytes(s)
	})
}

func parseFlag[T any](f *flagReader, name string, parse func(string) (T, error)) *T {
	text := f.c.String(name)
	if text == "" {
		return nil
	}
	v, err := parse(text)
	if err != nil {
		f.err = errors.Join(f.err, fmt.Errorf("invalid value for %s: %w", name, err))
		return nil
	}
	return &v
}

// mergeResources is current with what is given. As for runc, a limit of 0 is
// one that is not given: clients send every field.
func mergeResources(current, given *specs.LinuxResources) *specs.LinuxResources {
	r := *current
	r.Memory = mergeMemory(current.Memory, given.Memory)
	r.CPU = mergeCPU(current.CPU, given.CPU)
	r.BlockIO = mergeBlockIO(current.BlockIO, given.BlockIO)
	if given.Pids != nil && given.Pids.Limit != nil {
		r.Pids = given.Pids
	}
	if len(given.Unified) > 0 {
		r.Unified = maps.Clone(current.Unified)
		if r.Unified == nil {
			r.Unified = map[string]string{}
		}
		maps.Copy(r.Unified, given.Unified)
	}
	return &r
}

func mergeMemory(current, given *specs.LinuxMemory) *specs.LinuxMemory {
	if given == nil {
		return current
	}
	var m specs.LinuxMemory
	if current != nil {
		m = *current
	}
	take(&m.Limit, given.Limit)
	take(&m.Reservation, given.Reservation)
	take(&m.Swap, given.Swap)
	if given.CheckBeforeUpdate != nil {
		m.CheckBeforeUpdate = given.CheckBeforeUpdate
	}
	if given.Limit != nil && *given.Limit == -1 && given.Swap == nil {
		// Without a limit on memory there is none on memory and swap.
		m.Swap = nil
	}
	return &m
}

func mergeCPU(current, given *specs.LinuxCPU) *specs.LinuxCPU {
	if given == nil {
		return current
	}
	var m specs.LinuxCPU
	if current != nil {
		m = *current
	}
	take(&m.Shares, given.Shares)
	take(&m.Quota, given.Quota)
	take(&m.Period, given.Period)
	take(&m.RealtimeRuntime, given.RealtimeRuntime)
	take(&m.RealtimePeriod, given.RealtimePeriod)
	if given.Burst != nil {
		m.Burst = given.Burst
	}
	if given.Cpus != "" {
		m.Cpus = given.Cpus
	}
	if given.Mems != "" {
		m.Mems = given.Mems
	}
	if given.Idle != nil {
		m.Idle = given.Idle
		if given.Shares == nil {
			m.Shares = nil // the kernel refuses a weight where it is idle
		}
	}
	return &m
}

func mergeBlockIO(current, given *specs.LinuxBlockIO) *specs.LinuxBlockIO {
	if given == nil {
		return current
	}
	var m specs.LinuxBlockIO
	if current != nil {
		m = *current
	}
	take(&m.Weight, given.Weight)
	take(&m.LeafWeight, given.LeafWeight)
	m.WeightDevice = mergeWeights(m.WeightDevice, given.WeightDevice)
	m.ThrottleReadBpsDevice = mergeRates(m.ThrottleReadBpsDevice, given.ThrottleReadBpsDevice)
	m.ThrottleWriteBpsDevice = mergeRates(m.ThrottleWriteBpsDevice, given.ThrottleWriteBpsDevice)
	m.ThrottleReadIOPSDevice = mergeRates(m.ThrottleReadIOPSDevice, given.ThrottleReadIOPSDevice)
	m.ThrottleWriteIOPSDevice = mergeRates(m.ThrottleWriteIOPSDevice, given.ThrottleWriteIOPSDevice)
	return &m
}

// mergeWeights replaces the weights of the devices given and adds new ones.
func mergeWeights(current, given []specs.LinuxWeightDevice) []specs.LinuxWeightDevice {
	out := append([]specs.LinuxWeightDevice{}, current...)
next:
	for _, g := range given {
		for i := range out {
			if out[i].Major == g.Major && out[i].Minor == g.Minor {
				take(&out[i].Weight, g.Weight)
				take(&out[i].LeafWeight, g.LeafWeight)
				continue next
			}
		}
		out = append(out, g)
	}
	return out
}

// mergeRates replaces the rates of the devices given and adds new ones.
func mergeRates(current, given []specs.LinuxThrottleDevice) []specs.LinuxThrottleDevice {
	out := append([]specs.LinuxThrottleDevice{}, current...)
next:
	for _, g := range given {
		for i := range out {
			if out[i].Major == g.Major && out[i].Minor == g.Minor {
				out[i].Rate = g.Rate
				continue next
			}
		}
		out = append(out, g)
	}
	return out
}

// take sets *field to value unless that is not given, or 0.
func take[T comparable](field **T, value *T) {
	var zero T
	if value != nil && *value != zero {
		*field = value
	}
}
