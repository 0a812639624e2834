//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/tests/bench/report"
)

const (
	// busyLoad is the average load above which figures are not to be trusted.
	busyLoad = 1.5
	// quietTime is how long is waited for the load to fall. The average of one
	// minute needs about so long to forget the measure before.
	quietTime = 3 * time.Minute
	// userHZ is the unit of times in /proc.
	userHZ = 100
)

func (b *bench) machine() report.Machine {
	return report.Machine{
		CPU: cpuName(), Cores: runtime.NumCPU(), MemoryGiB: (b.memoryMiB + 512) >> 10, Kernel: kernelRelease(), QEMU: b.qemuVersion,
		Accel: string(b.plan.Machine.Accel), VCPUs: b.plan.Machine.CPUs, GuestMiB: b.plan.Machine.MemoryMiB,
	}
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// qemuVersion is the first line of what QEMU says, without its package's name.
func qemuVersion(ctx context.Context, path string) (string, error) {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	line, _, _ = strings.Cut(strings.Replace(line, "emulator version ", "", 1), " (")
	return line, nil
}

func cpuName() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(info)) {
		if key, name, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(name)
		}
	}
	return runtime.GOARCH
}

// quiet waits until the machine is, and says whether it is busy nevertheless and
// that is allowed.
func (b *bench) quiet(ctx context.Context) (busy bool, err error) {
	deadline := time.Now().Add(quietTime)
	for said := false; ; said = true {
		load, err := loadAverage()
		if err != nil || load <= busyLoad || b.allowLoad {
			return load > busyLoad, err
		}
		if time.Now().After(deadline) {
			return true, fmt.Errorf("the load is %.2f, and above %.1f for %v: something else is at work; -allow-load measures nevertheless", load, busyLoad, quietTime)
		}
		if !said {
			fmt.Fprintf(os.Stderr, "bench: the load is %.2f, waiting until it is %.1f ...\n", load, busyLoad)
		}
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case <-time.After(5 * time.Second): // the kernel computes it so often
		}
	}
}

// loadAverage is that of one minute.
func loadAverage() (float64, error) {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(load), " ")
	return strconv.ParseFloat(first, 64)
}

// moment is what the machine has done so far, in seconds of processor time.
type moment struct {
	at    time.Time
	load  float64
	all   float64 // of all processes
	ours  float64 // of this process and of its children that have ended
	steal float64
}

func now() (m moment, err error) {
	m.at = time.Now()
	if m.load, err = loadAverage(); err != nil {
		return m, err
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return m, err
	}
	if m.all, m.steal, err = parseStat(string(stat)); err != nil {
		return m, err
	}
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			return m, fmt.Errorf("getrusage: %w", err)
		}
		m.ours += time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
	}
	return m, nil
}

// parseStat reads the first line of /proc/stat (proc_stat(5)): user, nice,
// system, idle, iowait, irq, softirq, steal.
func parseStat(text string) (all, steal float64, err error) {
	line, _, _ := strings.Cut(text, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, 0, errors.New("/proc/stat: no line of all processors")
	}
	for i, field := range f[1:9] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		switch i {
		case 3, 4: // nobody's
		case 7:
			steal = n / userHZ
		default:
			all += n / userHZ
		}
	}
	return all, steal, nil
}

// quietness says what others did between two moments.
func quietness(before, after moment) report.Quiet {
	seconds := after.at.Sub(before.at).Seconds()
	return report.Quiet{
		Load: before.load, After: after.load,
		Others: max(0, (after.all-before.all)-(after.ours-before.ours)) / seconds,
		Steal:  (after.steal - before.steal) / seconds,
	}
}
