//go:build linux

package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

var (
	errVersion   = errors.New("host and guest speak different versions")
	errEntropy   = errors.New("entropy of the wrong size")
	errShareType = errors.New("unknown share type")
	errShareBusy = errors.New("another share is mounted")
)

// checkVersion refuses a host of another version.
func checkVersion(version uint32) error {
	if version != api.Version {
		return fmt.Errorf("%w: host %d, guest %d", errVersion, version, api.Version)
	}
	return nil
}

// setClock sets the wall clock to nanoseconds since 1970 UTC.
func setClock(unixNano int64) error {
	ts := unix.NsecToTimespec(unixNano)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	return nil
}

// moveClock moves the wall clock at once, or slews it. The kernel adds
// (adjtimex(2)): how long that takes does not matter.
func moveClock(by time.Duration, slew bool) error {
	if by == 0 {
		return nil
	}
	const setOffset, singleShot = 0x0100, 0x8001 // ADJ_SETOFFSET, ADJ_OFFSET_SINGLESHOT of linux/timex.h
	slewing := unix.Timex{Modes: singleShot}
	if slew {
		slewing.Offset = by.Microseconds()
	} else if _, err := unix.Adjtimex(&unix.Timex{Modes: setOffset, Time: unix.NsecToTimeval(by.Nanoseconds())}); err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	// A step ends the slewing that was begun before it.
	if _, err := unix.Adjtimex(&slewing); err != nil {
		return fmt.Errorf("slew the clock: %w", err)
	}
	return nil
}

// addEntropy credits host randomness to the kernel's pool and makes it use it at
// once: a clone's generator is in the same state as its siblings'.
func addEntropy(seed []byte) error {
	const least, most = 32, 512 // bytes, agent.proto
	if len(seed) < least || len(seed) > most {
		return fmt.Errorf("%w: %d bytes", errEntropy, len(seed))
	}
	random, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("entropy: %w", err)
	}
	defer random.Close()
	info := poolInfo(seed)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, random.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return fmt.Errorf("add entropy: %w", errno)
	}
	const reseed = 0x5207 // RNDRESEEDCRNG, linux/random.h
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, random.Fd(), reseed, 0); errno != 0 {
		return fmt.Errorf("reseed: %w", errno)
	}
	return nil
}

// poolInfo is struct rand_pool_info of linux/random.h: entropy in bits, size in
// bytes, then the bytes. 256 bits are credited: all that the generator wants.
func poolInfo(seed []byte) []byte {
	const credit = 256
	info := make([]byte, 0, 8+len(seed))
	info = binary.NativeEndian.AppendUint32(info, credit)
	info = binary.NativeEndian.AppendUint32(info, uint32(len(seed)))
	return append(info, seed...)
}

// A share is what Hello has mounted.
type share struct{ kind, tag string }

// mount mounts the share the request names; none is fine, and the same again.
func (s *share) mount(kind, tag string) error {
	want := share{kind, tag}
	if kind == "" || *s == want {
		return nil
	}
	if s.kind != "" {
		return fmt.Errorf("%w: %s %q", errShareBusy, s.kind, s.tag)
	}
	var data string
	switch kind {
	case "virtiofs":
	case "9p":
		data = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap"
	default:
		return fmt.Errorf("%w: %q", errShareType, kind)
	}
	if err := unix.Mount(tag, api.ShareMountpoint, kind, 0, data); err != nil {
		return fmt.Errorf("mount share %s %q: %w", kind, tag, err)
	}
	*s = want
	return nil
}

// describe fills in what the host wants to know of the guest.
func describe(nics []*api.NIC) (*api.HelloResponse, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("uname: %w", err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("sysinfo: %w", err)
	}
	content, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return nil, fmt.Errorf("file systems: %w", err)
	}
	return &api.HelloResponse{
		Version:       api.Version,
		KernelRelease: unix.ByteSliceToString(uts.Release[:]),
		MemoryBytes:   uint64(info.Totalram) * uint64(info.Unit),
		Filesystems:   filesystems(string(content)),
		Nics:          nics,
	}, nil
}

// filesystems takes the names from /proc/filesystems: the last word of a line.
func filesystems(content string) []string {
	var names []string
	for line := range strings.Lines(content) {
		if f := strings.Fields(line); len(f) > 0 {
			names = append(names, f[len(f)-1])
		}
	}
	return names
}
