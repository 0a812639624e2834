//go:build linux

package template

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/fileid"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/vmm"
)

// Make makes the template of cfg's shape, unless it is there: it boots a machine
// without a container, saves it and ends it. Only one process makes a template
// at a time. If it is wanted, which is that somebody waits for it, Make waits for
// its turn; else it returns ErrBusy, and its machine yields to all others. On
// error nothing is left.
//
// The caller has a network namespace of its own, where the NICs of cfg have
// their taps.
func (s Store) Make(ctx context.Context, d vmm.Cloner, cfg *vmm.Config, wanted bool) (err error) {
	root, err := s.open(true)
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := lock(ctx, root, wanted)
	if err != nil {
		return err
	}
	defer unlock()
	shape, err := d.Shape(cfg)
	if err != nil {
		return err
	}
	key := Key(shape)
	if t, err := find(root, key); err == nil {
		t.Close()
		return nil
	}
	// What an earlier one left that was killed, and what is broken.
	for _, name := range []string{newDir, key} {
		if err := root.RemoveAll(name); err != nil {
			return fmt.Errorf("templates: %w", err)
		}
	}
	if err := s.makeRoom(root, cfg.MemoryMiB); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.RemoveAll(newDir)) }()
	if err := s.build(ctx, root, d, cfg, wanted); err != nil {
		return err
	}
	// What was booted is what the shape names, if nothing was replaced meanwhile.
	if again, err := d.Shape(cfg); err != nil || again != shape {
		return errors.Join(errors.New("kernel, initramfs or QEMU was replaced while the template was made"), err)
	}
	if err := root.Rename(newDir, key); err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	return s.evict(root, key)
}

// room is how much a guest with so many MiB may take while it boots, in bytes:
// twice what was measured for one of 512 MiB, and the descriptors of its pages,
// 64 bytes for each of 4 KiB. A file system that is full is everybody's trouble.
func room(memoryMiB int) int64 {
	memory := int64(memoryMiB) << 20
	return min(120<<20+memory/64, memory)
}

// makeRoom removes what is of no use any more, and as many of the least recently
// used templates as stand in the way of another one. It removes none where that
// would not be enough.
func (s Store) makeRoom(root *os.Root, memoryMiB int) error {
	need := room(memoryMiB)
	// The guest's memory, and as much for QEMU: whoever runs out of it here is
	// hardly the one who would be missed least.
	if err := checkMemory(2 * need); err != nil {
		return err
	}
	if err := s.evict(root, ""); err != nil {
		return err
	}
	all, err := list(root)
	if err != nil {
		return err
	}
	free, err := freeBytes(root)
	if err != nil {
		return err
	}
	possible := free
	for _, a := range all {
		possible += a.Bytes
	}
	if possible < need {
		return fmt.Errorf("templates: %s has %d MiB free, a template takes up to %d: make room, or set template_dir",
			root.Name(), free>>20, need>>20)
	}
	for _, a := range slices.Backward(all) {
		if free >= need {
			break
		}
		if err := root.RemoveAll(a.Key); err != nil {
			return fmt.Errorf("remove template %s: %w", a.Key, err)
		}
		free += a.Bytes
	}
	return nil
}

// checkMemory refuses to make a template where the host has hardly any memory
// left.
func checkMemory(need int64) error {
	available, err := proc.AvailableMemory()
	if err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	if available < need {
		return fmt.Errorf("templates: %d MiB of the host's memory are available, to make a template takes up to %d",
			available>>20, need>>20)
	}
	return nil
}

