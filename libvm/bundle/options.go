package bundle

import "slices"

// The options are those of runtime-spec's config.md and of runc 1.4, which is
// what the agent runs containers with.

// mountFlags are options that any file system takes.
func mountFlags() []string {
	return []string{
		"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "iversion",
		"lazytime", "loud", "mand", "noatime", "nodev", "nodiratime", "noexec", "noiversion",
		"nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "rbind",
		"relatime", "remount", "ro", "rw", "silent", "strictatime", "suid", "symfollow", "sync",
		"tmpcopyup",
	}
}

// recursiveFlags are those of mount_setattr(2) with AT_RECURSIVE.
func recursiveFlags() []string {
	return []string{
		"ratime", "rdev", "rdiratime", "rexec", "rnoatime", "rnodev", "rnodiratime", "rnoexec",
		"rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "rrelatime", "rro", "rrw",
		"rstrictatime", "rsuid", "rsymfollow",
	}
}

// propagations are the values of rootfsPropagation and of mount options.
func propagations() []string {
	return []string{
		"private", "rprivate", "rshared", "rslave", "runbindable", "shared", "slave", "unbindable",
	}
}

// KnownMountOptions lists, sorted, what may stand in mounts[].options beside
// the options of a file system of its own. `features` prints it.
func KnownMountOptions() []string {
	all := slices.Concat(mountFlags(), recursiveFlags(), propagations())
	slices.Sort(all)
	return all
}

// dataOptions are the options, up to "=", that a file system of the guest's
// kernel takes itself.
func dataOptions(fstype string) []string {
	switch fstype {
	case "tmpfs":
		return []string{"gid", "huge", "inode32", "inode64", "mode", "mpol", "noswap", "nr_blocks", "nr_inodes", "size", "uid"}
	case "ramfs":
		return []string{"mode"}
	case "devpts":
		return []string{"gid", "max", "mode", "newinstance", "ptmxmode", "uid"}
	case "proc":
		return []string{"gid", "hidepid", "subset"}
	case "cgroup", "cgroup2":
		return []string{"favordynmods", "memory_hugetlb_accounting", "memory_localevents", "memory_recursiveprot", "nsdelegate"}
	case "hugetlbfs":
		return []string{"gid", "min_size", "mode", "nr_inodes", "pagesize", "size", "uid"}
	case "bpf":
		return []string{"delegate_attachs", "delegate_cmds", "delegate_maps", "delegate_progs", "gid", "mode", "uid"}
	}
	return nil
}

// guestFilesystems are the types the guest's kernel can mount without a host
// path or device behind them.
func guestFilesystems() []string {
	return []string{
		"binfmt_misc", "bpf", "cgroup", "cgroup2", "devpts", "devtmpfs", "hugetlbfs", "mqueue",
		"proc", "ramfs", "sysfs", "tmpfs",
	}
}
