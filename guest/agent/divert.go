//go:build linux

package agent

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// divert makes port 53 of api.Resolver mean another port of it, for every
// program below cgroup: where a program connects or sends to the one it reaches
// the other, and what comes from the other says that it is from the one. Four
// BPF programs on socket addresses do it (linux/bpf.h, struct bpf_sock_addr);
// they cost no packet anything, and unlike NAT they are not the container's to
// flush.
func divert(cgroup string, port uint16) error {
	dir, err := unix.Open(cgroup, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	defer unix.Close(dir)
	const dns = 53
	there, back := rewrite(dns, port), rewrite(port, dns)
	for _, one := range []struct {
		attach uint32
		code   []byte
	}{
		{unix.BPF_CGROUP_INET4_CONNECT, there},
		{unix.BPF_CGROUP_UDP4_SENDMSG, there},
		{unix.BPF_CGROUP_UDP4_RECVMSG, back},
		{unix.BPF_CGROUP_INET4_GETPEERNAME, back},
	} {
		prog, err := loadBPF(one.code, one.attach)
		if err != nil {
			return fmt.Errorf("load BPF program %d: %w", one.attach, err)
		}
		err = attachBPF(dir, prog, one.attach)
		unix.Close(prog) // the cgroup has it
		if err != nil {
			return fmt.Errorf("attach BPF program %d: %w", one.attach, err)
		}
	}
	return nil
}

// rewrite is a program that turns one port of api.Resolver into another. Both
// are in network byte order in the program's context, at these offsets.
func rewrite(from, to uint16) []byte {
	const offsetIP4, offsetPort = 4, 24
	ip := netip.MustParseAddr(api.Resolver).As4()
	var code []byte
	code = instruction(code, unix.BPF_LDX|unix.BPF_MEM|unix.BPF_W, 2, 1, offsetIP4, 0)
	code = instruction(code, unix.BPF_JMP|unix.BPF_JNE, 2, 0, 4, binary.NativeEndian.Uint32(ip[:]))
	code = instruction(code, unix.BPF_LDX|unix.BPF_MEM|unix.BPF_W, 2, 1, offsetPort, 0)
	code = instruction(code, unix.BPF_JMP|unix.BPF_JNE, 2, 0, 2, networkOrder(from))
	code = instruction(code, unix.BPF_ALU64|unix.BPF_MOV|unix.BPF_K, 2, 0, 0, networkOrder(to))
	code = instruction(code, unix.BPF_STX|unix.BPF_MEM|unix.BPF_W, 1, 2, offsetPort, 0)
	code = instruction(code, unix.BPF_ALU64|unix.BPF_MOV|unix.BPF_K, 0, 0, 0, 1) // go on
	return instruction(code, unix.BPF_JMP|unix.BPF_EXIT, 0, 0, 0, 0)
}

// networkOrder is how a port in network byte order reads as a number here.
func networkOrder(port uint16) uint32 {
	return uint32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port)))
}

// instruction appends a struct bpf_insn.
func instruction(code []byte, op byte, dst, src byte, offset int16, imm uint32) []byte {
	code = append(code, op, dst|src<<4)
	code = binary.NativeEndian.AppendUint16(code, uint16(offset))
	return binary.NativeEndian.AppendUint32(code, imm)
}

const sizeofInstruction = 8

// loadBPF is bpf(2), BPF_PROG_LOAD.
func loadBPF(code []byte, attach uint32) (int, error) {
	license := []byte("Apache-2.0\x00")
	attr := struct {
		kind, count            uint32
		code, license          *byte
		logLevel, logSize      uint32
		log                    *byte
		version, flags         uint32
		name                   [16]byte
		device, expectedAttach uint32
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, count: uint32(len(code) / sizeofInstruction),
		code: &code[0], license: &license[0], expectedAttach: attach,
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// attachBPF is bpf(2), BPF_PROG_ATTACH; others may attach theirs below.
func attachBPF(cgroup, prog int, attach uint32) error {
	attr := struct{ target, prog, kind, flags uint32 }{uint32(cgroup), uint32(prog), attach, unix.BPF_F_ALLOW_MULTI}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return errno
	}
	return nil
}
