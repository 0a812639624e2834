// Package qemu runs machines with QEMU: microvm on amd64, virt on arm64, with
// KVM where it is real and TCG elsewhere. Shares come from virtiofsd, or from
// QEMU's own 9p server. docs/drivers.md says which flags and why.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/trace"
	"github.com/runm/runm/libvm/undo"
	"github.com/runm/runm/libvm/vmm"
)

// Driver is a blueprint: it holds nothing open.
type Driver struct {
	QEMU      string // absolute path of qemu-system-x86_64 or -aarch64
	Virtiofsd string // absolute path of virtiofsd; for virtiofs shares only
	// RunDir is an existing directory for sockets that live for the length
	// of Start; the system's temporary directory when empty.
	RunDir string
	Host   Host // facts of the host; Start probes when zero
}

var _ vmm.Driver = Driver{}

// Name implements vmm.Driver.
func (Driver) Name() string { return "qemu" }

// Start implements vmm.Driver. It returns when QEMU has been executed and does
// not wait for anything QEMU does: what QEMU objects to comes from Wait.
func (d Driver) Start(ctx context.Context, cfg *vmm.Config) (vmm.Machine, error) {
	m, err := d.start(ctx, cfg, memory{})
	if err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	return m, nil
}

func (d Driver) start(ctx context.Context, cfg *vmm.Config, mem memory) (m *machine, err error) {
	in := &inherited{}
	defer in.close()
	fds := in.adopt(cfg)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.prepare(cfg); err != nil {
		return nil, err
	}
	if err := mem.add(in, &fds); err != nil {
		return nil, err
	}
	if err := in.open(cfg, d.Host, &fds); err != nil {
		return nil, err
	}

	m = &machine{console: newTail(consoleTail), ended: make(chan struct{}), emulated: cfg.Accel == vmm.AccelTCG}
	if hasBalloon(cfg, d.Host) {
		m.balloonBytes = int64(cfg.MemoryMiB) << 20
	}
	var u undo.Stack
	defer func() { err = errors.Join(err, u.Run()) }()
	if err := m.connect(in, &fds, &u); err != nil {
		return nil, err
	}
	daemons, err := d.daemons(cfg.Shares, in, &fds)
	defer closeListeners(daemons)
	if err != nil {
		return nil, err
	}
	args, err := Args(cfg, d.Host, fds)
	if err != nil {
		return nil, err
	}
	if err := d.launch(ctx, m, daemons, program{
		name: "QEMU", path: d.QEMU, args: args, env: []string{qemuMalloc}, files: in.files,
		confine: func() error { return confine(qemuCaps(cfg, d.Host), []string{d.QEMU, cfg.Kernel, cfg.Initrd}) },
	}, &u); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	u.Keep()
	go m.supervise()
	return m, nil
}

// prepare checks what must be there before anything is made, and completes
// the driver's facts.
func (d *Driver) prepare(cfg *vmm.Config) error {
	for i, disk := range cfg.Disks {
		if disk.File == nil {
			return fmt.Errorf("disk %d has no file", i)
		}
	}
	for i, nic := range cfg.NICs {
		if nic.File == nil {
			return fmt.Errorf("network interface %d has no tap", i)
		}
	}
	if err := installed("QEMU", d.QEMU, "install qemu-system or run hack/deps.sh"); err != nil {
		return err
	}
	if hasVirtiofs(cfg.Shares) {
		if err := installed("virtiofsd", d.Virtiofsd, "install virtiofsd or run hack/deps.sh"); err != nil {
			return err
		}
	}
	for _, s := range cfg.Shares {
		if fi, err := os.Stat(s.Path); err != nil {
			return fmt.Errorf("share %q: %w", s.Tag, err)
		} else if !fi.IsDir() {
			return fmt.Errorf("share %q: %s: %w", s.Tag, s.Path, unix.ENOTDIR)
		}
	}
	return d.probe()
}

// probe completes the driver's facts.
func (d *Driver) probe() (err error) {
	if d.Host == (Host{}) {
		d.Host, err = Probe()
	}
	return err
}

// daemon is a virtiofsd that has not been started: its share and the socket it
// will listen on.
type daemon struct {
	share    vmm.Share
	listener *os.File
}

func closeListeners(daemons []daemon) {
	for _, d := range daemons {
		d.listener.Close()
	}
}

// daemons makes the sockets between QEMU and one virtiofsd for each virtiofs
// share. The caller closes the listeners, also those returned with an error.
func (d Driver) daemons(shares []vmm.Share, in *inherited, fds *FDs) ([]daemon, error) {
	var list []daemon
	for _, s := range shares {
		if s.Type != vmm.ShareVirtiofs {
			continue
		}
		listener, client, err := connectedListener(d.RunDir)
		if err != nil {
			return list, fmt.Errorf("share %q: %w", s.Tag, err)
		}
		list = append(list, daemon{share: s, listener: listener})
		fds.Virtiofs = append(fds.Virtiofs, in.add(client))
	}
	return list, nil
}

