package docs

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// heading begins a group of kernel options: its name, and why it is there.
var heading = regexp.MustCompile(`^# -- ([^:]+): \S`)

// TestKernelOptions: each option of the guest's kernel is in a group that says
// why, and is named once. Whether the reason is a good one is the reader's to
// judge.
func TestKernelOptions(t *testing.T) {
	option := regexp.MustCompile(`^(?:# )?(CONFIG_\w+)(?:=| is not set)`)
	common := map[string]string{}
	for _, file := range []string{"common", "amd64", "arm64"} {
		group, seen := "", map[string]string{}
		for line := range strings.Lines(read(t, filepath.Join(root, "guest/kernel", file+".config"))) {
			if m := heading.FindStringSubmatch(line); m != nil {
				group = m[1]
			} else if strings.HasPrefix(line, "# --") {
				t.Errorf("%s: %q is not \"# -- Name: reason\"", file, line)
			}
			m := option.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			if group == "" {
				t.Errorf("%s: %s is in no group", file, m[1])
			}
			for _, other := range []map[string]string{common, seen} {
				if other[m[1]] != "" {
					t.Errorf("%s: %s is in two groups, %q and %q", file, m[1], other[m[1]], group)
				}
			}
			seen[m[1]] = group
		}
		if len(seen) < 20 {
			t.Errorf("%s has only %d options", file, len(seen))
		}
		if file == "common" {
			common = seen
		}
	}
}

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
