//go:build linux

package faults

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	manager    = "org.freedesktop.systemd1.Manager"
	properties = "org.freedesktop.DBus.Properties"
)

// A systemd stands for the one that the tests' host need not have: it knows
// transient units, and moves processes in the hierarchies that are systemd's own.
type systemd struct {
	*box
	slice    string
	listener net.Listener

	mu    sync.Mutex // protects what follows
	conns []net.Conn
	jobs  int
	units map[string]*transient
	// said are the methods that were called and are not known.
	said []string
}

// transient is a unit.
type transient struct {
	properties         map[string]dbus.Variant
	started, attached  []uint32
	changed, destroyed int
}

// newSystemd makes a box whose commands find a systemd in a /run of their own.
func newSystemd(t *testing.T) *systemd {
	t.Helper()
	b := newBox(t)
	socket := filepath.Join(t.TempDir(), "systemd") // not the box's, which is looked at while this runs
	s := &systemd{box: b, slice: filepath.Base(b.dir) + ".slice", units: map[string]*transient{}}
	const run = `mount -t tmpfs faults /run && mkdir -p /run/systemd/system &&
		ln -s "$0" /run/systemd/private && exec "$@"`
	b.runm = []string{"unshare", "--mount", "sh", "-c", run, socket, tools.runm, "--systemd-cgroup"}
	var err error
	s.listener, err = net.Listen("unix", socket)
	b.must(err)
	var served sync.WaitGroup
	served.Go(func() { s.listen(&served) })
	t.Cleanup(func() {
		s.listener.Close()
		s.hangUp()
		served.Wait()
		dirs, err := filepath.Glob("/sys/fs/cgroup/*/" + s.slice)
		b.must(err)
		for _, dir := range append(dirs, "/sys/fs/cgroup/"+s.slice) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
		if len(s.said) > 0 {
			t.Errorf("this systemd does not know %q", s.said)
		}
	})
	return s
}

// hangUp ends all connections, as systemd does when it executes itself anew.
func (s *systemd) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *systemd) listen(served *sync.WaitGroup) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		served.Go(func() {
			// The end of a command is the end of its connection.
			if err := s.serve(c); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.t.Log("systemd: ", err)
			}
		})
	}
}

// serve speaks D-Bus with one client.
func (s *systemd) serve(c net.Conn) error {
	in := bufio.NewReader(c)
	for began := false; !began; {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		answer := "ERROR\r\n"
		switch word := strings.Fields(strings.Trim(line, "\x00\r\n")); {
		case len(word) == 2 && word[0] == "AUTH":
			answer = "DATA \r\n"
		case word[0] == "AUTH":
			answer = "REJECTED EXTERNAL\r\n"
		case word[0] == "DATA":
			answer = "OK 0123456789abcdef0123456789abcdef\r\n"
		case word[0] == "BEGIN":
			began = true
			continue
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return err
		}
	}
	for {
		call, err := dbus.DecodeMessage(in)
		if err != nil {
			return err
		}
		if err := s.answer(c, call); err != nil {
			return err
		}
	}
}

// answer answers a call, and says that its job has ended.
func (s *systemd) answer(c net.Conn, call *dbus.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, job, err := s.call(call)
	reply := dbus.Message{
		Type:    dbus.TypeMethodReply,
		Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(call.Serial())},
		Body:    body,
	}
	var derr dbus.Error
	if errors.As(err, &derr) {
		reply.Type, reply.Body = dbus.TypeError, derr.Body
		reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant(derr.Name)
	}
	if err := send(c, &reply); err != nil || job == "" {
		return err
	}
	s.jobs++
	for _, c := range s.conns {
		_ = send(c, &dbus.Message{ // some have ended
			Type: dbus.TypeSignal,
			Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1")),
				dbus.FieldInterface: dbus.MakeVariant(manager), dbus.FieldMember: dbus.MakeVariant("JobRemoved"),
			},
			Body: []any{uint32(s.jobs), body[0], job, "done"},
		})
	}
	return nil
}

func send(c net.Conn, m *dbus.Message) error {
	if len(m.Body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(m.Body...))
	}
	var out strings.Builder
	if err := m.EncodeTo(&out, binary.LittleEndian); err != nil {
		return err
	}
	_, err := io.WriteString(c, out.String())
	return err
}

