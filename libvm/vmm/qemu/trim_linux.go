package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/runm/runm/libvm/vmm"
)

// How TCG's translations are given back. QEMU forgets them all when a debugger's
// step has ended (gdbstub/system.c, gdb_vm_state_change: tb_flush), and then begins
// at the start of its buffer again, but keeps the buffer's memory. That is discarded
// when there is nothing in it.

const (
	// trimWorth is how many bytes of translations are worth a flush.
	trimWorth = 8 << 20
	// prologue is the start of the buffer, in bytes, which is never flushed: a page
	// of code by which QEMU enters and leaves translations.
	prologue = 64 << 10
	// trimTime bounds what QEMU itself does, which may be stopped for long, and must
	// then go on with what it was told.
	trimTime = time.Hour
)

var _ vmm.Trimmer = (*machine)(nil)

// Trim implements vmm.Trimmer: what TCG has translated is given back. ctx bounds
// how long the guest may take to wake up.
func (m *machine) Trim(ctx context.Context) error {
	if !m.emulated || !discards {
		return nil
	}
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), trimTime)
	defer cancel()
	size, err := m.translated(work)
	if err == nil && size >= trimWorth {
		err = m.trim(ctx, work)
	}
	if err != nil {
		return fmt.Errorf("qemu: trim: %w", err)
	}
	return nil
}

