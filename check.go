//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/template"
	"github.com/runm/runm/libvm/vmm"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "say whether this machine can run containers, and what to do where it cannot",
		Description: "Nothing is started but programs asked for their version. Exit status 1\n" +
			"means that something is missing without which no container runs.",
		Flags: []cli.Flag{formatFlag()},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0, "none"); err != nil {
				return err
			}
			root, err := filepath.Abs(c.String("root"))
			if err != nil {
				return err
			}
			cfg, err := config.Load(config.DefaultPath)
			if err != nil {
				return err
			}
			findings := examine(gatherFacts(c.Context, cfg, root))
			if err := printFindings(c.App.Writer, c.String("format"), findings); err != nil {
				return err
			}
			for _, f := range findings {
				if f.Status == statusFail {
					return exitStatus{code: 1}
				}
			}
			return nil
		},
	}
}

// Values of finding.Status.
const (
	statusOK   = "ok"
	statusWarn = "warn" // works, but worse than it could
	statusFail = "fail" // no container runs
)

// finding is what check says about one thing.
type finding struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	// Do says what to do about it, "" when all is well.
	Do string `json:"do,omitempty"`
}

// facts are what check finds out about a machine.
type facts struct {
	UID         int
	Accel       vmm.Accel
	AccelReason string // why it is not KVM
	AccelErr    error
	Assets      config.Assets
	Share       string // of the configuration
	QEMU        programVersion
	Virtiofsd   programVersion
	Cgroups     string   // v1, hybrid, v2 or "" for none
	Controllers []string // those that can be used
	NetworkErr  error    // what containers' networks lack
	LoopbackErr error    // and what connections to their loopback do
	Root        string
	RootFS      string // name of its file system
	RootErr     error  // why nothing can be made in it
	// MemoryMiB is what the host could give now, NeedMiB what a container
	// without a limit takes.
	MemoryMiB, NeedMiB int
	Templates          templates
}

// templates are what check finds out about them.
type templates struct {
	Off              bool
	Dir, FS          string // FS is the file system of the directory above
	Count, Most      int
	Bytes, MostBytes int64
	Failure          *template.Failure
	Err              error
}

// programVersion is a program's first line of --version, or why it has none.
type programVersion struct {
	Line string
	Err  error
}

// build is the cure for missing files of runm's own.
const build = "run `make all` in runm's sources, or `make install`; /etc/runm/config.toml may name another place"

// examine judges the facts, one finding each.
func examine(f facts) []finding {
	return []finding{
		examineRoot(f), examineAccel(f),
		examineFile("kernel", f.Assets.Kernel, f.Assets), examineFile("initrd", f.Assets.Initrd, f.Assets),
		examineQEMU(f), examineVirtiofsd(f), examineCgroups(f), examineNetwork(f), examineState(f), examineMemory(f),
		examineTemplates(f.Templates),
	}
}

func ok(name, detail string) finding { return finding{Name: name, Status: statusOK, Detail: detail} }

func warn(name, detail, do string) finding {
	return finding{Name: name, Status: statusWarn, Detail: detail, Do: do}
}

func fail(name, detail, do string) finding {
	return finding{Name: name, Status: statusFail, Detail: detail, Do: do}
}

func examineRoot(f facts) finding {
	if f.UID != 0 {
		return fail("root", fmt.Sprintf("user %d", f.UID), "run it with sudo: runm mounts the container's files and joins its namespaces")
	}
	return ok("root", "user 0")
}

func examineAccel(f facts) finding {
	switch {
	case f.AccelErr != nil:
		return fail("accelerator", f.AccelErr.Error(), "set accel = 'auto' in "+config.DefaultPath)
	case f.Accel == vmm.AccelTCG:
		return warn("accelerator", "tcg: "+f.AccelReason,
			"guests are emulated, which is slower and a weaker boundary; enable hardware (nested) virtualisation and load kvm_intel or kvm_amd")
	default:
		return ok("accelerator", string(f.Accel))
	}
}

func examineFile(name, path string, a config.Assets) finding {
	if err := a.Require(name); err != nil {
		return fail(name, missing(err), build)
	}
	return ok(name, path)
}

// missing is an error of Require without the name, which stands before it.
func missing(err error) string {
	_, text, _ := strings.Cut(err.Error(), ": ")
	return text
}

// testedQEMU is the oldest major version that runm is tested with.
const testedQEMU = 10

func examineQEMU(f facts) finding {
	const name, do = "qemu", "install it with `make deps` in runm's sources, or qemu-system of Debian 13"
	if err := f.Assets.Require("qemu"); err != nil {
		return fail(name, missing(err), do)
	}
	detail := f.Assets.QEMU + ": " + f.QEMU.Line
	major, known := qemuMajor(f.QEMU.Line)
	switch {
	case f.QEMU.Err != nil:
		return fail(name, fmt.Sprintf("%s --version: %v", f.Assets.QEMU, f.QEMU.Err), do)
	case !known || major < testedQEMU:
		return warn(name, detail, fmt.Sprintf("runm is tested with QEMU %d; %s", testedQEMU, do))
	default:
		return ok(name, detail)
	}
}

