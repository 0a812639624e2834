package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/runm/runm/libvm/vmm"
)

func loadText(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil && !strings.HasPrefix(err.Error(), path) {
		t.Errorf("%v does not name the file", err)
	}
	return c, err
}

func TestLoad(t *testing.T) {
	c, err := Load(filepath.Join(t.TempDir(), "none.toml"))
	if err != nil || !reflect.DeepEqual(c, Default()) {
		t.Errorf("no file: %+v, %v", c, err)
	}
	if err := Default().check(); err != nil {
		t.Errorf("the default is refused: %v", err)
	}
	c, err = loadText(t, `
accel = "tcg"
kernel = "/boot/vmlinux"
cpus = 2
boot_timeout_seconds = 5
annotations = ["kernel"]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Accel, want.Kernel, want.CPUs, want.BootTimeoutSeconds = vmm.AccelTCG, "/boot/vmlinux", 2, 5
	want.Annotations = []string{"kernel"}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%+v, want %+v", c, want)
	}
	if c.BootTimeout() != 5*time.Second {
		t.Errorf("boot timeout %v", c.BootTimeout())
	}
}

func TestLoadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"acel = 'tcg'":               `unknown key "acel"`,
		"[machine]\ncpus = 1":        `unknown key "machine"`,
		"cpus = 'two'":               ":1:8: ",
		"cpus = ":                    ":1:",
		"accel = 'xen'":              `accel: "xen" is none of auto, kvm, tcg`,
		"share = 'nfs'":              `share: "nfs" is none of auto, virtiofs, 9p`,
		"kernel = 'vmlinux'":         `kernel: "vmlinux" is not an absolute path`,
		"cpus = -1":                  "cpus: -1 is not between",
		"cpus = 65":                  "cpus: 65 is not between",
		"memory_mib = 64":            "memory_mib: 64 is not between",
		"boot_timeout_seconds = 0":   "boot_timeout_seconds: 0 is not between",
		"annotations = ['qemu']":     "annotations: there is no dev.runm.qemu",
		"guest_overhead_mib = -5000": "guest_overhead_mib: -5000 is not between",
	} {
		if _, err := loadText(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestWithAnnotations(t *testing.T) {
	before := Default()
	c, err := before.WithAnnotations(map[string]string{
		"dev.runm.accel": "tcg", "dev.runm.cpus": "3", "dev.runm.memory-mib": "1024",
		"dev.runm.share": "9p", "org.example.cpus": "99",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Accel, want.CPUs, want.MemoryMiB, want.Share = vmm.AccelTCG, 3, 1024, "9p"
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%+v, want %+v", c, want)
	}
	if !reflect.DeepEqual(before, Default()) {
		t.Error("the configuration itself was changed")
	}
	for name, c := range map[string]struct{ value, want string }{
		"dev.runm.cpu":        {"1", "annotation dev.runm.cpu: there is no such annotation"},
		"dev.runm.kernel":     {"/k", "annotation dev.runm.kernel: not allowed by the configuration of this machine"},
		"dev.runm.cpus":       {"0", `annotation dev.runm.cpus: "0" is not a number between 1 and 64`},
		"dev.runm.memory-mib": {"1g", `annotation dev.runm.memory-mib: "1g" is not a number between`},
		"dev.runm.accel":      {"", `annotation dev.runm.accel: accel: "" is none of`},
	} {
		_, err := Default().WithAnnotations(map[string]string{name: c.value})
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	// Every annotation there is has a case.
	every := Default()
	every.Annotations = annotationKeys()
	for _, key := range annotationKeys() {
		_, _ = every.WithAnnotations(map[string]string{AnnotationPrefix + key: "x"})
	}
	c, err = every.WithAnnotations(map[string]string{"dev.runm.kernel": "/k", "dev.runm.initrd": "/i"})
	if err != nil || c.Kernel != "/k" || c.Initrd != "/i" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestFindAssets(t *testing.T) {
	dir := t.TempDir()
	touch := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	exe := touch("bin/runm")
	kernel := touch("lib/runm/" + kernelName("amd64"))
	touch("lib/runm/" + kernelName("arm64"))
	t.Setenv("PATH", strings.Join([]string{"", "relative", filepath.Join(dir, "path")}, string(filepath.ListSeparator)))
	inPath := touch("path/" + qemuName("amd64"))
	touch("path/" + qemuName("arm64"))

	a := Default().FindAssets(exe)
	if filepath.Dir(a.Kernel) != filepath.Dir(kernel) {
		t.Errorf("kernel %q, want one beside %q", a.Kernel, kernel)
	}
	if filepath.Dir(a.QEMU) != filepath.Dir(inPath) {
		t.Errorf("qemu %q, want one beside %q", a.QEMU, inPath)
	}
	if a.Initrd != "" {
		t.Errorf("initrd %q out of nothing", a.Initrd)
	}
	err := a.Require("kernel", "qemu", "initrd")
	if want := "initrd: not found; looked for " + filepath.Join(dir, "lib/runm/initramfs.cpio"); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if err := a.Require("kernel", "qemu"); err != nil {
		t.Error(err)
	}

	// The private prefix comes before PATH; a named file is the only one.
	private := touch("lib/runm/qemu/bin/virtiofsd")
	touch("path/virtiofsd")
	c := Default()
	c.QEMU = filepath.Join(dir, "none")
	a = c.FindAssets(exe)
	if a.Virtiofsd != private {
		t.Errorf("virtiofsd %q, want %q", a.Virtiofsd, private)
	}
	if a.QEMU != "" || a.Require("qemu") == nil || strings.Contains(a.Require("qemu").Error(), ",") {
		t.Errorf("qemu %q, %v", a.QEMU, a.Require("qemu"))
	}
}
