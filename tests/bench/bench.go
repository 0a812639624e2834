//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/plan"
	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/libvm/vmm/qemu"
)

// busybox is the only program of the container.
const busybox = "/bin/busybox"

// tidyTime bounds one command of the cleaning up.
const tidyTime = time.Minute

// measure is a part of the table.
type measure struct {
	name string
	take func(context.Context, *bench, *table) error
}

// choose returns the measures that names, separated by commas, names; all of
// them when it is "".
func choose(names string) ([]measure, error) {
	all := []measure{
		{"cold", cold}, {"phases", phases}, {"exec", execs}, {"stream", stream}, {"network", networks}, {"burst", burst}, {"peers", peers},
	}
	if names == "" {
		return all, nil
	}
	var list []measure
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(m measure) bool { return m.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no such measure: %q", name)
		}
		list = append(list, all[i])
	}
	return list, nil
}

// bench is what all measures share. Everything it makes is below dir.
type bench struct {
	options
	dir    string // temporary
	root   string // runm's --root
	rootfs string
	driver qemu.Driver
	// plan is runm's own for bundle true: the floors are this machine.
	plan *plan.Plan
	// exit and stream are the initramfs of the floors.
	exit, stream string
	count        int // names containers
}

func newBench(o options) (_ *bench, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("runm needs root, so does its benchmark")
	}
	exe, err := filepath.Abs(o.runm)
	if err != nil {
		return nil, err
	}
	o.runm = exe
	if err := adoptOrphans(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "runm-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, dir: dir, root: filepath.Join(dir, "root"), rootfs: filepath.Join(dir, "rootfs")}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := makeRootfs(b.rootfs); err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	if b.exit, err = buildInitrd(dir, "exit"); err != nil {
		return nil, fmt.Errorf("floor: %w", err)
	}
	if b.stream, err = buildInitrd(dir, "stream", "-DSTREAM"); err != nil {
		return nil, fmt.Errorf("floor: %w", err)
	}
	return b, b.makePlan()
}

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
	for _, name := range []string{"true", "dd", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			return err
		}
	}
	return nil
}

// makePlan finds out what machine runm makes of a bundle here.
func (b *bench) makePlan() error {
	dir, err := b.bundle("true", "/bin/true")
	if err != nil {
		return err
	}
	loaded, err := bundle.Load(dir)
	if err != nil {
		return err
	}
	c, err := config.Load(config.DefaultPath)
	if err != nil {
		return err
	}
	if c, err = c.WithAnnotations(loaded.Spec.Annotations); err != nil {
		return err
	}
	a := c.FindAssets(b.runm)
	if err := a.Require("kernel", "initrd", "qemu", "virtiofsd"); err != nil {
		return fmt.Errorf("%w; run `make all`", err)
	}
	accel, _, err := qemu.Accelerator(c.Accel)
	if err != nil {
		return err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	b.driver = qemu.Driver{QEMU: a.QEMU, Virtiofsd: a.Virtiofsd}
	b.plan, err = plan.Make(floorID, loaded, c, plan.Host{
		CPUs: runtime.NumCPU(), MemoryMiB: int(info.Totalram * uint64(info.Unit) >> 20),
		Accel: accel, Share: vmm.ShareVirtiofs, Kernel: a.Kernel, Initrd: a.Initrd, Hostname: "bench",
	})
	return err
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
	annotations := map[string]string{}
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

// id is a container's name that no one else uses.
func (b *bench) id() string {
	b.count++
	return fmt.Sprintf("bench-%d-%d", os.Getpid(), b.count)
}

// command is runm with args. It ends with ctx; what it started is close's.
func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, b.runm, append([]string{"--root", b.root}, args...)...)
}

// timed runs cmd and returns how long it took, in milliseconds. It fails when
// the command does.
func timed(cmd *exec.Cmd) (float64, error) {
	// A file, because a detached container would hold a pipe open.
	said, err := os.CreateTemp("", "runm-bench-stderr-")
	if err != nil {
		return 0, err
	}
	defer said.Close()
	if err := os.Remove(said.Name()); err != nil {
		return 0, err
	}
	cmd.Stderr = said
	began := time.Now()
	err = cmd.Run()
	took := ms(time.Since(began))
	if err != nil {
		text := make([]byte, 4<<10)
		n, _ := said.ReadAt(text, 0) // all of a short text, and io.EOF
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(text[:n]))
	}
	return took, nil
}

// close removes everything, and says so if that failed.
func (b *bench) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), tidyTime)
	defer cancel()
	ids, err := store.List(b.root)
	errs := []error{err}
	for _, id := range ids {
		_, err := timed(b.command(ctx, "delete", "--force", id))
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s is left: %w", b.dir, err)
	}
	return os.RemoveAll(b.dir)
}
