//go:build linux

package template

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// CopyMemory copies what of from is not a hole to the same places in to, which
// is as long and empty. Both are files in memory.
func CopyMemory(to, from *os.File) error {
	for at := int64(0); ; {
		start, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // holes up to the end
		}
		if err != nil {
			return fmt.Errorf("read the template's memory: %w", err)
		}
		if at, err = unix.Seek(int(from.Fd()), start, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("read the template's memory: %w", err)
		}
		if err := copyRange(to, from, start, int(at-start)); err != nil {
			return fmt.Errorf("copy the template's memory: %w", err)
		}
	}
}

// copyRange copies n bytes at start, in whole pages. copy_file_range(2) and
// splice(2) do not copy between two mounts of tmpfs, so one side is mapped.
func copyRange(to, from *os.File, start int64, n int) error {
	data, err := unix.Mmap(int(from.Fd()), start, n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	_, err = to.WriteAt(data, start)
	return errors.Join(err, unix.Munmap(data))
}
