package qemu

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Host is what Args must know of the host: plain data, so that the command
// line is a function of it.
type Host struct {
	Arch     string // GOARCH of host and guest: amd64 or arm64
	TSCKHz   int    // rate of the host's TSC in kHz; 0 when unknown or unsteady
	VhostNet bool   // /dev/vhost-net can be opened
	Root     bool   // this process may give files to anybody
	// CPU says what the host's CPU is and can do, as /proc/cpuinfo has it.
	CPU string
}

// Probe finds out the facts of this host. It changes nothing.
func Probe() (Host, error) {
	h := Host{Arch: runtime.GOARCH, Root: os.Geteuid() == 0}
	if f, err := os.OpenFile(vhostNetDevice, os.O_RDWR, 0); err == nil {
		h.VhostNet = true
		f.Close()
	}
	cpu, err := firstCPU(cpuInfoFile)
	if err != nil {
		return Host{}, fmt.Errorf("host facts: %w", err)
	}
	h.CPU = cpuModel(cpu)
	if h.Arch != "amd64" {
		return h, nil
	}
	if h.TSCKHz, err = tscKHz(strings.NewReader(cpu)); err != nil {
		return Host{}, fmt.Errorf("host facts: %s: %w", cpuInfoFile, err)
	}
	return h, nil
}

// firstCPU reads cpuinfo up to the end of the first CPU: the kernel asks each one
// for its frequency when it is read on.
func firstCPU(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var cpu strings.Builder
	lines := bufio.NewScanner(f)
	for lines.Scan() && lines.Text() != "" {
		cpu.WriteString(lines.Text() + "\n")
	}
	return cpu.String(), lines.Err()
}

// cpuModel takes from a CPU of cpuinfo what tells it from another model, with its
// microcode and its features, whatever the architecture.
func cpuModel(cpuinfo string) string {
	var model []string
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "vendor_id", "cpu family", "model", "stepping", "microcode", "flags",
			"CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features":
			model = append(model, strings.TrimSpace(value))
		}
	}
	return strings.Join(model, ", ")
}

// tscKHz reads the TSC's rate from cpuinfo. On amd64 the kernel derives
// "bogomips" from the TSC when that one is steady: twice the rate in MHz, with
// two decimals, which makes it exact to 5 kHz (arch/x86/kernel/tsc.c sets
// lpj_fine, init/calibrate.c prints it). It is the one place where every user
// can read the rate: the kernel's log is private and "cpu MHz" is a sample.
func tscKHz(cpuinfo io.Reader) (int, error) {
	bogomips, steady := 0.0, false
	lines := bufio.NewScanner(cpuinfo)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch strings.TrimSpace(key) {
		case "bogomips":
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				return 0, fmt.Errorf("bogomips: %w", err)
			}
			bogomips = v
		case "flags":
			steady = hasFlag(value, "constant_tsc")
		case "": // end of the first CPU
			if bogomips != 0 {
				return kHz(bogomips, steady), nil
			}
		}
	}
	return kHz(bogomips, steady), lines.Err()
}

func kHz(bogomips float64, steady bool) int {
	if !steady {
		return 0
	}
	return int(math.Round(bogomips * 500))
}

func hasFlag(flags string, names ...string) bool {
	for f := range strings.FieldsSeq(flags) {
		for _, n := range names {
			if f == n {
				return true
			}
		}
	}
	return false
}
