//go:build linux

package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/u-root/u-root/pkg/cpio"
)

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
