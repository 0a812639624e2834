//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/tests/bench/report"
)

// streamTarget is the share of the bare port's throughput that a container's
// output must reach.
const streamTarget = 0.5

// readSize is how many bytes one read takes, of both.
const readSize = 128 << 10

// stream compares a container's output with the bare virtio-serial port.
func stream(ctx context.Context, b *bench, s *report.Section) error {
	all, err := b.turns(s, []contender{
		{name: "bare stream", take: func() (float64, error) { return b.bareStream(ctx) }},
		{name: "runm's stream", take: func() (float64, error) { return b.runStream(ctx) }},
	})
	if err != nil {
		return err
	}
	s.Rows = append(s.Rows, report.Row{
		Name: fmt.Sprintf("%d MiB of output (processor time: boot included)", b.mib), Unit: "MiB/s", Values: all[1].values, CPU: all[1].cpu,
		FloorName: "a bare virtio-serial port", Floor: all[0].values, FloorCPU: all[0].cpu,
	}.AtLeast(streamTarget))
	return nil
}

// bareStream reads from the port of a machine whose init writes to it.
func (b *bench) bareStream(ctx context.Context) (speed float64, err error) {
	err = b.withMachine(ctx, b.floorConfig(b.stream, b.rootfs), func(ctx context.Context, m vmm.Machine) error {
		port, err := m.Dial(ctx)
		if err != nil {
			return err
		}
		speed, err = b.rate(port)
		return errors.Join(err, port.Close())
	})
	return speed, err
}

// runStream reads what a container writes, through a pipe.
func (b *bench) runStream(ctx context.Context) (float64, error) {
	dir, err := b.bundle("stream", "/bin/dd", "if=/dev/zero", "bs=1M", fmt.Sprintf("count=%d", b.mib))
	if err != nil {
		return 0, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	cmd := b.runm.command(ctx, "run", "--bundle", dir, b.id())
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &said
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, err
	}
	speed, err := b.rate(r)
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return 0, fmt.Errorf("runm run of dd: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return speed, nil
}

// rate reads MiBs as many as asked for and returns how many came in a second
// since the first byte did.
func (b *bench) rate(r io.Reader) (float64, error) {
	buf := make([]byte, readSize)
	first, err := r.Read(buf)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	rest := int64(b.mib)<<20 - int64(first)
	// Not io.Copy, which would splice from a pipe.
	for rest > 0 {
		n, err := r.Read(buf[:min(int64(len(buf)), rest)])
		rest -= int64(n)
		if err != nil {
			return 0, fmt.Errorf("%d bytes before the end: %w", rest, err)
		}
	}
	return float64(b.mib) / time.Since(began).Seconds(), nil
}
