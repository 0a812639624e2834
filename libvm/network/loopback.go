//go:build linux

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// maxLoopback bounds how many connections to the guest's loopback there are at a
// time. Others wait to be accepted.
const maxLoopback = 64

// Loopback has the TCP connections that are made in the namespace, on the host,
// to its loopback: 127.0.0.0/8 but api.Resolver, and ::1. Nobody listens there;
// the servers that clients mean (kubectl port-forward) are in the guest. A BPF
// program gives all of them, whatever their port, to our sockets.
type Loopback struct {
	steering  io.Closer
	listeners []*net.TCPListener
}

// ListenLoopback takes the namespace's loopback over until Close, or the end of
// this process. It takes Linux 5.9 (BPF_PROG_TYPE_SK_LOOKUP).
func (n *Namespace) ListenLoopback() (_ *Loopback, err error) {
	l := &Loopback{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("connections to the guest's loopback: %w", errors.Join(err, l.Close()))
		}
	}()
	sockets, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 2})
	if err != nil {
		return nil, err
	}
	defer sockets.Close() // the program has it
	for _, at := range []struct {
		network, address string
		key              uint32
	}{{"tcp4", "127.0.0.1:0", keyIP4}, {"tcp6", "[::1]:0", keyIP6}} {
		listener, err := n.listen(at.network, at.address)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		l.listeners = append(l.listeners, listener)
		if err := put(sockets, at.key, listener); err != nil {
			return nil, fmt.Errorf("hand over the socket: %w", err)
		}
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "runm_loopback", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup,
		License: "Apache-2.0", Instructions: steer(sockets.FD()),
	})
	if err != nil {
		return nil, err
	}
	defer program.Close() // the link has it
	steering, err := link.AttachNetNs(int(n.file.Fd()), program)
	if err != nil {
		return nil, err
	}
	l.steering = steering
	return l, nil
}

// listen makes a socket in the namespace at a port of the kernel's choice.
func (n *Namespace) listen(network, address string) (*net.TCPListener, error) {
	// The interface lo may still be down.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(err, serr)
	}}
	config.SetMultipathTCP(false) // a sockmap does not take such a socket
	var listener net.Listener
	err := n.Do(func() (err error) {
		listener, err = config.Listen(context.Background(), network, address)
		return err
	})
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// put enters a socket into a sockmap.
func put(sockets *ebpf.Map, key uint32, listener *net.TCPListener) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	err = raw.Control(func(fd uintptr) { perr = sockets.Put(key, uint64(fd)) })
	return errors.Join(err, perr)
}

// Keys of the sockmap.
const (
	keyIP4 = iota
	keyIP6
)

// steer is the program: it is asked for whom a connection is for which the
// kernel has no socket yet, and answers with one of sockets, a sockmap, or lets
// the kernel look. The offsets are those of struct bpf_sk_lookup (linux/bpf.h),
// the helpers' arguments as bpf-helpers(7) has them.
func steer(sockets int) asm.Instructions {
	const family, protocol, localIP4, localIP6 = 8, 12, 40, 44
	ip4 := func(a, b, c, d byte) int32 { return int32(native.Uint32([]byte{a, b, c, d})) } // as in a packet
	resolver := netip.MustParseAddr(api.Resolver).As4()
	context, kind, word, socket := asm.R6, asm.R7, asm.R2, asm.R8
	code := asm.Instructions{
		asm.Mov.Reg(context, asm.R1),
		asm.LoadMem(word, context, protocol, asm.Word),
		asm.JNE.Imm(word, unix.IPPROTO_TCP, "pass"),
		asm.LoadMem(word, context, family, asm.Word),
		asm.JEq.Imm(word, unix.AF_INET6, "six"),
		asm.JNE.Imm(word, unix.AF_INET, "pass"),

		asm.LoadMem(word, context, localIP4, asm.Word),
		asm.JEq.Imm32(word, ip4(resolver[0], resolver[1], resolver[2], resolver[3]), "pass"),
		asm.And.Imm32(word, ip4(255, 0, 0, 0)),
		asm.JNE.Imm32(word, ip4(127, 0, 0, 0), "pass"),
		asm.Mov.Imm(kind, keyIP4),
		asm.Ja.Label("assign"),

		asm.Mov.Imm(kind, keyIP6).WithSymbol("six"),
	}
	for i, want := range []int32{0, 0, 0, ip4(0, 0, 0, 1)} {
		code = append(code,
			asm.LoadMem(word, context, int16(localIP6+4*i), asm.Word),
			asm.JNE.Imm32(word, want, "pass"))
	}
	return append(code,
		asm.StoreMem(asm.RFP, -4, kind, asm.Word).WithSymbol("assign"),
		asm.LoadMapPtr(asm.R1, sockets),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(socket, asm.R0),
		asm.Mov.Reg(asm.R1, context),
		asm.Mov.Reg(asm.R2, socket),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R1, socket),
		asm.FnSkRelease.Call(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), // SK_PASS
		asm.Return(),
	)
}

// Dial gives a stream to the server at an address of the guest's loopback, over
// which api.Relay can carry a connection. A stream that comes with an error is to
// be hung up.
type Dial func(ctx context.Context, to netip.AddrPort) (io.ReadWriteCloser, error)

// Serve relays connections until Close; where dial fails they are reset. ctx
// ends those that are open.
func (l *Loopback) Serve(ctx context.Context, dial Dial) {
	places := make(chan struct{}, maxLoopback)
	for _, listener := range l.listeners {
		go func() {
			for {
				conn, err := listener.AcceptTCP()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil { // no descriptors, no memory
					<-time.After(time.Second)
					continue
				}
				places <- struct{}{}
				go func() {
					defer func() { <-places }()
					relay(ctx, conn, dial)
				}()
			}
		}()
	}
}

func relay(ctx context.Context, conn *net.TCPConn, dial Dial) {
	stop := context.AfterFunc(ctx, func() { api.Reset(conn) })
	defer stop()
	to := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	stream, err := dial(ctx, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
	if err != nil {
		api.Reset(conn) // first: the guest may take its time over its end
		if stream != nil {
			api.Hangup(stream)
		}
		return
	}
	api.Relay(stream, conn)
}

// Close gives the loopback back. It does not end connections.
func (l *Loopback) Close() error {
	var errs []error
	if l.steering != nil {
		errs = append(errs, l.steering.Close())
	}
	for _, one := range l.listeners {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}
