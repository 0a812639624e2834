package qemu

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// DiscardArg0 is the name under which a program is the process that takes memory
// from its sibling, a QEMU: it calls DiscardMain. It must be a process of its own.
// Stops of a child that is traced by its parent are seen by all who wait for the
// child's end (Linux, kernel/exit.c, wait_consider_task).
const DiscardArg0 = "runm-discard"

// DiscardMain is that process. It returns its exit status.
func DiscardMain() int {
	pid, r, err := parseDiscard(os.Args[1:])
	if err == nil {
		err = discardMemory(pid, r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// discard makes a child, which must not have been waited for, give back what it has
// in a range of private memory.
func discard(pid int, r memoryRange) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{DiscardArg0}, discardArgs(pid, r)...)
	cmd.Env = []string{}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("discard memory of process %d: %w: %s", pid, err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

func discardArgs(pid int, r memoryRange) []string {
	return []string{strconv.Itoa(pid), strconv.FormatUint(r.start, 16), strconv.FormatUint(r.end, 16)}
}

func parseDiscard(args []string) (pid int, r memoryRange, err error) {
	_, err = fmt.Sscanf(strings.Join(args, " "), "%d %x %x", &pid, &r.start, &r.end)
	return pid, r, err
}

// isSibling makes sure that pid is a child of our parent: that nobody else has it
// meanwhile. It cannot change hands while we trace it.
func isSibling(pid int) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if parent, ok := strings.CutPrefix(line, "PPid:"); ok {
			if strings.TrimSpace(parent) == strconv.Itoa(os.Getppid()) {
				return nil
			}
			break
		}
	}
	return fmt.Errorf("process %d is somebody else's", pid)
}
