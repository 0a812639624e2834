//go:build linux

package faults

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/runm/runm/tests/internal/programs"
)

// installed gives the box an installation of its own, of links to the one
// under test, and a configuration. It returns <prefix>/lib/runm.
//
// runm reads /etc/runm/config.toml. The box's commands run in a mount
// namespace of their own, where /etc is the box's: the host's stays as it is.
func (b *box) installed(config string) (lib string) {
	b.t.Helper()
	lib = b.path("prefix/lib/runm")
	b.must(os.MkdirAll(b.path("prefix/bin"), 0o755))
	b.must(os.MkdirAll(lib, 0o755))
	b.must(os.Link(tools.runm, b.path("prefix/bin/runm")))
	real := filepath.Join(filepath.Dir(tools.runm), "..", "lib", "runm")
	for _, name := range []string{"vmlinux", "initramfs.cpio", "qemu"} {
		target, err := filepath.EvalSymlinks(filepath.Join(real, name))
		if err != nil && name == "qemu" {
			continue // it is the system's
		}
		b.must(err)
		b.must(os.Symlink(target, filepath.Join(lib, name)))
	}
	b.must(os.MkdirAll(b.path("etc/runm"), 0o755))
	b.must(os.WriteFile(b.path("etc/runm/config.toml"), []byte(config), 0o644))
	b.runm = []string{"/bin/sh", "-c", `mount --bind "$0/etc" /etc && exec "$0/prefix/bin/runm" "$@"`, b.dir}
	return lib
}

// replace puts a file in the place of one of the installation's.
func (b *box) replace(path string, content []byte) {
	b.t.Helper()
	b.must(os.RemoveAll(path))
	b.must(os.MkdirAll(filepath.Dir(path), 0o755))
	b.must(programs.Write(path, content))
}

// initramfs is one whose process 1 is the program of guest/ in a mode.
func (b *box) initramfs(mode string) []byte {
	b.t.Helper()
	program, err := os.ReadFile(tools.guest)
	b.must(err)
	var image bytes.Buffer
	w := cpio.Newc.Writer(&image)
	for i, r := range []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", string(program), 0o755),
		cpio.StaticFile("mode", mode, 0o644),
	} {
		r.Ino = uint64(i + 1)
		b.must(w.WriteRecord(r))
	}
	b.must(cpio.WriteTrailer(w))
	return image.Bytes()
}

// A machine that does not come up fails create: with the reason, what the
// guest said last, and nothing left.
func TestBootFails(t *testing.T) {
	script := func(text string) []byte { return []byte("#!/bin/sh\n" + text + "\n") }
	tests := map[string]struct {
		config string
		change func(b *box, lib string)
		limit  time.Duration // less than commandTime, which is what a boot may take
		want   []string
	}{
		"agent silent": {
			// The guest must boot and say something in that time.
			config: "boot_timeout_seconds = 20",
			change: func(b *box, lib string) { b.replace(lib+"/initramfs.cpio", b.initramfs("silent")) },
			limit:  20*time.Second + soon,
			want:   []string{"did not answer", "20 s", "boot_timeout_seconds", "I say nothing to my host"},
		},
		"init ends": {
			change: func(b *box, lib string) { b.replace(lib+"/initramfs.cpio", b.initramfs("exit")) },
			want:   []string{"the machine has ended", "Kernel panic", "Attempted to kill init"},
		},
		"no initramfs in it": {
			change: func(b *box, lib string) { b.replace(lib+"/initramfs.cpio", []byte("not a cpio")) },
			want:   []string{"the machine has ended", "Kernel panic"},
		},
		"kernel is none": {
			change: func(b *box, lib string) { b.replace(lib+"/vmlinux", []byte("not a kernel")) },
			want:   []string{"QEMU", "kernel"},
		},
		"kernel missing": {
			change: func(b *box, lib string) { b.must(os.Remove(lib + "/vmlinux")) },
			want:   []string{"kernel: not found", "vmlinux"},
		},
		"initramfs missing": {
			change: func(b *box, lib string) { b.must(os.Remove(lib + "/initramfs.cpio")) },
			want:   []string{"initrd: not found", "initramfs.cpio"},
		},
		"qemu ends": {
			config: `qemu = "BOX/qemu"`,
			change: func(b *box, lib string) { b.replace(b.path("qemu"), script("echo cannot do that >&2; exit 1")) },
			want:   []string{"QEMU", "exit status 1", "cannot do that"},
		},
		"qemu says nothing": {
			config: `qemu = "BOX/qemu"`,
			change: func(b *box, lib string) { b.replace(b.path("qemu"), script("exit 0")) },
			want:   []string{"the machine has ended"},
		},
		"qemu no program": {
			config: `qemu = "BOX/qemu"`,
			change: func(b *box, lib string) { b.replace(b.path("qemu"), []byte("text")) },
			want:   []string{"QEMU", "exec format error"},
		},
		"qemu missing": {
			config: `qemu = "BOX/qemu"`,
			want:   []string{"qemu: not found", "/qemu"},
		},
		"virtiofsd missing": {
			config: "share = 'virtiofs'\nvirtiofsd = 'BOX/virtiofsd'",
			want:   []string{"virtiofsd: not found", "/virtiofsd"},
		},
		"virtiofsd ends": {
			config: "virtiofsd = 'BOX/virtiofsd'",
			change: func(b *box, lib string) {
				b.replace(b.path("virtiofsd"), script("echo no files today >&2; exit 1"))
			},
			want: []string{"virtiofsd", "exit status 1", "no files today"},
		},
		"virtiofsd hangs": {
			config: "boot_timeout_seconds = 4\nvirtiofsd = 'BOX/virtiofsd'",
			change: func(b *box, lib string) { b.replace(b.path("virtiofsd"), script("exec sleep 1000")) },
			limit:  4*time.Second + soon,
			want:   []string{"4 s", "boot_timeout_seconds"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			lib := b.installed(strings.ReplaceAll(test.config, "BOX", b.dir))
			if test.change != nil {
				test.change(b, lib)
			}
			c := b.container("true")
			cmd := c.creation()
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			limit := test.limit
			if limit == 0 {
				limit = commandTime
			}
			c.must(cmd.Start())
			if code := c.end(cmd, limit); code != 1 {
				t.Errorf("create: status %d, want 1", code)
			}
			c.wantNothing()
			contains(t, c.read("stderr"), test.want...)
			if _, err := os.Stat("/etc/runm"); err == nil {
				t.Log("this host has a configuration of its own")
			}
		})
	}
}