// call does what is asked. job is the unit of a job that has ended, if any.
func (s *systemd) call(m *dbus.Message) (body []any, job string, err error) {
	header := func(f dbus.HeaderField) string {
		text, _ := m.Headers[f].Value().(string)
		return text
	}
	name := ""
	if len(m.Body) > 0 {
		name, _ = m.Body[0].(string)
	}
	u := s.units[name]
	failed := func(kind string) error {
		return dbus.Error{Name: "org.freedesktop.systemd1." + kind, Body: []any{name}}
	}
	ended := []any{dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", s.jobs+1))}
	switch method := header(dbus.FieldInterface) + "." + header(dbus.FieldMember); method {
	case "org.freedesktop.DBus.AddMatch", manager + ".ResetFailedUnit":
		return nil, "", nil
	case properties + ".Get":
		switch m.Body[1] {
		case "Version":
			return []any{dbus.MakeVariant("252")}, "", nil
		case "DevicePolicy":
			return []any{dbus.MakeVariant("auto")}, "", nil
		case "DeviceAllow":
			return []any{dbus.MakeVariant([]struct{ A, B string }{})}, "", nil
		}
		s.said = append(s.said, fmt.Sprint(method, m.Body))
		return nil, "", failed("NoSuchProperty")
	case manager + ".StartTransientUnit":
		if u != nil && u.destroyed == 0 {
			return nil, "", failed("UnitExists")
		}
		u = &transient{properties: map[string]dbus.Variant{}}
		for _, p := range m.Body[2].([][]any) {
			u.properties[p[0].(string)] = p[1].(dbus.Variant)
		}
		s.units[name] = u
		u.started, _ = u.properties["PIDs"].Value().([]uint32)
		return ended, name, s.move(name, u.started)
	case manager + ".AttachProcessesToUnit":
		if u == nil {
			return nil, "", failed("NoSuchUnit")
		}
		pids := m.Body[2].([]uint32)
		u.attached = append(u.attached, pids...)
		return nil, "", s.move(name, pids)
	case manager + ".SetUnitProperties":
		u.changed++
		return nil, "", nil
	case manager + ".StopUnit":
		u.destroyed++
		return ended, name, nil
	default:
		s.said = append(s.said, method)
		return nil, "", failed("UnknownMethod")
	}
}

// own are the hierarchies that systemd itself puts processes into.
func (s *systemd) own(unit string) (dirs []string) {
	for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(top, "cgroup.procs")); err == nil {
			dirs = append(dirs, filepath.Join(top, s.slice, unit))
		}
	}
	return dirs
}

func (s *systemd) move(unit string, pids []uint32) error {
	for _, dir := range s.own(unit) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return dbus.MakeFailedError(err)
		}
		for _, pid := range pids {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(int(pid))), 0); err != nil {
				return dbus.MakeFailedError(err)
			}
		}
	}
	return nil
}

// unit is a container's, as it is now.
func (s *systemd) unit(c *container) (string, transient) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	name := "runm-" + c.id + ".scope"
	if s.units[name] == nil {
		s.t.Fatalf("there is no unit %s", name)
	}
	return name, *s.units[name]
}

// want asserts that a container's unit was started once, for its holder, and that
// pids were attached to it; and that all are in it, in every hierarchy.
func (s *systemd) want(c *container, attached ...int) {
	s.t.Helper()
	name, u := s.unit(c)
	holder := c.hostPids()["holder"]
	if len(u.started) != 1 || int(u.started[0]) != holder {
		s.t.Errorf("%s was started with the processes %v, want the holder, %d", name, u.started, holder)
	}
	var got []int
	for _, pid := range u.attached {
		got = append(got, int(pid))
	}
	slices.Sort(got)
	slices.Sort(attached)
	if !slices.Equal(got, attached) {
		s.t.Errorf("attached to %s: %v, want %v", name, got, attached)
	}
	for _, pid := range append(attached, holder) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		s.must(err)
		for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
			if path := strings.SplitN(line, ":", 3)[2]; path != "/"+s.slice+"/"+name {
				s.t.Errorf("%q: %s", commandLine(pid), line)
			}
		}
	}
}

// scope makes c one whose cgroup is a scope in the box's slice.
func (s *systemd) scope(c *container) *container {
	c.spec.Linux.CgroupsPath = s.slice + ":runm:" + c.id
	limit := int64(128 << 20)
	c.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	return c
}

// With --systemd-cgroup a unit is made once, with its properties, and has the
// machine in it, wherever that moves.
func TestSystemdCgroup(t *testing.T) {
	t.Parallel()
	s := newSystemd(t)
	sandbox := s.scope(s.box.sandbox())
	sandbox.spec.Annotations = map[string]string{
		"org.systemd.property.TimeoutStopSec": "7",
		"dev.runm.template":                   "off", // else the monitor's /run is kept for the templates
	}
	sandbox.up()
	pids := sandbox.processes()
	s.want(sandbox, pids["qemu"], pids["virtiofsd"])
	_, u := s.unit(sandbox)
	if got := u.properties["TimeoutStopUSec"].Value(); got != uint64(7_000_000) {
		t.Errorf("TimeoutStopUSec is %v", got)
	}
	if got := u.properties["Slice"].Value(); got != s.slice {
		t.Errorf("Slice is %v, want %s", got, s.slice)
	}
	s.hangUp()
	sandbox.runs("update", "--pids-limit", "100", sandbox.id)
	if _, now := s.unit(sandbox); now.changed <= u.changed {
		t.Error("update does not tell systemd")
	}
	if n := len(sandbox.scores(3)); n != 3 {
		t.Errorf("ps lists %d processes, want holder, QEMU and virtiofsd", n)
	}

	member := s.scope(sandbox.member("echo up; exec sleep 1000", specs.NetworkNamespace))
	member.up()
	s.want(member)
	sandbox.runs("delete", "--force", sandbox.id)
	s.want(member, pids["qemu"], pids["virtiofsd"])
	member.runs("delete", "--force", member.id)
	for _, c := range []*container{sandbox, member} {
		if name, u := s.unit(c); u.destroyed != 1 {
			t.Errorf("%s was stopped %d times", name, u.destroyed)
		}
	}
	s.wantNothing()
}
