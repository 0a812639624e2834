package bundle

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// CheckResources checks a resources object, of config.json or of update.
func CheckResources(r *specs.LinuxResources) (warnings []string, err error) {
	c := checker{hugepages: "/sys/kernel/mm/hugepages"}
	err = c.resources(r)
	return c.warnings, err
}

func (c *checker) resources(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if len(r.Rdma) > 0 {
		return refuse("linux.resources.rdma", "the guest has no RDMA devices")
	}
	if err := checkDeviceRules(r.Devices); err != nil {
		return err
	}
	if err := c.memory(r.Memory); err != nil {
		return err
	}
	if err := checkCPU(r.CPU); err != nil {
		return err
	}
	if err := c.hugepageLimits(r.HugepageLimits); err != nil {
		return err
	}
	return checkUnified(r.Unified)
}

func checkDeviceRules(rules []specs.LinuxDeviceCgroup) error {
	for i, d := range rules {
		field := fmt.Sprintf("linux.resources.devices[%d]", i)
		switch d.Type {
		case "", "a", "b", "c":
		default:
			return fmt.Errorf("%s.type: invalid cgroup device type %q", field, d.Type)
		}
		if d.Access == "" || strings.Trim(d.Access, "rwm") != "" {
			return fmt.Errorf("%s.access: %q is not made of r, w and m", field, d.Access)
		}
	}
	return nil
}

func (c *checker) memory(m *specs.LinuxMemory) error {
	if m == nil {
		return nil
	}
	const field = "linux.resources.memory"
	for name, v := range map[string]*int64{"limit": m.Limit, "reservation": m.Reservation, "swap": m.Swap} {
		if v != nil && *v < -1 {
			return fmt.Errorf("%s.%s: %d is neither -1 nor a number of bytes", field, name, *v)
		}
	}
	if m.Limit != nil && m.Swap != nil && *m.Limit > 0 && *m.Swap > 0 && *m.Swap < *m.Limit {
		return fmt.Errorf("%s.swap: memory+swap limit %d should be >= memory limit %d", field, *m.Swap, *m.Limit)
	}
	if s := m.Swappiness; s != nil && *s > 100 {
		return fmt.Errorf("%s.swappiness: %d is not between 0 and 100", field, *s)
	}
	if m.Kernel != nil { //nolint:staticcheck // deprecated, and warned of
		c.warn(field+".kernel", "kernel memory settings are ignored: no kernel has them any more.")
	}
	if m.KernelTCP != nil {
		c.warn(field+".kernelTCP", "kernel memory settings are ignored: the guest's kernel has none.")
	}
	// A machine whose cgroup cannot kill would hang for ever when it is full.
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		c.warn(field+".disableOOMKiller", "is ignored: cgroup v2, which the guest has, cannot disable it.")
	}
	return nil
}

func checkCPU(cpu *specs.LinuxCPU) error {
	if cpu == nil {
		return nil
	}
	const field = "linux.resources.cpu"
	if v := cpu.RealtimeRuntime; v != nil && *v != 0 {
		return refuse(field+".realtimeRuntime", "the guest's kernel has no realtime groups")
	}
	if v := cpu.RealtimePeriod; v != nil && *v != 0 {
		return refuse(field+".realtimePeriod", "the guest's kernel has no realtime groups")
	}
	// The kernel's bounds of cpu.shares (MIN_SHARES and MAX_SHARES); 0 is none.
	if v := cpu.Shares; v != nil && *v != 0 && (*v < 2 || *v > 1<<18) {
		return fmt.Errorf("%s.shares: %d is not between 2 and 262144", field, *v)
	}
	if v := cpu.Idle; v != nil && *v != 0 && *v != 1 {
		return fmt.Errorf("%s.idle: %d is neither 0 nor 1", field, *v)
	}
	if _, err := CountCPUs(cpu.Cpus); err != nil {
		return fmt.Errorf("%s.cpus: %w", field, err)
	}
	if _, err := CountCPUs(cpu.Mems); err != nil {
		return fmt.Errorf("%s.mems: %w", field, err)
	}
	return nil
}

// CountCPUs counts the members of a list like "0-3,7"; "" has none. Members
// that are named twice count twice.
func CountCPUs(list string) (int, error) {
	list = strings.TrimSpace(list)
	if list == "" {
		return 0, nil
	}
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || to < from {
			return 0, fmt.Errorf("%q is not a list of numbers and ranges", list)
		}
		n += int(to-from) + 1
	}
	return n, nil
}

// hugepageLimits takes the page sizes that the host's kernel has.
func (c *checker) hugepageLimits(limits []specs.LinuxHugepageLimit) error {
	for i, l := range limits {
		field := fmt.Sprintf("linux.resources.hugepageLimits[%d].pageSize", i)
		kib, ok := pageKiB(l.Pagesize)
		if !ok {
			return fmt.Errorf("%s: %q is not a page size such as 64KB, 2MB or 1GB", field, l.Pagesize)
		}
		dir := filepath.Join(c.hugepages, fmt.Sprintf("hugepages-%dkB", kib))
		if _, err := os.Stat(dir); err != nil {
			return fmt.Errorf("%s: this host has no huge pages of %s", field, l.Pagesize)
		}
	}
	return nil
}

// pageKiB parses "<size><unit-prefix>B"; the prefixes are powers of 1024
// (config-linux.md).
func pageKiB(s string) (uint64, bool) {
	units := map[string]uint64{"KB": 1, "MB": 1 << 10, "GB": 1 << 20}
	if len(s) < 3 {
		return 0, false
	}
	unit, ok := units[s[len(s)-2:]]
	n, err := strconv.ParseUint(s[:len(s)-2], 10, 32)
	return n * unit, ok && err == nil && n > 0
}

// checkUnified takes the files of the controllers that guest and host have.
func checkUnified(unified map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(unified)) {
		field := "linux.resources.unified." + name
		// "file names … MUST NOT contain any /" (config-linux.md).
		if strings.ContainsRune(name, '/') {
			return fmt.Errorf("%s: must be the name of a file", field)
		}
		controller, rest, _ := strings.Cut(name, ".")
		if rest == "" {
			return errors.New(field + ": is not of the form controller.file")
		}
		switch controller {
		case "cpu", "memory", "pids", "cpuset", "io", "hugetlb":
		default:
			return refuse(field, "neither guest nor host would honour it")
		}
	}
	return nil
}
