package qemu

import (
	"fmt"

	"github.com/runm/runm/libvm/vmm"
)

// VirtiofsdArgs returns virtiofsd's arguments (the Rust one, 1.13) for a
// share. listen is the number of the inherited listening socket, nofile the
// hard limit of open files: virtiofsd would raise it to 1000000 by default,
// and ends where it may not.
//
// Chroot, not namespace: mounts made later below the share must be seen.
// Submounts are not announced: the guest sees one filesystem, whose mountinfo
// root keeps the names of bind mounts. Files are found again by handle where
// their filesystem has handles, else each file the guest remembers would cost
// one of our open files: measured, a tree of 25,000 failed at 19,400 of 20,000
// (ENFILE) with --inode-file-handles=never, and takes 22 with prefer. A thread
// pool made no difference.
func VirtiofsdArgs(s vmm.Share, listen int, nofile uint64) []string {
	args := []string{
		fmt.Sprintf("--fd=%d", listen),
		"--shared-dir=" + s.Path,
		"--sandbox=chroot",
		"--cache=auto",
		"--no-announce-submounts",
		"--posix-acl", // and with it, extended attributes
		"--inode-file-handles=prefer",
		fmt.Sprintf("--rlimit-nofile=%d", nofile),
		"--log-level=warn",
	}
	if s.ReadOnly {
		args = append(args, "--readonly")
	}
	return args
}
