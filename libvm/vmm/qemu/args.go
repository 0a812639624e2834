package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/runm/runm/libvm/vmm"
)

const (
	vhostNetDevice = "/dev/vhost-net"
	cpuInfoFile    = "/proc/cpuinfo"

	// portName is the virtio-serial port the guest serves. It equals
	// guest/api.PortName (a test compares), whose package a driver does not
	// need otherwise.
	portName = "runm.agent.0"
	// agentChardev is QEMU's name for the stream's own end.
	agentChardev = "agent"

	// What TCG keeps of its translations at most, in MiB; it starts again when
	// that is full, and gives nothing back but to Trim. QEMU would take up to 1 GiB
	// of the container's memory. A boot fills 50, with half of it takes a quarter longer.
	// The making of a clone's container fills 26 to 30, and its program must find
	// room beside that: starting again costs it some 0.3 s (docs/performance.md).
	tcgBootMiB  = 64
	tcgCloneMiB = 48
	tcgCPUMiB   = 16 // for each vCPU but the first

	// maxTransports is how many virtio devices a machine can have: microvm
	// without ACPI has 8 virtio-mmio slots (hw/i386/microvm.c), arm64's virt
	// has 32 (hw/arm/virt.c).
	maxTransportsMicrovm = 8
	maxTransportsVirt    = 32

	// qemuMalloc has QEMU's libc map each block of 32 KiB and more by itself.
	// Otherwise a block of 1 MiB, given back while QEMU starts, makes it take all
	// smaller ones from the heap, where virtqueues that no guest uses are cleared,
	// and old tables of TCG stay (mallopt(3), M_MMAP_THRESHOLD; docs/performance.md).
	qemuMalloc = "GLIBC_TUNABLES=glibc.malloc.mmap_threshold=32768:glibc.malloc.top_pad=32768"

	// reportingOrder is the smallest block of free memory that the guest
	// gives back, as a power of two of pages: 32 KiB. Linux would wait for
	// 2 MiB; docs/drivers.md has the measurement.
	reportingOrder = 3

	// maxTag is the longest virtio-fs tag in bytes (virtio 1.2, 5.11.4).
	maxTag = 36
)

// FDs are the numbers of the descriptors that QEMU inherits. Slices are in
// the order of the Config's lists; Virtiofs counts virtiofs shares only.
type FDs struct {
	Kernel, Initrd      int
	Agent, Console, QMP int // connected stream sockets
	Virtiofs            []int
	Disks               []DiskFD
	NICs                []int // taps
	VhostNet            []int // one for each NIC, or none at all
	// Memory is the file that is the guest's memory, 0 for memory of QEMU's own.
	Memory int
	// Incoming: the machine is not booted but waits to be loaded.
	Incoming bool
}

// DiskFD is an open disk.
type DiskFD struct {
	FD     int
	Device bool // a block device, not a regular file
}

// Args returns QEMU's arguments for cfg. It reads nothing but its parameters.
func Args(cfg *vmm.Config, host Host, fds FDs) ([]string, error) {
	if err := check(cfg, host, fds); err != nil {
		return nil, err
	}
	var a args
	a.add("-nodefaults", "-no-user-config", "-no-reboot")
	a.add("-display", "none")
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	a.machine(cfg, host, fds)
	a.kernel(cfg, host, fds)
	a.template(fds)
	a.channels(fds)
	a.shares(cfg.Shares, host, fds)
	a.disks(cfg.Disks, fds)
	a.nics(cfg.NICs, fds)
	if hasBalloon(cfg, host) {
		a.add("-device", "virtio-balloon-device,free-page-reporting=on")
	}
	return a.list, nil
}

// args collects a command line.
type args struct{ list []string }

func (a *args) add(words ...string) { a.list = append(a.list, words...) }

