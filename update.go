//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	return container.Update(given)
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
