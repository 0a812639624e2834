// Package fileid tells whether a file is still what it was.
package fileid

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Of identifies the file that path leads to, with its content: another text
// means that the content can have changed. Each change of an inode's content
// changes its time of change, which nobody can set (inode(7)); it counts in ticks
// of the kernel, of 10 ms at most.
func Of(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return text(&st), nil
}

// OfOpen is Of for a file that is open.
func OfOpen(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return text(&st), nil
}

func text(st *unix.Stat_t) string {
	return fmt.Sprintf("%d:%d %d bytes, changed %d.%09d", st.Dev, st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec)
}
