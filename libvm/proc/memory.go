//go:build linux

package proc

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// AvailableMemory is how much memory the host can give without swapping, in bytes
// (proc_meminfo(5), MemAvailable).
func AvailableMemory() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, errors.New("/proc/meminfo: no MemAvailable")
}
