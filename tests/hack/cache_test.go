//go:build linux

package hack

import (
	"strings"
	"testing"
)

// TestCachePath: a relative cache would be another one in each directory.
func TestCachePath(t *testing.T) {
	for _, lines := range []string{"make -n help", ". hack/lib.sh"} {
		for _, name := range []string{"RUNM_CACHE=here", "XDG_CACHE_HOME=here"} {
			out, err := bash(t, tree(t), "unset RUNM_CACHE; export "+name+"; "+lines)
			if err == nil || !strings.Contains(out, "is no absolute path") {
				t.Errorf("%s with %s: %v: %s", lines, name, err, out)
			}
		}
		if out, err := bash(t, tree(t), lines, "RUNM_CACHE=/there"); err != nil {
			t.Errorf("%s: %v: %s", lines, err, out)
		}
	}
}

// TestKernelFails: of a kernel that is not built nothing is installed.
func TestKernelFails(t *testing.T) {
	top := built(t)
	write(t, top+"/hack/deps.sh", "#!/bin/sh\n")
	write(t, top+"/hack/kernel.sh", "#!/bin/sh\nexit 3\n")
	out, err := bash(t, top, "make -s kernel")
	if err == nil || strings.Contains(out, "install:") || !strings.Contains(out, "Error 3") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestRootFirst: what needs root says so before it builds.
func TestRootFirst(t *testing.T) {
	top := built(t)
	write(t, top+"/bin/id", "#!/bin/sh\necho 1234\n")
	write(t, top+"/hack/deps.sh", "#!/bin/sh\necho building\n")
	for _, target := range []string{"demo", "test", "critest"} {
		out, err := bash(t, top, `PATH=$PWD/bin:$PATH make -s `+target)
		if err == nil || !strings.Contains(out, "must be run as root: sudo make "+target+"\n") || strings.Contains(out, "building") {
			t.Errorf("make %s: %v: %s", target, err, out)
		}
	}
}