// freeBytes is how much can be written to the store's file system.
func freeBytes(root *os.Root) (int64, error) {
	dir, err := root.Open(".")
	if err != nil {
		return 0, fmt.Errorf("templates: %w", err)
	}
	defer dir.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return 0, fmt.Errorf("templates: %w", err)
	}
	if st.Blocks == 0 { // a tmpfs without a limit
		return math.MaxInt64 >> 1, nil
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Tidy removes what a builder that was killed has left, and the failures, unless a template is being made.
func (s Store) Tidy(ctx context.Context) error {
	root, err := s.open(false)
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := lock(ctx, root, false)
	if errors.Is(err, ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if err := root.RemoveAll(newDir); err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	return forgetFailures(root)
}

// lock takes the store's lock.
func lock(ctx context.Context, root *os.Root, wait bool) (unlock func() error, err error) {
	f, err := root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if err == unix.EWOULDBLOCK && !wait {
			err = ErrBusy
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			f.Close()
			return nil, fmt.Errorf("templates: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond): // flock(2) has no time-out
		}
	}
}

// build makes the template in newDir.
func (s Store) build(ctx context.Context, root *os.Root, d vmm.Cloner, cfg *vmm.Config, wanted bool) error {
	share := filepath.Join(newDir, "share")
	for _, dir := range []string{newDir, share} {
		if err := root.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("templates: %w", err)
		}
	}
	memory, err := root.OpenFile(filepath.Join(newDir, memoryFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	defer memory.Close()
	if err := memory.Truncate(int64(cfg.MemoryMiB) << 20); err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	state, err := root.OpenFile(filepath.Join(newDir, stateFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	defer state.Close()
	if err := s.save(ctx, d, machine(cfg, filepath.Join(s.Dir, share)), memory, state, wanted); err != nil {
		return err
	}
	if err := punchZeros(memory); err != nil {
		return err
	}
	if err := root.Remove(share); err != nil { // empty: the guest has mounted nothing
		return fmt.Errorf("templates: %w", err)
	}
	return writeAbout(root, cfg, memory, state)
}

// machine is cfg with an empty share, and told what it is for.
func machine(cfg *vmm.Config, share string) *vmm.Config {
	c := *cfg
	c.Cmdline = append([]string{api.TemplateParameter}, cfg.Cmdline...)
	c.Shares = append([]vmm.Share(nil), cfg.Shares...)
	for i := range c.Shares {
		c.Shares[i].Path = share
	}
	return &c
}

// save boots the machine and saves it.
func (s Store) save(ctx context.Context, d vmm.Cloner, cfg *vmm.Config, memory, state *os.File, wanted bool) (err error) {
	m, err := d.StartSavable(ctx, cfg, memory)
	if err != nil {
		return fmt.Errorf("start the template's machine: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan error, 1)
	go func() {
		err := m.Wait()
		cancel(errors.Join(errors.New("the template's machine has ended"), err))
		ended <- err
	}()
	if p, ok := m.(vmm.Processes); ok && !wanted {
		for _, pid := range p.Pids() {
			err = errors.Join(err, yield(pid))
		}
	}
	if err == nil {
		err = m.Ready(ctx)
	}
	if err == nil {
		err = settle(ctx, memory, cmp.Or(s.settled, quiet(cfg.MemoryMiB)))
	}
	if err == nil {
		err = m.Save(ctx, state)
	}
	if err != nil {
		// That the machine has ended may be heard of later, and says more.
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-time.After(endGrace):
		}
	}
	m.Kill()
	return errors.Join(err, <-ended)
}

// endGrace is how long a machine that does not do what it should may take to
// end, and to say why.
const endGrace = time.Second

// settling bounds how long a guest may take to give back what it does not use.
const settling = time.Minute

// quiet is how long the memory of a guest with so many MiB does not change when
// the guest has given back what it does not use, which every clone would copy. It
// does so by free page reporting (Linux, mm/page_reporting.c): every 2 s it names
// blocks of 4 MiB, 32 at a time and 1 + blocks/512 times, rounded up. Blocks that
// nobody has touched change nothing, so all but one such turn may be silent.
func quiet(memoryMiB int) time.Duration {
	const turn, once, margin = 2 * time.Second, 32, time.Second
	blocks := (memoryMiB + 3) / 4
	each := once * (1 + (blocks+16*once-1)/(16*once))
	turns := (blocks + each - 1) / each
	return time.Duration(turns+1)*turn + margin
}

// settle waits until the guest gives no more memory back.
func settle(ctx context.Context, memory *os.File, settled time.Duration) error {
	var last, now unix.Stat_t
	for began, since := time.Now(), time.Now(); time.Since(since) < settled && time.Since(began) < settling; {
		if err := unix.Fstat(int(memory.Fd()), &now); err != nil {
			return fmt.Errorf("templates: %w", err)
		}
		if now.Blocks != last.Blocks {
			last, since = now, time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond): // files in memory tell nobody
		}
	}
	return nil
}

func writeAbout(root *os.Root, cfg *vmm.Config, memory, state *os.File) error {
	a := About{
		Created: time.Now().UTC(), CPUs: cfg.CPUs, MemoryMiB: cfg.MemoryMiB, NICs: len(cfg.NICs),
		Accel: cfg.Accel, Kernel: cfg.Kernel, Booted: map[string]string{},
	}
	for _, path := range []string{cfg.Kernel, cfg.Initrd} {
		if path == "" {
			continue // not on the host
		}
		id, err := fileid.Of(path)
		if err != nil {
			return fmt.Errorf("templates: %w", err)
		}
		a.Booted[path] = id
	}
	if len(cfg.Shares) > 0 {
		a.Share = string(cfg.Shares[0].Type)
	}
	for _, f := range []struct {
		file *os.File
		id   *string
	}{{memory, &a.Memory}, {state, &a.State}} {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.file.Fd()), &st); err != nil {
			return fmt.Errorf("templates: %w", err)
		}
		a.Bytes += st.Blocks * 512
		id, err := fileid.OfOpen(f.file)
		if err != nil {
			return fmt.Errorf("templates: %w", err)
		}
		*f.id = id
	}
	data, err := json.MarshalIndent(a, "", "\t")
	if err == nil {
		err = root.WriteFile(filepath.Join(newDir, aboutFile), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	return nil
}