// qemuMajor reads "QEMU emulator version 10.0.2 (Debian …)".
func qemuMajor(line string) (int, bool) {
	_, rest, _ := strings.Cut(line, "version ")
	major, _, found := strings.Cut(rest, ".")
	n, err := strconv.Atoi(major)
	return n, found && err == nil
}

func examineVirtiofsd(f facts) finding {
	const name, do = "virtiofsd", "install it with `make deps` in runm's sources, or virtiofsd of Debian 13"
	if f.Share == string(vmm.Share9p) {
		return ok(name, "not needed: the configuration shares files by 9p")
	}
	v := f.Virtiofsd
	detail := f.Assets.Virtiofsd + ": " + v.Line
	err := f.Assets.Require("virtiofsd")
	switch {
	case err != nil && f.Share == string(vmm.ShareVirtiofs):
		return fail(name, missing(err), do)
	case err != nil:
		return warn(name, missing(err), "files are shared by 9p, which is slower; "+do)
	case v.Err != nil:
		return fail(name, fmt.Sprintf("%s --version: %v", f.Assets.Virtiofsd, v.Err), do)
	case !strings.HasPrefix(v.Line, "virtiofsd 1."):
		// QEMU's own, of Debian 12, is another program of the same name.
		return fail(name, detail+": not the virtiofsd of gitlab.com/virtio-fs", do)
	default:
		return ok(name, detail)
	}
}

func examineCgroups(f facts) finding {
	const name = "cgroups"
	if f.Cgroups == "" {
		return fail(name, "not mounted", "mount cgroup2 on /sys/fs/cgroup")
	}
	detail := f.Cgroups + ": " + strings.Join(f.Controllers, " ")
	var without []string
	for _, c := range []string{"cpu", "cpuset", "memory", "pids"} {
		if !slices.Contains(f.Controllers, c) {
			without = append(without, c)
		}
	}
	if len(without) > 0 {
		return warn(name, detail, "without "+strings.Join(without, ", ")+
			" the host cannot limit what a machine costs; enable it in the kernel or in the parent's cgroup.subtree_control")
	}
	return ok(name, detail)
}

func examineNetwork(f facts) finding {
	if f.NetworkErr != nil {
		return fail("network", f.NetworkErr.Error(), "run `modprobe -a tun sch_ingress cls_u32 act_mirred`, or pass /dev/net/tun into this container")
	}
	if f.LoopbackErr != nil {
		return warn("network", f.LoopbackErr.Error(), "`kubectl port-forward` does not reach containers; it takes Linux 5.9 with BPF")
	}
	return ok("network", "/dev/net/tun, tc ingress, u32, mirred, BPF sk_lookup")
}

func examineState(f facts) finding {
	const name = "state"
	switch {
	case f.RootErr != nil:
		return fail(name, f.RootErr.Error(), "choose a directory that can be written with --root")
	case f.RootFS != "tmpfs":
		return warn(name, f.Root+" on "+f.RootFS, "after a reboot containers that are gone are still listed; keep --root on a tmpfs, as /run is on most systems")
	default:
		return ok(name, f.Root+" on tmpfs")
	}
}

func examineMemory(f facts) finding {
	detail := fmt.Sprintf("%d MiB available, a container takes up to %d MiB", f.MemoryMiB, f.NeedMiB)
	if f.MemoryMiB < f.NeedMiB {
		return warn("memory", detail, "lower memory_mib in "+config.DefaultPath+", or give containers a memory limit")
	}
	return ok("memory", detail)
}

func examineTemplates(t templates) finding {
	const name = "templates"
	if t.Off {
		return ok(name, "turned off by the configuration")
	}
	detail := fmt.Sprintf("%d of %d, %d of %d MiB, in %s", t.Count, t.Most, t.Bytes>>20, t.MostBytes>>20, t.Dir)
	switch {
	case t.Err != nil:
		return warn(name, t.Err.Error(), "every machine is booted, which is slower; set template_dir in "+config.DefaultPath)
	case t.Failure != nil:
		return warn(name, detail+"; "+lastFailure(t.Failure), "`runm template create` tries again and says what is wrong")
	case t.FS != "tmpfs":
		return warn(name, detail+" on "+t.FS, "clones are copied from a disk; set template_dir to a directory on a tmpfs")
	default:
		return ok(name, detail)
	}
}

// printFindings prints a line each, and below it what to do.
func printFindings(w io.Writer, format string, findings []finding) error {
	switch format {
	case formatJSON:
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(findings)
	case formatTable:
	default:
		return errFormat
	}
	for _, f := range findings {
		if _, err := fmt.Fprintf(w, "%-4s  %-11s  %s\n", f.Status, f.Name, f.Detail); err != nil {
			return err
		}
		if f.Do == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "                   %s\n", f.Do); err != nil {
			return err
		}
	}
	return nil
}
