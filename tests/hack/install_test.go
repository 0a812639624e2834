//go:build linux

package hack

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// built makes in a new directory the Makefile and what `make all` leaves, with a
// QEMU of another user's cache. It returns the directory.
func built(t *testing.T) string {
	t.Helper()
	top := t.TempDir()
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	write(t, top+"/Makefile", string(makefile))
	write(t, top+"/_output/bin/runm", "runm")
	write(t, kernel(top), "kernel")
	write(t, top+"/_output/lib/runm/initramfs.cpio", "initramfs")
	write(t, top+"/cache/qemu/bin/qemu", "qemu")
	write(t, top+"/cache/qemu/lib/loader", "loader")
	if out, err := bash(t, top, `
mkdir cache/qemu/ld
ln -s ../lib/loader cache/qemu/ld/qemu
chmod 777 cache/qemu cache/qemu/bin/qemu
chmod 600 cache/qemu/lib/loader
touch -d 2001-02-03T04:05:06Z cache/qemu/bin/qemu
if [ "$(id -u)" = 0 ]; then chown -hR 1234:1234 cache; fi
ln -s "$PWD/cache/qemu" _output/lib/runm/qemu`); err != nil {
		t.Fatal(err, out)
	}
	return top
}

func kernel(top string) string {
	if runtime.GOARCH == "arm64" {
		return top + "/_output/lib/runm/Image"
	}
	return top + "/_output/lib/runm/vmlinux"
}

// TestInstall: what is installed is the installer's alone to write, whoever owns
// the cache and whatever the modes there; uninstall removes it.
func TestInstall(t *testing.T) {
	top := built(t)
	out, err := bash(t, top, `
umask 002
make -s install DESTDIR="$PWD/dest" PREFIX=/usr >/dev/null
make -s install DESTDIR="$PWD/dest" PREFIX=/usr >/dev/null # over the first
cd dest/usr
find . ! -user "$(id -u)"
find . ! -type l -perm /022 -path '*/qemu*'
find . -mindepth 1 ! -type d -printf '%m %p %l\n' | sort -k 2
stat -c %Y lib/runm/qemu/bin/qemu`)
	want := `755 ./bin/runm 
644 ./lib/runm/initramfs.cpio 
755 ./lib/runm/qemu/bin/qemu 
777 ./lib/runm/qemu/ld/qemu ../lib/loader
644 ./lib/runm/qemu/lib/loader 
644 ./lib/runm/` + filepath.Base(kernel("")) + ` 
981173106
`
	if err != nil || out != want {
		t.Errorf("installed (%v):\n%swant:\n%s", err, out, want)
	}
	out, err = bash(t, top, `make -s uninstall DESTDIR="$PWD/dest" PREFIX=/usr >/dev/null; find dest ! -type d`)
	if err != nil || out != "" {
		t.Errorf("after make uninstall (%v): %s", err, out)
	}
}

// TestInstallUnbuilt: what is missing is named before anything is copied.
func TestInstallUnbuilt(t *testing.T) {
	for _, name := range []string{"bin/runm", "lib/runm/initramfs.cpio", "kernel"} {
		t.Run(name, func(t *testing.T) {
			top := built(t)
			file := top + "/_output/" + name
			if name == "kernel" {
				file = kernel(top)
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			out, err := bash(t, top, `make -s install DESTDIR="$PWD/dest"`)
			said, _, _ := strings.Cut(out, "\n")
			rel, _ := filepath.Rel(top, file)
			if want := "make: " + rel + " is not built yet: run 'make all' first"; err == nil || said != want {
				t.Errorf("%v, first line %q, want %q", err, said, want)
			}
			if _, err := os.Stat(top + "/dest"); err == nil {
				t.Error("something is installed")
			}
		})
	}
}