// check refuses what no command line can express.
func check(cfg *vmm.Config, host Host, fds FDs) error {
	switch {
	case host.Arch != "amd64" && host.Arch != "arm64":
		return fmt.Errorf("architecture %q: %w", host.Arch, vmm.ErrNotSupported)
	case cfg.Accel != vmm.AccelKVM && cfg.Accel != vmm.AccelTCG:
		return fmt.Errorf("accelerator %q on QEMU: %w", cfg.Accel, vmm.ErrNotSupported)
	case cfg.CPUs < 1:
		return fmt.Errorf("%d CPUs, want at least 1", cfg.CPUs)
	case cfg.MemoryMiB < 1:
		return fmt.Errorf("%d MiB of memory, want at least 1", cfg.MemoryMiB)
	}
	virtiofs := 0
	for _, s := range cfg.Shares {
		switch s.Type {
		case vmm.ShareVirtiofs:
			virtiofs++
		case vmm.Share9p:
		default:
			return fmt.Errorf("share %q of type %q: %w", s.Tag, s.Type, vmm.ErrNotSupported)
		}
		if s.Tag == "" || len(s.Tag) > maxTag {
			return fmt.Errorf("share tag %q: %d bytes, want 1 to %d", s.Tag, len(s.Tag), maxTag)
		}
	}
	if virtiofs != len(fds.Virtiofs) || len(cfg.Disks) != len(fds.Disks) || len(cfg.NICs) != len(fds.NICs) {
		panic("qemu: descriptors do not match the config") // a bug, not an input
	}
	if n, slots := transports(cfg, host); n > slots {
		return fmt.Errorf("%d virtio devices, %d are possible: %w", n, slots, vmm.ErrNotSupported)
	}
	return nil
}

// transports counts the virtio devices that cfg asks for, and those possible.
func transports(cfg *vmm.Config, host Host) (n, slots int) {
	slots = maxTransportsMicrovm
	if host.Arch == "arm64" {
		slots = maxTransportsVirt
	}
	// The serial bus and the random source are always there.
	return 2 + len(cfg.Shares) + len(cfg.Disks) + len(cfg.NICs), slots
}

// hasBalloon says whether the machine gives memory back that its guest has
// freed: where a slot is left, for every other device is there for somebody.
// A private mapping of a file would have to be readonly=on,rom=off: QEMU
// punches the hole into the file otherwise, which is not the machine's alone.
func hasBalloon(cfg *vmm.Config, host Host) bool {
	n, slots := transports(cfg, host)
	return n < slots
}

// machine adds board, CPU and memory.
func (a *args) machine(cfg *vmm.Config, host Host, fds FDs) {
	board := []string{"virt", "gic-version=max", "acpi=off"}
	if host.Arch == "amd64" {
		// The timer and the interrupt controller of the PC are what a guest
		// under TCG calibrates by: without them it never boots. A KVM guest
		// has kvmclock. The RTC stays: without it booting waits one second.
		legacy := onOff(cfg.Accel == vmm.AccelTCG)
		board = []string{"microvm", "acpi=off", "pcie=off", "usb=off", "graphics=off",
			"pit=" + legacy, "pic=" + legacy, "rtc=on", "isa-serial=on"}
	}
	a.add("-machine", strings.Join(append(board, "memory-backend=ram"), ","))
	if cfg.Accel == vmm.AccelKVM {
		a.add("-accel", "kvm", "-cpu", "host")
	} else {
		a.add("-accel", fmt.Sprintf("tcg,tb-size=%d", tcgMiB(cfg.CPUs, fds.Incoming)), "-cpu", tcgCPU(host.Arch))
	}
	a.add("-smp", strconv.Itoa(cfg.CPUs), "-m", fmt.Sprintf("%dM", cfg.MemoryMiB))
	a.add("-object", fmt.Sprintf("%s,size=%dM", memoryBackend(cfg, fds), cfg.MemoryMiB))
	// Legacy virtio-mmio, microvm's default, is refused by vhost-user back ends.
	a.add("-global", "virtio-mmio.force-legacy=false")
}

