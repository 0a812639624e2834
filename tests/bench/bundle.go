//go:build linux

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/libvm/config"
)

// busybox is the only program of the container.
const busybox = "/bin/busybox"

// templateAnnotation says whether a container's machine is cloned.
const templateAnnotation = config.AnnotationPrefix + "template"

// makeRootfs makes a root file system of a static busybox in dir.
func makeRootfs(dir string) error {
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, busybox), program, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"true", "dd", "sh", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			return err
		}
	}
	return nil
}

// bundle returns the path of dir/name, a bundle that runs args, and makes it
// when it is not there: others may be reading it.
func (b *bench) bundle(name string, args ...string) (string, error) {
	dir := filepath.Join(b.dir, "bundles", name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	return b.write(name, b.spec(args))
}

// trueBundle runs /bin/true.
func (b *bench) trueBundle() (string, error) { return b.bundle("true", "/bin/true") }

// coldBundle runs /bin/true in a machine that is booted.
func (b *bench) coldBundle() (string, error) {
	s := b.spec([]string{"/bin/true"})
	s.Annotations[templateAnnotation] = config.TemplateOff
	return b.write("cold", s)
}

// sleepBundle sleeps until it is killed.
func (b *bench) sleepBundle() (string, error) { return b.bundle("sleep", sleepArgs()...) }

func sleepArgs() []string { return []string{"/bin/sleep", "1000000"} }

// write makes the bundle dir/name.
func (b *bench) write(name string, s *specs.Spec) (string, error) {
	dir := filepath.Join(b.dir, "bundles", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600)
}

// spec is what `runc spec` writes, but for the terminal.
func (b *bench) spec(args []string) *specs.Spec {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	hidden := []string{"nosuid", "noexec", "nodev"}
	annotations := map[string]string{templateAnnotation: config.TemplateOn}
	if b.cpus > 0 {
		annotations[config.AnnotationPrefix+"cpus"] = strconv.Itoa(b.cpus)
	}
	return &specs.Spec{
		Version:     "1.0.2", // every peer's
		Hostname:    "bench",
		Annotations: annotations,
		Root:        &specs.Root{Path: b.rootfs},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin", "TERM=xterm"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: append(slices.Clone(hidden), "mode=1777", "size=65536k")},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: hidden},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append(slices.Clone(hidden), "ro")},
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}
