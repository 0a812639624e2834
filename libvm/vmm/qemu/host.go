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
}

// Probe finds out the facts of this host. It changes nothing.
func Probe() (Host, error) {
	h := Host{Arch: runtime.GOARCH, Root: os.Geteuid() == 0}
	if f, err := os.OpenFile(vhostNetDevice, os.O_RDWR, 0); err == nil {
		h.VhostNet = true
		f.Close()
	}
	if h.Arch != "amd64" {
		return h, nil
	}
	f, err := os.Open(cpuInfoFile)
	if err != nil {
		return Host{}, fmt.Errorf("host facts: %w", err)
	}
	defer f.Close()
	if h.TSCKHz, err = tscKHz(f); err != nil {
		return Host{}, fmt.Errorf("host facts: %s: %w", cpuInfoFile, err)
	}
	return h, nil
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