// memoryBackend is what the guest's memory is. vhost-user back ends map it, so
// for them it must be a shared file; private memory is cheaper for everybody else.
func memoryBackend(cfg *vmm.Config, fds FDs) string {
	switch {
	case fds.Memory != 0:
		return "memory-backend-file,id=ram,share=on,mem-path=" + fdPath(fds.Memory)
	case hasVirtiofs(cfg.Shares):
		return "memory-backend-memfd,id=ram,share=on"
	default:
		return "memory-backend-ram,id=ram"
	}
}

// template adds what saving and loading take.
func (a *args) template(fds FDs) {
	if fds.Memory == 0 {
		return
	}
	// Without it a clone, whose template was stopped, would be, too.
	a.add("-global", "migration.store-global-state=off")
	if fds.Incoming {
		a.add("-incoming", "defer") // until it is told that memory is not in the stream
	}
}

func (a *args) kernel(cfg *vmm.Config, host Host, fds FDs) {
	if fds.Incoming {
		return // in the memory already, and QEMU would keep a copy of both
	}
	a.add("-kernel", fdPath(fds.Kernel), "-initrd", fdPath(fds.Initrd))
	a.add("-append", strings.Join(append(cmdline(cfg, host), cfg.Cmdline...), " "))
}

// tcgMiB is the size of TCG's translation buffer.
func tcgMiB(cpus int, clone bool) int {
	size := tcgBootMiB
	if clone {
		size = tcgCloneMiB
	}
	return size + (cpus-1)*tcgCPUMiB
}

// tcgCPU is the CPU that TCG emulates. One with fast string operations makes
// kernel, libc and Go copy and clear with `rep movsb` and `rep stosb`, which TCG
// runs byte by byte: a third slower to boot, and half the throughput of a stream.
func tcgCPU(arch string) string {
	if arch == "amd64" {
		return "max,erms=off,fsrm=off,fsrs=off,fsrc=off,fzrm=off"
	}
	return "max"
}

// cmdline is what the kernel must be told because of this driver's devices.
func cmdline(cfg *vmm.Config, host Host) []string {
	// quiet still prints errors and panics; panic=-1 reboots at once, and a
	// reboot ends QEMU (-no-reboot), so a panic is the machine's end.
	// The dummy driver makes a dummy0 unasked.
	words := []string{"console=ttyS0", "quiet", "panic=-1", "dummy.numdummies=0"}
	if cfg.Accel == vmm.AccelTCG && hasVirtiofs(cfg.Shares) {
		// virtiofsd writes guest memory behind QEMU's back, so TCG keeps what
		// it translated from a page's former content: a page that held code,
		// was freed and became page cache would run the old code. Cleared by
		// the guest's CPU when it is allocated, it is seen to change.
		words = append(words, "init_on_alloc=1")
	}
	if hasBalloon(cfg, host) {
		words = append(words, fmt.Sprintf("page_reporting.page_reporting_order=%d", reportingOrder))
	}
	if host.Arch == "arm64" {
		words[0] = "console=ttyAMA0"
		return words
	}
	// There is no ACPI to power off by: a triple fault ends the machine.
	words = append(words, "reboot=t", "8250.nr_uarts=1")
	// A guest with memory above 4 GiB keeps 64 MiB back, cleared, for devices
	// that cannot reach it. Ours can.
	words = append(words, "swiotlb=noforce")
	if cfg.Accel == vmm.AccelTCG && host.TSCKHz > 0 {
		// TCG passes the host's TSC on. Told its rate, the guest has a clock
		// finer than the 10 ms of jiffies, which it falls back to otherwise.
		words = append(words, fmt.Sprintf("tsc_early_khz=%d", host.TSCKHz), "tsc=reliable")
	}
	if cfg.Accel == vmm.AccelTCG {
		// The emulated APIC runs at 1 GHz: a kernel that is told so (our
		// patch) need not measure it, which takes a quarter of a second
		// and fails on a busy host. Nor need it patch its spinlocks.
		words = append(words, "lapic_timer_khz=1000000", "noreplace-smp")
	}
	return words
}

