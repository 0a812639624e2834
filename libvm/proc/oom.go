//go:build linux

package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const oomFile = "oom_score_adj"

// OOMScoreAdj is how soon the kernel kills the calling process where memory runs
// out, from -1000, never, to 1000, first (proc_pid_oom_score_adj(5)). Children
// inherit it.
func OOMScoreAdj() (int, error) {
	text, err := os.ReadFile("/proc/self/" + oomFile)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// SetOOMScoreAdj sets it for a process that has executed: until then it shares
// its parent's memory, and the parent would get the same. The error is
// os.ErrProcessDone if the process has ended, and os.ErrPermission if adj is less
// than anybody with CAP_SYS_RESOURCE has set.
func (p ID) SetOOMScoreAdj(adj int) error {
	// The directory stays the process's, whoever has the pid next.
	dir, err := os.OpenRoot("/proc/" + strconv.Itoa(p.Pid))
	if err == nil {
		defer dir.Close()
		if !p.Alive() {
			return os.ErrProcessDone
		}
		err = dir.WriteFile(oomFile, []byte(strconv.Itoa(adj)), 0)
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", p.Pid, err)
	}
	return nil
}
