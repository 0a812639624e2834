package bundle

import (
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// tmpfsBytes is the size of the tmpfs that is mounted on path, 0 if path is
// not the top of one.
func tmpfsBytes(path string) uint64 {
	var fs unix.Statfs_t
	var here, above unix.Stat_t
	if unix.Statfs(path, &fs) != nil || fs.Type != unix.TMPFS_MAGIC {
		return 0
	}
	if unix.Stat(path, &here) != nil || unix.Stat(filepath.Dir(path), &above) != nil || here.Dev == above.Dev {
		return 0
	}
	return fs.Blocks * uint64(fs.Bsize)
}

// hasSubmounts says whether something is mounted below path.
func hasSubmounts(path string) bool {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(path))
	if err != nil {
		return false
	}
	for _, m := range mounts {
		if m.Mountpoint != path {
			return true
		}
	}
	return false
}
