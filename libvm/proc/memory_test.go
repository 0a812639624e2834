//go:build linux

package proc

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestAvailableMemory: it is some of what there is, in bytes.
func TestAvailableMemory(t *testing.T) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	total := int64(info.Totalram) * int64(info.Unit)
	got, err := AvailableMemory()
	if err != nil || got < total>>10 || got > total {
		t.Errorf("%d of %d bytes, %v", got, total, err)
	}
}
