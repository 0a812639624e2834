//go:build linux

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var errShm = errors.New("not a shared memory directory")

// shms are the directories for POSIX shared memory (shm_overview(7)) that
// containers of this guest share by name. They live as long as the guest.
type shms struct {
	mu   sync.Mutex
	dir  string // api.ShmDir
	made map[string]bool
}

func newShms(dir string) *shms { return &shms{dir: dir, made: map[string]bool{}} }

// prepare makes those that spec names.
func (s *shms) prepare(spec *specs.Spec) error {
	for _, m := range spec.Mounts {
		rest, ok := strings.CutPrefix(m.Source, s.dir+"/")
		if !ok {
			continue
		}
		number, name, _ := strings.Cut(rest, "/")
		size, err := strconv.ParseUint(number, 10, 63)
		if err != nil || !filepath.IsLocal(name) || name == "." {
			return fmt.Errorf("%w: %q", errShm, m.Source)
		}
		if err := s.make(m.Source, size); err != nil {
			return fmt.Errorf("shared memory: %w", err)
		}
	}
	return nil
}

func (s *shms) make(dir string, size uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made[dir] {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("shm", dir, "tmpfs", flags, fmt.Sprintf("mode=1777,size=%d", size)); err != nil {
		return err
	}
	s.made[dir] = true
	return nil
}