// launch starts the daemons and QEMU without waiting for either: QEMU's
// request is already in the daemon's queue.
func (d Driver) launch(ctx context.Context, m *machine, daemons []daemon, qemu program, u *undo.Stack) error {
	u.Push(m.destroy)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	for _, fs := range daemons {
		p, err := launch(program{
			name: "virtiofsd", path: d.Virtiofsd,
			args:  VirtiofsdArgs(fs.share, firstFD, limit.Max),
			files: []*os.File{fs.listener},
			spans: trace.From(ctx),
		})
		if err != nil {
			return err
		}
		m.daemons = append(m.daemons, p)
	}
	qemu.spans = trace.From(ctx)
	var err error
	m.qemu, err = launch(qemu)
	return err
}

// qemuCaps is what QEMU needs beyond its descriptors: nothing, unless it
// serves files itself.
func qemuCaps(cfg *vmm.Config, host Host) capSet {
	for _, s := range cfg.Shares {
		if s.Type == vmm.Share9p && host.Root {
			return ownFiles()
		}
	}
	return 0
}

// installed returns an error that wraps vmm.ErrNotInstalled when path is no
// file that can be executed.
func installed(what, path, hint string) error {
	if path == "" {
		return fmt.Errorf("%s: %w: no path is configured; %s", what, vmm.ErrNotInstalled, hint)
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return fmt.Errorf("%s: %w: %s: %w; %s", what, vmm.ErrNotInstalled, path, err, hint)
	}
	return nil
}

// firstFD is the number of the first descriptor a child inherits on purpose.
const firstFD = 3

// inherited collects the descriptors that QEMU gets, in order.
type inherited struct{ files []*os.File }

// add takes f over and returns the number QEMU knows it by.
func (in *inherited) add(f *os.File) int {
	in.files = append(in.files, f)
	return firstFD + len(in.files) - 1
}

// close closes our copies; QEMU keeps its own.
func (in *inherited) close() {
	for _, f := range in.files {
		f.Close()
	}
}

// adopt takes over the config's files. Missing ones are reported by prepare.
func (in *inherited) adopt(cfg *vmm.Config) FDs {
	var fds FDs
	for _, d := range cfg.Disks {
		if d.File == nil {
			continue
		}
		fi, err := d.File.Stat()
		fds.Disks = append(fds.Disks, DiskFD{
			FD:     in.add(d.File),
			Device: err == nil && fi.Mode()&os.ModeDevice != 0,
		})
	}
	for _, n := range cfg.NICs {
		if n.File != nil {
			fds.NICs = append(fds.NICs, in.add(n.File))
		}
	}
	return fds
}

// open opens the files that the config names.
func (in *inherited) open(cfg *vmm.Config, host Host, fds *FDs) error {
	if err := in.openKernel(cfg, fds); err != nil {
		return err
	}
	if !wantsVhostNet(cfg, host) {
		return nil
	}
	for range cfg.NICs {
		file, err := os.OpenFile(vhostNetDevice, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("vhost-net: %w", err)
		}
		fds.VhostNet = append(fds.VhostNet, in.add(file))
	}
	return nil
}

// openKernel opens what a machine boots. A clone has booted.
func (in *inherited) openKernel(cfg *vmm.Config, fds *FDs) error {
	if fds.Incoming {
		return nil
	}
	for _, f := range []struct {
		name, path, hint string
		fd               *int
	}{
		{"kernel", cfg.Kernel, "run make kernel or install runm's kernel", &fds.Kernel},
		{"initrd", cfg.Initrd, "run make agent or install runm's initramfs", &fds.Initrd},
	} {
		file, err := os.Open(f.path)
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s: %w: %w; %s", f.name, vmm.ErrNotInstalled, err, f.hint)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		*f.fd = in.add(file)
	}
	return nil
}

// connect makes the machine's channels: our ends in m, QEMU's in in.
func (m *machine) connect(in *inherited, fds *FDs, u *undo.Stack) error {
	channel := func(name string, fd *int) (net.Conn, error) {
		ours, theirs, err := socketpair(name)
		if err != nil {
			return nil, err
		}
		u.Push(ours.Close)
		*fd = in.add(theirs)
		return ours, nil
	}
	var err error
	if m.agent, err = channel("agent's stream", &fds.Agent); err != nil {
		return err
	}
	if m.consoleConn, err = channel("console", &fds.Console); err != nil {
		return err
	}
	control, err := channel("QMP", &fds.QMP)
	if err != nil {
		return err
	}
	m.qmp = newQMP(control)
	return nil
}
