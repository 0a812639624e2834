//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
	libnetwork "github.com/runm/runm/libvm/network"
	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/tests/bench/report"
)

const (
	// netThroughputTarget and netLatencyTarget are what a container must reach
	// of a bare machine on a tap.
	netThroughputTarget = 0.8
	netLatencyTarget    = 1.3
	// netAddress is the other end's; the near end is 10.78.0.1.
	netAddress = "10.78.0.2:7"
	// netTime is how long bytes are sent one way.
	netTime = 3 * time.Second
	// netTrips is how many datagrams go to and fro.
	netTrips = 400
	netBlock = 128 << 10
)

// netFigures is one measurement of one machine: MiB/s to it and from it, the
// same in a second of the machine's processor time, and the median of its round
// trips in microseconds.
type netFigures struct{ to, from, toCPU, fromCPU, trip float64 }

// networks compares a container's network with a bare machine's: the same
// program at the other end, and nothing between it and the host but a tap.
func networks(ctx context.Context, b *bench, s *report.Section) error {
	program, err := b.buildGo(ctx, "net")
	if err != nil {
		return err
	}
	var all [2][]netFigures
	for range b.rounds {
		for i, measure := range []func(context.Context, string) (netFigures, error){b.bareNetwork, b.runNetwork} {
			f, err := measure(ctx, program)
			if err != nil {
				return err
			}
			all[i] = append(all[i], f)
		}
	}
	compare := func(name, unit string, pick func(netFigures) float64) report.Row {
		var values [2][]float64
		for i, list := range all {
			for _, f := range list {
				values[i] = append(values[i], pick(f))
			}
		}
		return report.Row{Name: name, Unit: unit, Values: values[1], FloorName: "a bare machine on a tap", Floor: values[0]}
	}
	s.Rows = append(s.Rows,
		compare("TCP host to container", "MiB/s", func(f netFigures) float64 { return f.to }).AtLeast(netThroughputTarget),
		compare("the same in a second of the machine's processor time", "MiB", func(f netFigures) float64 { return f.toCPU }),
		compare("TCP container to host", "MiB/s", func(f netFigures) float64 { return f.from }).AtLeast(netThroughputTarget),
		compare("the same in a second of the machine's processor time", "MiB", func(f netFigures) float64 { return f.fromCPU }),
		compare("UDP round trip between host and container", "us", func(f netFigures) float64 { return f.trip }).AtMost(netLatencyTarget, 0))
	return nil
}

// bareNetwork measures a machine whose init is the program.
func (b *bench) bareNetwork(ctx context.Context, program string) (f netFigures, err error) {
	near, err := newNetns()
	if err != nil {
		return f, err
	}
	defer near.Close()
	ns, err := libnetwork.OpenNamespace(netnsPath(near))
	if err != nil {
		return f, err
	}
	n, nics, err := libnetwork.Open(ns, []vmm.NIC{{MAC: api.NICMAC(0)}})
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	cfg := b.floorConfig(filepath.Join(b.dir, "net.cpio"), b.rootfs)
	cfg.Cmdline = append(cfg.Cmdline, "BARE=1") // the kernel makes it init's environment
	cfg.NICs = nics
	if err := errors.Join(packProgram(program, cfg.Initrd), inNetns(near, "ip addr add 10.78.0.1/24 dev runm0; ip link set runm0 up")); err != nil {
		nics[0].File.Close()
		return f, err
	}
	err = b.withMachine(ctx, cfg, func(_ context.Context, m vmm.Machine) (err error) {
		f, err = measureNetwork(near, m.(vmm.Processes).Pids())
		return err
	})
	return f, err
}

// runNetwork measures a container whose process is the program, behind a veth.
func (b *bench) runNetwork(ctx context.Context, program string) (f netFigures, err error) {
	near, err := newNetns()
	if err != nil {
		return f, err
	}
	defer near.Close()
	far, err := newNetns()
	if err != nil {
		return f, err
	}
	defer far.Close()
	err = errors.Join(
		inNetns(near, "ip link add near0 type veth peer name eth0 netns "+netnsPath(far)+"; ip addr add 10.78.0.1/24 dev near0; ip link set near0 up"),
		inNetns(far, "ip addr add 10.78.0.2/24 dev eth0; ip link set eth0 up"),
		copyFile(program, filepath.Join(b.rootfs, "bin/net")))
	if err != nil {
		return f, err
	}
	s := b.spec([]string{"/bin/net"})
	for i := range s.Linux.Namespaces {
		if n := &s.Linux.Namespaces[i]; n.Type == specs.NetworkNamespace {
			n.Path = netnsPath(far)
		}
	}
	id := b.id()
	dir, err := b.write("net-"+id, s)
	if err != nil {
		return f, err
	}
	remove, err := b.runm.sleeper(ctx, dir, id)
	if err != nil {
		return f, err
	}
	pids, err := b.pids(ctx, id)
	if err == nil {
		f, err = measureNetwork(near, pids)
	}
	return f, errors.Join(err, remove())
}

