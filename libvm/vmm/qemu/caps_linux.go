package qemu

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// capSet is a set of capabilities, a bit for each (capabilities(7)).
type capSet uint64

func capsOf(caps ...int) capSet {
	var s capSet
	for _, c := range caps {
		s |= 1 << c
	}
	return s
}

// ownFiles is what 9p's passthrough model takes: to make files of any kind for
// anybody.
func ownFiles() capSet {
	return capsOf(unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_MKNOD)
}

// confine takes every capability but keep from the calling thread and from all
// that it executes, also as root, for good. The thread must be locked to its
// goroutine and must end with it. paths are files that what is executed must
// open: where it takes a capability to reach one (a program below a private
// home, run by root), CAP_DAC_READ_SEARCH is kept.
func confine(keep capSet, paths []string) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	have, err := permitted()
	if err != nil || have == 0 {
		return err
	}
	if err := setCaps(have, 0); err != nil {
		return err
	}
	for _, path := range paths {
		if err := unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK, unix.AT_EACCESS); err != nil {
			keep |= capsOf(unix.CAP_DAC_READ_SEARCH)
		}
	}
	// Dropping from the bounding set takes CAP_SETPCAP.
	if err := setCaps(have, have); err != nil {
		return err
	}
	for c := range 64 {
		if keep&capsOf(c) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) { // beyond the kernel's last
			break
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return setCaps(have&keep, have&keep)
}

// permitted returns the calling thread's permitted capabilities.
func permitted() (capSet, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return capSet(data[1].Permitted)<<32 | capSet(data[0].Permitted), nil
}

// setCaps sets the calling thread's capabilities; none are inheritable.
func setCaps(permitted, effective capSet) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Permitted: uint32(permitted), Effective: uint32(effective)},
		{Permitted: uint32(permitted >> 32), Effective: uint32(effective >> 32)},
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}
