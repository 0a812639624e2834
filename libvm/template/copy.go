//go:build linux

package template

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// CopyMemory copies what of from is not a hole to the same places in to, which
// is as long and empty. Both are files in memory.
func CopyMemory(to, from *os.File) error {
	err := eachExtent(from, func(start int64, n int) error { return copyRange(to, from, start, n) })
	if err != nil {
		return fmt.Errorf("copy the template's memory: %w", err)
	}
	return nil
}

// punchZeros gives the pages of f back that hold nothing but zeros: a hole reads
// the same and is not copied.
func punchZeros(f *os.File) error {
	page := int64(os.Getpagesize())
	data, zeros := make([]byte, page), make([]byte, page)
	err := eachExtent(f, func(start int64, n int) error {
		zero := start // the first of the pages of zeros before at
		for at, end := start, start+int64(n); ; at += page {
			if at < end {
				// Read, not mapped: that cannot end in SIGBUS.
				if _, err := f.ReadAt(data, at); err != nil {
					return err
				}
				if bytes.Equal(data, zeros) {
					continue
				}
			}
			if err := punch(f, zero, at-zero); err != nil {
				return err
			}
			if at >= end {
				return nil
			}
			zero = at + page
		}
	})
	if err != nil {
		return fmt.Errorf("template's memory: %w", err)
	}
	return nil
}

func punch(f *os.File, at, n int64) error {
	if n == 0 {
		return nil
	}
	const how = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	return os.NewSyscallError("fallocate", unix.Fallocate(int(f.Fd()), how, at, n))
}

// eachExtent calls f for what of a file is not a hole, in its order, until it
// returns an error.
func eachExtent(file *os.File, f func(start int64, n int) error) error {
	for at := int64(0); ; {
		start, err := unix.Seek(int(file.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // holes up to the end
		}
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		if at, err = unix.Seek(int(file.Fd()), start, unix.SEEK_HOLE); err != nil {
			return os.NewSyscallError("lseek", err)
		}
		if err := f(start, int(at-start)); err != nil {
			return err
		}
	}
}

// copyRange copies n bytes at start, in whole pages. copy_file_range(2) and
// splice(2) do not copy between two mounts of tmpfs, so one side is mapped. Only
// the kernel reads there: in a file that was cut meanwhile write(2) fails, and
// nobody gets SIGBUS.
func copyRange(to, from *os.File, start int64, n int) error {
	data, err := unix.Mmap(int(from.Fd()), start, n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	_, err = to.WriteAt(data, start)
	return errors.Join(err, unix.Munmap(data))
}