// processorTime is the seconds that processes have taken so far (proc_pid_stat(5)).
func processorTime(pids []int) (seconds float64, err error) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		for _, field := range f[11:13] { // utime, stime
			n, err := strconv.Atoi(field)
			if err != nil {
				return 0, err
			}
			seconds += float64(n) / userHZ
		}
	}
	return seconds, nil
}

// measureNetwork measures from a namespace the machine that runs as pids, once
// its end serves.
func measureNetwork(near *os.File, pids []int) (f netFigures, err error) {
	ns, err := libnetwork.OpenNamespace(netnsPath(near))
	if err != nil {
		return f, err
	}
	defer ns.Close()
	dial := func(network string) (c net.Conn, err error) {
		err = ns.Do(func() error { c, err = net.DialTimeout(network, netAddress, time.Second); return err })
		return c, err
	}
	for deadline := time.Now().Add(machineTime); ; time.Sleep(50 * time.Millisecond) {
		c, err := dial("tcp4")
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			return f, err
		}
	}
	for _, way := range []struct {
		move         func(func(string) (net.Conn, error)) (mib, seconds float64, err error)
		rate, perCPU *float64
	}{{sendTo, &f.to, &f.toCPU}, {receiveFrom, &f.from, &f.fromCPU}} {
		before, err := processorTime(pids)
		if err != nil {
			return f, err
		}
		mib, seconds, err := way.move(dial)
		if err != nil {
			return f, err
		}
		after, err := processorTime(pids)
		if err != nil {
			return f, err
		}
		*way.rate, *way.perCPU = mib/seconds, mib/(after-before)
	}
	if f.trip, err = roundTrips(dial); err != nil {
		return f, fmt.Errorf("round trips: %w", err)
	}
	return f, nil
}

// sendTo returns how many MiB arrive in how many seconds: the other end hangs up
// when it has read all.
func sendTo(dial func(string) (net.Conn, error)) (mib, seconds float64, err error) {
	c, err := dial("tcp4")
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	buffer := bytes.Repeat([]byte{'r'}, netBlock)
	total, began := 0, time.Now()
	for time.Since(began) < netTime {
		n, err := c.Write(buffer)
		if total += n; err != nil {
			return 0, 0, err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, 0, err
	}
	_, err = io.Copy(io.Discard, c)
	return float64(total) / (1 << 20), time.Since(began).Seconds(), err
}

func receiveFrom(dial func(string) (net.Conn, error)) (mib, seconds float64, err error) {
	c, err := dial("tcp4")
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	if _, err := c.Write([]byte{'s'}); err != nil {
		return 0, 0, err
	}
	buffer := make([]byte, netBlock)
	total, began := 0, time.Now()
	for time.Since(began) < netTime {
		n, err := c.Read(buffer)
		if total += n; err != nil {
			return 0, 0, err
		}
	}
	return float64(total) / (1 << 20), time.Since(began).Seconds(), nil
}

// roundTrips is the median of datagrams to and fro, in microseconds.
func roundTrips(dial func(string) (net.Conn, error)) (float64, error) {
	c, err := dial("udp4")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buffer := make([]byte, 64)
	var all []float64
	for range netTrips {
		began := time.Now()
		if err := c.SetDeadline(began.Add(10 * time.Second)); err != nil {
			return 0, err
		}
		if _, err := c.Write(buffer); err != nil {
			return 0, err
		}
		if _, err := c.Read(buffer); err != nil {
			return 0, err
		}
		all = append(all, float64(time.Since(began).Microseconds()))
	}
	return report.Median(all), nil
}

// newNetns makes a network namespace that lasts as long as its file is open.
func newNetns() (f *os.File, err error) {
	made := make(chan struct{})
	go func() {
		defer close(made)
		// The thread is not given back: it ends with the namespace.
		runtime.LockOSThread()
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
	}()
	<-made
	return f, err
}

func netnsPath(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

func inNetns(f *os.File, script string) error {
	out, err := exec.Command("nsenter", "--net="+netnsPath(f), "sh", "-ec", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}
