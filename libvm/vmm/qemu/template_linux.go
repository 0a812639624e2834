package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/fileid"
	"github.com/runm/runm/libvm/trace"
	"github.com/runm/runm/libvm/vmm"
)

// How a machine is saved and loaded: QEMU's migration, with the capability
// x-ignore-shared, by which memory that is a file is not in the stream. What is
// in it, some 400 KiB of processors and devices, goes through a socket
// (docs/devel/migration of QEMU; docs/templates.md).

var _ vmm.Cloner = Driver{}

// memory says what a machine's memory is; zero is memory of QEMU's own.
type memory struct {
	file *os.File // the caller's
	// incoming: the file has a template's content.
	incoming bool
}

// add gives QEMU its memory.
func (mem memory) add(in *inherited, fds *FDs) error {
	if mem.file == nil {
		return nil
	}
	fd, err := unix.FcntlInt(mem.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	fds.Memory = in.add(os.NewFile(uintptr(fd), "memory"))
	fds.Incoming = mem.incoming
	return nil
}

// StartSavable implements vmm.Cloner.
func (d Driver) StartSavable(ctx context.Context, cfg *vmm.Config, file *os.File) (vmm.Savable, error) {
	m, err := d.start(ctx, cfg, memory{file: file})
	if err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	return m, nil
}

// Save implements vmm.Savable.
func (m *machine) Save(ctx context.Context, state io.Writer) error {
	if err := m.save(ctx, state); err != nil {
		return fmt.Errorf("qemu: save: %w", err)
	}
	return nil
}

func (m *machine) save(ctx context.Context, state io.Writer) error {
	if err := m.command(ctx, "stop"); err != nil {
		return err
	}
	stream, err := m.migrate(ctx, "migrate")
	if err != nil {
		return err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// Not to a file as such: Go would splice, and keep the pipes for later.
	if _, err := io.Copy(struct{ io.Writer }{state}, stream); err != nil {
		return cause(ctx, err)
	}
	return m.saved(ctx)
}

// Ready implements vmm.Savable.
func (m *machine) Ready(ctx context.Context) error {
	for {
		var devices []struct {
			Label string `json:"label"`
			Open  bool   `json:"frontend-open"`
		}
		if err := m.qmp.do(ctx, "query-chardev", nil, &devices); err != nil {
			return fmt.Errorf("qemu: %w", err)
		}
		for _, d := range devices {
			if d.Label == agentChardev && d.Open {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond): // nobody waits for a template
		}
	}
}

// saved says how the migration went whose stream QEMU has closed. It knows before
// it closes: the migration's thread sets the status, and then lets QEMU's main
// loop, which also answers here, clean up (QEMU, migration/migration.c).
func (m *machine) saved(ctx context.Context) error {
	var info struct {
		Status string `json:"status"`
		Error  string `json:"error-desc"`
	}
	if err := m.qmp.do(ctx, "query-migrate", nil, &info); err != nil {
		return err
	}
	if info.Status != "completed" {
		return fmt.Errorf("migration %s: %s", info.Status, info.Error)
	}
	return nil
}

// migrate begins to save ("migrate") or to load ("migrate-incoming"). It returns
// the stream that the state goes through, which the caller closes.
func (m *machine) migrate(ctx context.Context, command string) (net.Conn, error) {
	type capability struct {
		Name  string `json:"capability"`
		State bool   `json:"state"`
	}
	caps := map[string]any{"capabilities": []capability{{"x-ignore-shared", true}}}
	if err := m.qmp.do(ctx, "migrate-set-capabilities", caps, nil); err != nil {
		return nil, err
	}
	ours, theirs, err := socketpair("machine's state")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	const name = "state"
	if err := m.qmp.pass(ctx, name, theirs); err != nil {
		ours.Close()
		return nil, err
	}
	if err := m.qmp.do(ctx, command, map[string]any{"uri": "fd:" + name}, nil); err != nil {
		ours.Close()
		return nil, err
	}
	return ours, nil
}

// Clone implements vmm.Cloner.
func (d Driver) Clone(ctx context.Context, cfg *vmm.Config, t vmm.Template, copyMemory vmm.CopyMemory) (vmm.Machine, error) {
	m, err := d.clone(ctx, cfg, t, copyMemory)
	if err != nil {
		t.Close()
		return nil, fmt.Errorf("qemu: clone: %w", err)
	}
	return m, nil
}

// clone gives the machine a copy of the template's memory, also where no
// virtiofsd maps it. Mapped private, a hole of the template's file would be
// filled in that file as soon as a clone reads or writes there (Linux,
// do_cow_fault and shmem_fault): memory that the clone pays for once more, that
// stays, and that ends QEMU with SIGBUS where the tmpfs is full.
func (d Driver) clone(ctx context.Context, cfg *vmm.Config, t vmm.Template, copyMemory vmm.CopyMemory) (*machine, error) {
	fd, err := unix.MemfdCreate("runm-memory", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), "memory")
	if err := file.Truncate(int64(cfg.MemoryMiB) << 20); err != nil {
		file.Close()
		return nil, fmt.Errorf("memory: %w", err)
	}
	m, err := d.start(ctx, cfg, memory{file: file, incoming: true})
	if err != nil {
		file.Close()
		return nil, err
	}
	go m.load(trace.Lane(context.WithoutCancel(ctx), "load"), file, t, copyMemory)
	return m, nil
}

// load lets a machine that waits for it go on where t was saved. One that
// cannot be loaded is ended, with the reason for Wait.
func (m *machine) load(ctx context.Context, memory *os.File, t vmm.Template, copyMemory vmm.CopyMemory) {
	// How long is enough the caller says, who ends the machine then.
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	go func() {
		select {
		case <-m.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer t.Close()
	span := trace.Begin(ctx, "template's memory copied")
	err := copyMemory(ctx, memory, t.Memory) // while QEMU starts
	span.End()
	memory.Close()
	if err == nil {
		err = m.loadState(ctx, t.State)
	}
	if err != nil {
		m.giveUp(fmt.Errorf("load the template: %w", err))
	}
}

func (m *machine) loadState(ctx context.Context, state *os.File) error {
	span := trace.Begin(ctx, "QEMU takes migrate-incoming")
	stream, err := m.migrate(ctx, "migrate-incoming")
	span.End()
	if err != nil {
		return err
	}
	defer stream.Close()
	defer trace.Begin(ctx, "state sent").End()
	_, err = io.Copy(stream, io.NewSectionReader(state, 0, maxState))
	return err
}

// loadTimeout bounds what nobody else does.
const loadTimeout = time.Hour

// maxState bounds the state of a machine in bytes: ten times what it ever was.
const maxState = 4 << 20

// Shape implements vmm.Cloner: QEMU's arguments, the CPU where they do not name
// it, and the identity of every file.
func (d Driver) Shape(cfg *vmm.Config) (string, error) {
	if err := d.probe(); err != nil {
		return "", err
	}
	same := *cfg
	same.Shares = slices.Clone(cfg.Shares)
	for i := range same.Shares {
		same.Shares[i].Path = "/"
	}
	fds := FDs{}
	for range same.NICs {
		fds.NICs = append(fds.NICs, 0)
		if wantsVhostNet(cfg, d.Host) {
			fds.VhostNet = append(fds.VhostNet, 0)
		}
	}
	for range same.Disks {
		fds.Disks = append(fds.Disks, DiskFD{})
	}
	files := []string{d.QEMU, cfg.Kernel, cfg.Initrd}
	for _, s := range same.Shares {
		if s.Type == vmm.ShareVirtiofs {
			fds.Virtiofs = append(fds.Virtiofs, 0)
			files = append(files, d.Virtiofsd)
		}
	}
	args, err := Args(&same, d.Host, fds)
	if err != nil {
		return "", fmt.Errorf("qemu: %w", err)
	}
	h := sha256.New()
	fmt.Fprintln(h, strings.Join(args, "\n"))
	if cfg.Accel == vmm.AccelKVM {
		fmt.Fprintln(h, d.Host.CPU) // the guest has this one
	}
	for _, file := range files {
		id, err := fileid.Of(file)
		if err != nil {
			return "", fmt.Errorf("qemu: %w", err)
		}
		fmt.Fprintln(h, id)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
