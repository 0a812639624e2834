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
)

// streamTarget is the share of the bare port's throughput that a container's
// output must reach.
const streamTarget = 0.5

// readSize is how many bytes one read takes, of both.
const readSize = 128 << 10

// stream compares a container's output with the bare virtio-serial port.
func stream(ctx context.Context, b *bench, t *table) error {
	all, cpus, err := b.turns(
		func() (float64, error) { return b.bareStream(ctx) },
		func() (float64, error) { return b.runStream(ctx) })
	if err != nil {
		return err
	}
	r := newRow(fmt.Sprintf("%d MiB of output; floor: a bare virtio-serial port", b.mib), "MiB/s", all[1], all[0])
	t.Rows = append(t.Rows, r.aim(fmt.Sprintf(">= %.1f", streamTarget), r.ratio() >= streamTarget),
		newRow("the same in processor time, boot included", "s", cpus[1], cpus[0]))
	return nil
}

// bareStream reads from the port of a machine whose init writes to it.
func (b *bench) bareStream(ctx context.Context) (speed float64, err error) {
	m, err := b.driver.Start(ctx, b.floorConfig(b.stream, b.rootfs))
	if err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, machineTime)
	defer cancel()
	defer context.AfterFunc(ctx, m.Kill)()
	port, err := m.Dial(ctx)
	if err == nil {
		speed, err = b.rate(port)
		err = errors.Join(err, port.Close())
	}
	m.Kill()
	if err = errors.Join(err, <-ended); err != nil {
		return 0, fmt.Errorf("bare stream: %w; console: %s", err, m.Console())
	}
	return speed, nil
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
	cmd := b.command(ctx, "run", "--bundle", dir, b.id())
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
