//go:build linux

package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/runm/runm/libvm/vmm"
)

// machineTime bounds a floor; a machine that does not end is an error.
const machineTime = 5 * time.Minute

// floorConfig is runm's machine with another initramfs, another share and no
// network.
func (b *bench) floorConfig(initrd, share string) *vmm.Config {
	c := b.plan.Machine
	c.Initrd, c.NICs = initrd, nil
	c.Shares = []vmm.Share{{Type: c.Shares[0].Type, Tag: c.Shares[0].Tag, Path: share}}
	return &c
}

// bareBoot boots the machine and waits for its end; in milliseconds.
func (b *bench) bareBoot(ctx context.Context) (float64, error) {
	began := time.Now()
	m, err := b.driver.Start(ctx, b.floorConfig(b.exit, b.rootfs))
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, machineTime)
	defer cancel()
	defer context.AfterFunc(ctx, m.Kill)()
	err = m.Wait()
	took := ms(time.Since(began))
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, fmt.Errorf("bare machine: %w; console: %s", err, m.Console())
	}
	return took, nil
}

// withMachine calls f with a machine that runs, and ends it.
func (b *bench) withMachine(ctx context.Context, cfg *vmm.Config, f func(context.Context, vmm.Machine) error) error {
	m, err := b.driver.Start(ctx, cfg)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, machineTime)
	defer cancel()
	defer context.AfterFunc(ctx, m.Kill)()
	err = f(ctx, m)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w, %v were allowed)", err, ctx.Err(), machineTime)
	}
	m.Kill()
	if err = errors.Join(err, <-ended); err != nil {
		return fmt.Errorf("bare machine: %w; console: %s", err, m.Console())
	}
	return nil
}

//go:embed guest/init.c
var initSource []byte

// buildInitrd compiles guest/init.c with the C preprocessor's flags and packs
// it. It returns the path of the initramfs, dir/name.cpio.
func buildInitrd(dir, name string, flags ...string) (string, error) {
	source, binary := filepath.Join(dir, name+".c"), filepath.Join(dir, name)
	if err := os.WriteFile(source, initSource, 0o600); err != nil {
		return "", err
	}
	args := append([]string{
		"-static", "-nostdlib", "-ffreestanding", "-fno-pie", "-no-pie", "-fno-stack-protector",
		"-mgeneral-regs-only", "-Os", "-Wall", "-Werror", "-o", binary, source,
	}, flags...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("gcc: %w\n%s", err, out)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return "", err
	}
	initrd := filepath.Join(dir, name+".cpio")
	return initrd, packInitrd(initrd, content)
}

// packInitrd writes an initramfs with one program, init.
func packInitrd(initrd string, init []byte) error {
	var image bytes.Buffer
	w := cpio.Newc.Writer(&image)
	for i, r := range []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", string(init), 0o755),
	} {
		r.Ino = uint64(i + 1)
		if err := w.WriteRecord(r); err != nil {
			return fmt.Errorf("cpio: %w", err)
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return fmt.Errorf("cpio: %w", err)
	}
	return os.WriteFile(initrd, image.Bytes(), 0o600)
}

// packProgram writes an initramfs whose init is program.
func packProgram(program, initrd string) error {
	init, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	return packInitrd(initrd, init)
}