// channels adds the stream to the agent, the console, QMP and entropy.
func (a *args) channels(fds FDs) {
	a.add("-device", "virtio-serial-device,max_ports=2")
	a.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d", agentChardev, fds.Agent))
	a.add("-device", fmt.Sprintf("virtserialport,chardev=%s,name=%s", agentChardev, portName))
	a.add("-chardev", fmt.Sprintf("socket,id=console,fd=%d", fds.Console))
	a.add("-serial", "chardev:console")
	a.add("-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fds.QMP))
	a.add("-mon", "chardev=qmp,mode=control")
	a.add("-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng")
}

func (a *args) shares(shares []vmm.Share, host Host, fds FDs) {
	sockets := fds.Virtiofs
	for i, s := range shares {
		if s.Type == vmm.ShareVirtiofs {
			a.add("-chardev", fmt.Sprintf("socket,id=share%d,fd=%d", i, sockets[0]))
			a.add("-device", fmt.Sprintf("vhost-user-fs-device,chardev=share%d,tag=%s", i, escape(s.Tag)))
			sockets = sockets[1:]
			continue
		}
		// passthrough gives files the guest's owners, which takes root; none
		// is the same without failing where it cannot.
		model := "none"
		if host.Root {
			model = "passthrough"
		}
		fsdev := fmt.Sprintf("local,id=share%d,path=%s,security_model=%s,multidevs=remap", i, escape(s.Path), model)
		if s.ReadOnly {
			fsdev += ",readonly=on"
		}
		a.add("-fsdev", fsdev)
		a.add("-device", fmt.Sprintf("virtio-9p-device,fsdev=share%d,mount_tag=%s", i, escape(s.Tag)))
	}
}

func (a *args) disks(disks []vmm.Disk, fds FDs) {
	for i, d := range disks {
		driver := "file"
		if fds.Disks[i].Device {
			driver = "host_device"
		}
		a.add("-add-fd", fmt.Sprintf("fd=%d,set=%d", fds.Disks[i].FD, i))
		a.add("-blockdev", fmt.Sprintf("driver=%s,node-name=disk%d,filename=/dev/fdset/%d,read-only=%s,discard=unmap",
			driver, i, i, onOff(d.ReadOnly)))
		a.add("-device", fmt.Sprintf("virtio-blk-device,drive=disk%d", i))
	}
}

func (a *args) nics(nics []vmm.NIC, fds FDs) {
	for i, n := range nics {
		netdev := fmt.Sprintf("tap,id=nic%d,fd=%d", i, fds.NICs[i])
		if len(fds.VhostNet) > 0 {
			netdev += fmt.Sprintf(",vhost=on,vhostfd=%d", fds.VhostNet[i])
		}
		device := fmt.Sprintf("virtio-net-device,netdev=nic%d,mac=%s", i, n.MAC)
		if n.MTU > 0 {
			device += fmt.Sprintf(",host_mtu=%d", n.MTU)
		}
		a.add("-netdev", netdev, "-device", device)
	}
}

func hasVirtiofs(shares []vmm.Share) bool {
	for _, s := range shares {
		if s.Type == vmm.ShareVirtiofs {
			return true
		}
	}
	return false
}

// wantsVhostNet says whether packets go through the host's kernel. Only a
// guest under KVM can be interrupted by it without QEMU's help.
func wantsVhostNet(cfg *vmm.Config, host Host) bool {
	return host.VhostNet && cfg.Accel == vmm.AccelKVM
}

// fdPath names an inherited descriptor for what opens files by path only.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// escape doubles commas, which separate QEMU's options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
