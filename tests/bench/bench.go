//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm"
	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/plan"
	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/libvm/template"
	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/libvm/vmm/qemu"
)

// tidyTime bounds one command of the cleaning up.
const tidyTime = time.Minute

// bench is what all measures share. Everything it makes is below dir.
type bench struct {
	options
	dir    string // temporary
	root   string // runm's --root
	rootfs string
	runm   oci
	driver qemu.Driver
	// plan is runm's own for bundle true: the floors are this machine.
	plan        *plan.Plan
	qemuVersion string
	memoryMiB   int // of the host
	templates   template.Store
	made        []string // keys of templates
	// exit and stream are the initramfs of the floors.
	exit, stream string
	count        int // names containers
}

func newBench(ctx context.Context, o options) (_ *bench, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("runm needs root, so does its benchmark")
	}
	exe, err := filepath.Abs(o.runm)
	if err != nil {
		return nil, err
	}
	if err := adoptOrphans(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "runm-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, dir: dir, root: filepath.Join(dir, "root"), rootfs: filepath.Join(dir, "rootfs")}
	b.runm = oci{name: "runm", path: exe, flags: []string{"--root", b.root}}
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
	if err := b.makePlan(); err != nil {
		return nil, err
	}
	if b.qemuVersion, err = qemuVersion(ctx, b.driver.QEMU); err != nil {
		return nil, err
	}
	if err := b.makeTemplate(ctx); err != nil {
		return nil, errors.Join(err, b.removeTemplates())
	}
	return b, nil
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
	b.templates = libvm.TemplateStore(c)
	a := c.FindAssets(b.runm.path)
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
	b.memoryMiB = int(info.Totalram * uint64(info.Unit) >> 20)
	b.driver = qemu.Driver{QEMU: a.QEMU, Virtiofsd: a.Virtiofsd}
	b.plan, err = plan.Make(floorID, loaded, c, plan.Host{
		CPUs: runtime.NumCPU(), MemoryMiB: b.memoryMiB,
		Accel: accel, Share: vmm.ShareVirtiofs, Kernel: a.Kernel, Initrd: a.Initrd, Hostname: "bench",
	})
	return err
}

// id is a container's name that no one else uses.
func (b *bench) id() string {
	b.count++
	return fmt.Sprintf("%s%d", b.idPrefix(), b.count)
}

// idPrefix is what the names of this process's containers begin with.
func (b *bench) idPrefix() string { return fmt.Sprintf("bench-%d-", os.Getpid()) }

// pids are the host's processes of a container of runm's.
func (b *bench) pids(ctx context.Context, id string) (list []int, err error) {
	out, err := b.runm.command(ctx, "ps", "--format", "json", id).Output()
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	return list, json.Unmarshal(out, &list)
}

// state is what runm knows of a container.
func (b *bench) state(id string) (*store.State, error) {
	dir, err := store.Open(b.root, id)
	if err != nil {
		return nil, err
	}
	return dir.Load()
}

// buildGo builds a program of ours that runs in guests, of the package
// tests/bench/guest/name, and returns its path.
func (b *bench) buildGo(ctx context.Context, name string) (string, error) {
	program := filepath.Join(b.dir, "guest-"+name)
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", program, "./tests/bench/guest/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest's program: %w: %s", err, out)
	}
	return program, nil
}

// close removes everything, and says so if that failed.
func (b *bench) close() error {
	ids, err := store.List(b.root)
	errs := []error{err}
	for _, id := range ids {
		errs = append(errs, b.forceDelete(id))
	}
	errs = append(errs, b.tidyPeers(), b.removeTemplates())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s is left: %w", b.dir, err)
	}
	return os.RemoveAll(b.dir)
}

func (b *bench) forceDelete(id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), tidyTime)
	defer cancel()
	_, err := b.runm.run(ctx, "delete", "--force", id)
	return err
}
