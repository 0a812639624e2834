//go:build linux

package hack

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDemo: demos that run at once do not take the root file system or the
// config.json away from each other, nor does what a killed one has left mounted
// stop them.
func TestDemo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the demo needs root")
	}
	top := t.TempDir()
	write(t, top+"/_output/bin/runm", `#!/bin/bash
set -e
case $1 in
spec) printf '"terminal": true,\n\t"sh"\n' >"$3/config.json" ;;
run) # what is missing fails the demo
	[ -x "$3/rootfs/bin/busybox" ]
	[ -L "$3/rootfs/bin/wc" ]
	[ ! -e "$3/rootfs/rootfs.new" ]
	[ ! -e /proc/$$/fd/9 ] # the lock is not the container's
	grep -q 'exit 42"$' "$3/config.json"
	grep -q '"terminal": false,' "$3/config.json"
	exit 42
esac
`)
	for _, name := range []string{"demo.sh", "lib.sh"} {
		data, err := os.ReadFile("../../hack/" + name)
		if err != nil {
			t.Fatal(err)
		}
		write(t, top+"/hack/"+name, string(data))
	}
	left := top + "/cache/demo/busybox/rootfs.new/proc"
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("left", left, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(left, unix.MNT_DETACH); err == nil {
			t.Error("what was mounted still is")
		}
	})
	out, err := bash(t, top, `
for i in 1 2 3 4 5 6 7 8; do
	hack/demo.sh &
	demos+=($!)
done
for demo in "${demos[@]}"; do wait "$demo"; done`, "DEMO_ROOTFS=busybox", "RUNM_CACHE="+top+"/cache")
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	files, err := filepath.Glob(top + "/cache/demo/busybox/*")
	if hidden, _ := filepath.Glob(top + "/cache/demo/busybox/.*"); err != nil || len(files) != 2 || len(hidden) != 0 {
		t.Errorf("left %q and %q, %v", files, hidden, err)
	}
}
