package docs

import (
	"path/filepath"
	"regexp"
	"testing"
)

// TestKernelCPUs: a machine is given no more CPUs than its kernel uses.
func TestKernelCPUs(t *testing.T) {
	number := regexp.MustCompile(`(?m)^(?:CONFIG_NR_CPUS=|\s*MaxCPUs\s*= )(\d+)$`)
	var found []string
	for _, file := range []string{"guest/kernel/common.config", "libvm/config/config.go"} {
		if m := number.FindStringSubmatch(read(t, filepath.Join(root, file))); m != nil {
			found = append(found, m[1])
		}
	}
	if len(found) != 2 || found[0] != found[1] {
		t.Errorf("CONFIG_NR_CPUS and config.MaxCPUs: %q, want the same number twice", found)
	}
}