// trim has ctx for what the guest does, work for what QEMU does.
func (m *machine) trim(ctx, work context.Context) (err error) {
	stub, err := m.attach(work)
	// Attaching stops the machine, and may have done so when it fails.
	defer func() { err = errors.Join(err, m.detach(work)) }()
	if err != nil {
		return err
	}
	defer stub.conn.Close()
	if err := m.step(ctx, work, stub); err != nil {
		return cause(ctx, err)
	}
	// The flush is the first virtual CPU's to do, once it stands.
	for {
		size, err := m.translated(work)
		if err != nil {
			return err
		}
		if size == 0 {
			return m.discardTranslations()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// translated is how many bytes of translations QEMU has.
func (m *machine) translated(ctx context.Context) (int64, error) {
	var jit struct {
		Text string `json:"human-readable-text"`
	}
	if err := m.qmp.do(ctx, "x-query-jit", nil, &jit); err != nil {
		return 0, err
	}
	return parseTranslated(jit.Text)
}

func parseTranslated(text string) (size int64, err error) {
	const name = "gen code size"
	_, rest, found := strings.Cut(text, name)
	if !found {
		return 0, fmt.Errorf("x-query-jit: no %s", name)
	}
	if _, err := fmt.Sscanf(rest, "%d/", &size); err != nil {
		return 0, fmt.Errorf("x-query-jit: %s: %w", name, err)
	}
	return size, nil
}

// attach makes QEMU listen to a debugger, which stops the machine.
func (m *machine) attach(ctx context.Context) (*gdbStub, error) {
	ours, theirs, err := socketpair("debugger")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err := m.listen(ctx, theirs); err != nil {
		ours.Close()
		return nil, err
	}
	return &gdbStub{conn: ours, in: bufio.NewReader(ours)}, nil
}

// listen gives QEMU its end of the debugger's connection.
func (m *machine) listen(ctx context.Context, end *os.File) error {
	const name = "debugger"
	if err := m.qmp.pass(ctx, name, end); err != nil {
		return err
	}
	address := map[string]any{"type": "fd", "data": map[string]any{"str": name}}
	device := map[string]any{"type": "socket", "data": map[string]any{"addr": address, "server": false}}
	if err := m.qmp.do(ctx, "chardev-add", map[string]any{"id": name, "backend": device}, nil); err != nil {
		return err
	}
	said, err := m.human(ctx, "gdbserver chardev:"+name)
	if err != nil {
		return err
	}
	var now struct {
		Running bool `json:"running"`
	}
	if err := m.qmp.do(ctx, "query-status", nil, &now); err != nil {
		return err
	}
	if now.Running { // nobody would answer the debugger
		return fmt.Errorf("gdbserver: %s", said)
	}
	return nil
}

// detach takes QEMU's debugger away, with its device, and lets the machine go on.
// One that cannot is ended: it would stand still for ever.
func (m *machine) detach(ctx context.Context) error {
	// A step that is not over would stop the machine later; a stop ends it.
	err := m.command(ctx, "stop")
	_, herr := m.human(ctx, "gdbserver none")
	if err := errors.Join(err, herr, m.command(ctx, "cont")); err != nil {
		m.giveUp(fmt.Errorf("the machine was stopped, and does not go on: %w", err))
		return err
	}
	return nil
}

// human gives QEMU a command that QMP does not have, and returns what it says.
func (m *machine) human(ctx context.Context, command string) (said string, err error) {
	err = m.qmp.do(ctx, "human-monitor-command", map[string]any{"command-line": command}, &said)
	return strings.TrimSpace(said), err
}

// step lets the first virtual CPU execute one instruction. It takes interrupts and
// timers: one that waits for them is woken by the balloon, which is told to be as
// large as it is, or else wakes when it would.
func (m *machine) step(ctx, work context.Context, stub *gdbStub) error {
	answer, err := stub.ask("Qqemu.sstep=1")
	if err == nil && answer != "OK" {
		err = fmt.Errorf("debugger: steps with interrupts: %q", answer)
	}
	if err != nil {
		return err
	}
	if err := stub.send("s"); err != nil {
		return err
	}
	if m.balloonBytes > 0 {
		if err := m.qmp.do(work, "balloon", map[string]any{"value": m.balloonBytes}, nil); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { stub.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, err = stub.receive()
	if err == nil && !strings.HasPrefix(answer, "T05") { // SIGTRAP
		err = fmt.Errorf("debugger: the machine was stopped by %q", answer)
	}
	return err
}

// gdbStub is QEMU as a debugger sees it (the GDB manual, appendix "GDB Remote
// Serial Protocol").
type gdbStub struct {
	conn net.Conn
	in   *bufio.Reader
}

// ask sends a packet and returns the answer.
func (s *gdbStub) ask(packet string) (string, error) {
	if err := s.send(packet); err != nil {
		return "", err
	}
	return s.receive()
}

// send sends a packet, after it has acknowledged the one before.
func (s *gdbStub) send(packet string) error {
	var sum byte
	for _, c := range []byte(packet) {
		sum += c
	}
	_, err := fmt.Fprintf(s.conn, "+$%s#%02x", packet, sum)
	return err
}

// receive returns the next packet.
func (s *gdbStub) receive() (string, error) {
	if _, err := s.in.ReadSlice('$'); err != nil {
		return "", fmt.Errorf("debugger: %w", err)
	}
	packet, err := s.in.ReadSlice('#') // bufio.ErrBufferFull bounds it
	if err != nil {
		return "", fmt.Errorf("debugger: %w", err)
	}
	text := string(packet[:len(packet)-1])
	if _, err := s.in.Discard(2); err != nil {
		return "", fmt.Errorf("debugger: %w", err)
	}
	return text, nil
}

// discardTranslations gives the buffer's memory back. The machine stands, and has
// no translations: nothing is in the buffer but the prologue.
func (m *machine) discardTranslations() error {
	maps, err := readMaps(m.qemu.pid())
	if err != nil {
		return err
	}
	r, err := translations(maps)
	if err != nil {
		return err
	}
	return discard(m.qemu.pid(), r)
}

// translations is where a QEMU has its translations: the one memory of no file that
// is written and executed, in pieces with guards between them, one or more for each
// virtual CPU (tcg/region.c).
func translations(maps []mapping) (r memoryRange, err error) {
	for _, m := range maps {
		if m.path != "" || m.perms != "rwxp" && m.perms != "---p" {
			continue
		}
		switch {
		case m.perms == "rwxp" && r.end == 0:
			r = memoryRange{m.start, m.end}
		case m.start == r.end:
			r.end = m.end
		case m.perms == "rwxp":
			return r, errors.New("QEMU has two buffers of translations")
		}
	}
	if r.end-r.start <= prologue {
		return r, errors.New("QEMU has no buffer of translations")
	}
	r.start += prologue
	return r, nil
}

// memoryRange is from start up to, not including, end.
type memoryRange struct{ start, end uint64 }

// mapping is a line of /proc/PID/maps (proc_pid_maps(5)).
type mapping struct {
	memoryRange
	perms, path string
}

func readMaps(pid int) ([]mapping, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	return parseMaps(string(text))
}

func parseMaps(text string) ([]mapping, error) {
	var list []mapping
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 5 {
			return nil, fmt.Errorf("maps: %q", line)
		}
		m := mapping{perms: f[1], path: strings.Join(f[5:], " ")}
		if _, err := fmt.Sscanf(f[0], "%x-%x", &m.start, &m.end); err != nil {
			return nil, fmt.Errorf("maps: %q: %w", line, err)
		}
		list = append(list, m)
	}
	return list, nil
}
