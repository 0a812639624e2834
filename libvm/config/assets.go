package config

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Assets are the files a machine is made of, as absolute paths. A path is ""
// where nothing was found.
type Assets struct {
	Kernel    string
	Initrd    string
	QEMU      string
	Virtiofsd string
	// Missing lists what was not found, and where it was looked for.
	Missing []Missing
}

// Missing is a file that was looked for in vain. It is an error, so that a
// caller who cannot do without the file can return it.
type Missing struct {
	Name   string   // the configuration's key: "kernel", "qemu", …
	Looked []string // the paths that were tried, in order
}

func (m Missing) Error() string {
	return fmt.Sprintf("%s: not found; looked for %s", m.Name, strings.Join(m.Looked, ", "))
}

// FindAssets looks for the files c does not name: beside the executable exe
// (<exe>/../lib/runm), then in PATH and the distributions' places. A file that
// c names is never looked for elsewhere. virtiofsd is the only one a machine
// can do without (9p).
func (c Config) FindAssets(exe string) Assets {
	lib := filepath.Join(filepath.Dir(exe), "..", "lib", "runm")
	var a Assets
	a.Kernel = a.find("kernel", c.Kernel, filepath.Join(lib, kernelName(runtime.GOARCH)))
	a.Initrd = a.find("initrd", c.Initrd, filepath.Join(lib, "initramfs.cpio"))
	a.QEMU = a.find("qemu", c.QEMU, programs(lib, qemuName(runtime.GOARCH))...)
	a.Virtiofsd = a.find("virtiofsd", c.Virtiofsd, append(programs(lib, "virtiofsd"),
		"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")...)
	return a
}

// Require returns the first of the named files that is missing, as an error.
func (a Assets) Require(names ...string) error {
	for _, name := range names {
		for _, m := range a.Missing {
			if m.Name == name {
				return m
			}
		}
	}
	return nil
}

// find returns the first of places that is a file, or named alone if it is not
// "". In vain, it notes what was tried.
func (a *Assets) find(name, named string, places ...string) string {
	if named != "" {
		places = []string{named}
	}
	for _, p := range places {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p
		}
	}
	a.Missing = append(a.Missing, Missing{Name: name, Looked: places})
	return ""
}

// programs are the places of an executable: our private prefix before the
// machine's own, because Debian 12's versions are too old.
func programs(lib, name string) []string {
	places := []string{filepath.Join(lib, "qemu", "bin", name)}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		// An entry that is relative, or "", means the working directory:
		// the bundle, whose content must not be executed.
		if filepath.IsAbs(dir) {
			places = append(places, filepath.Join(dir, name))
		}
	}
	return places
}

func kernelName(goarch string) string {
	if goarch == "arm64" {
		return "Image"
	}
	return "vmlinux"
}

func qemuName(goarch string) string {
	if goarch == "arm64" {
		return "qemu-system-aarch64"
	}
	return "qemu-system-x86_64"
}
