//go:build linux

package agenttest

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/yamux"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
)

// Rootfs makes a root file system of busybox for a container in the share.
func (vm *VM) Rootfs(t testing.TB, id string) string {
	t.Helper()
	root := filepath.Join(vm.Share, api.RootfsDir, id)
	for _, dir := range []string{"bin", "dev", "proc", "sys", "tmp", "etc"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky))
	binary, err := os.ReadFile(vm.files.Busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), binary, 0o755))
	for applet := range strings.FieldsSeq(applets) {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", applet)))
	}
	return root
}

const applets = "sh cat dd echo env head id kill ls mount ps sleep stty true false tty wc yes touch readlink " +
	"hostname ulimit grep tail seq date mkdir chmod stat sync cut md5sum nc nproc setsid usleep mkfifo printf"

// Spec is a small but usual configuration that runs args.
func Spec(id string, args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE"}
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: id,
		Root:     &specs.Root{Path: filepath.Join(api.ShareMountpoint, api.RootfsDir, id)},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin", "TERM=xterm"},
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/bus"},
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}

// Create calls Create and fails the test on errors.
func (vm *VM) MustCreate(t testing.TB, id string, spec *specs.Spec, stdio *api.Stdio) {
	t.Helper()
	_, err := vm.Create(t.Context(), &api.CreateRequest{Id: id, Spec: Encode(t, spec), Stdio: stdio})
	must(t, err)
}

// MustStart calls Start and fails the test on errors.
func (vm *VM) MustStart(t testing.TB, id string) {
	t.Helper()
	_, err := vm.Start(t.Context(), &api.StartRequest{Id: id})
	must(t, err)
}

// MustWait returns the answer of Wait.
func (vm *VM) MustWait(t testing.TB, id, execID string) *api.WaitResponse {
	t.Helper()
	resp, err := vm.Wait(t.Context(), &api.WaitRequest{Id: id, ExecId: execID})
	must(t, err)
	return resp
}

// Stream opens a stdio stream.
func (vm *VM) Stream(t testing.TB) *yamux.Stream {
	t.Helper()
	s, err := vm.Session.OpenStream()
	must(t, err)
	return s
}

// Run creates, starts, waits for and deletes a container, and returns what it
// wrote and its status.
func (vm *VM) Run(t testing.TB, id string, spec *specs.Spec, stdin string) (stdout, stderr string, status uint32) {
	t.Helper()
	in, out, errs := vm.Stream(t), vm.Stream(t), vm.Stream(t)
	vm.MustCreate(t, id, spec, &api.Stdio{Stdin: in.StreamID(), Stdout: out.StreamID(), Stderr: errs.StreamID()})
	vm.MustStart(t, id)
	outs, errsDone := Collect(out), Collect(errs)
	_, err := io.WriteString(in, stdin)
	must(t, err)
	in.Close()
	status = vm.MustWait(t, id, "").GetStatus()
	stdout, stderr = <-outs, <-errsDone
	_, err = vm.Delete(t.Context(), &api.ContainerRequest{Id: id})
	must(t, err)
	return stdout, stderr, status
}

// Collect reads a stream to its end, closes it and delivers what it read.
func Collect(s *yamux.Stream) <-chan string {
	c := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(s)
		s.Close()
		c <- string(all)
	}()
	return c
}

// Encode is the JSON of v.
func Encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return b
}
