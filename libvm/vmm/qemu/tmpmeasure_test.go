package qemu_test
import ("testing";"fmt";"os";"time";"path/filepath";"github.com/runm/runm/libvm/vmm/vmmtest";"github.com/runm/runm/libvm/vmm")
func TestMeasure(t *testing.T) {
	d := driver(t)
	real := d.Virtiofsd
	share := os.Getenv("MSHARE")
	k, i := vmmtest.Kernel(t), vmmtest.Initrd(t)
	for round := range 2 {
	for _, v := range []string{"--inode-file-handles=prefer", "--inode-file-handles=never", "--inode-file-handles=prefer --thread-pool-size=4", "--inode-file-handles=prefer --posix-acl"} {
		d.Virtiofsd = script(t, "for a; do shift; case $a in --inode-file-handles*) ;; *) set -- \"$@\" \"$a\";; esac; done; exec "+real+" \"$@\" "+v)
		g := vmmtest.Boot(t, d, config(k, i, share))
		dir := g.Do("mount virtiofs share")
		t0 := time.Now()
		n, err := g.Try("walk "+dir)
		cold := time.Since(t0)
		t0 = time.Now()
		g.Try("walk "+dir)
		warm := time.Since(t0)
		open, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.Machine.(vmm.Processes).Pids()[1]))
		t0 = time.Now()
		_, werr := g.Try("bulkread "+filepath.Join(dir,"big"))
		t.Logf("round %d %-60s walk %s (%v) cold %v warm %v fds %d bulk %v %v", round, v, n, err, cold, warm, len(open), time.Since(t0), werr)
		g.End()
	}}
}
