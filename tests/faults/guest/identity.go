//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// identity prints, as one object, all by which a machine that was cloned could
// be its sibling; then it tells its clocks.
func identity() error {
	begun := clocks()
	id := map[string]string{"begun": begun}
	for name, get := range map[string]func() (string, error){
		"cmdline":   file("/proc/cmdline"),
		"hostname":  os.Hostname,
		"boot_id":   file("/proc/sys/kernel/random/boot_id"),
		"uuid":      file("/proc/sys/kernel/random/uuid"),
		"urandom":   urandom,
		"getrandom": getrandom,
		"AT_RANDOM": atRandom,
		"stack":     mapped("[stack]"),
		"vdso":      mapped("[vdso]"),
		"mmap":      mapping,
		"uptime":    file("/proc/uptime"),
	} {
		value, err := get()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		id[name] = value
	}
	if err := syn(id); err != nil {
		return fmt.Errorf("TCP: %w", err)
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(id); err != nil {
		return err
	}
	return tell()
}

// tell answers each line of the input with the clocks, after the time in
// nanoseconds that the line names.
func tell() error {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		ns, err := strconv.ParseInt(in.Text(), 10, 64)
		if err != nil {
			return err
		}
		time.Sleep(time.Duration(ns))
		fmt.Println(clocks())
	}
	return nil
}

// clocks are CLOCK_REALTIME and CLOCK_MONOTONIC at one time, in nanoseconds. A
// busy host may stop the guest between the two: the reading counts during which
// the least time went by.
func clocks() string {
	var best, mono int64
	var quickest int64 = math.MaxInt64
	for range 20 {
		var before, wall, after unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &before)
		_ = unix.ClockGettime(unix.CLOCK_REALTIME, &wall)
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &after)
		if took := after.Nano() - before.Nano(); took < quickest {
			quickest, best, mono = took, wall.Nano(), before.Nano()+took/2
		}
	}
	return fmt.Sprint(best, " ", mono)
}

func file(name string) func() (string, error) {
	return func() (string, error) {
		data, err := os.ReadFile(name)
		return strings.TrimSpace(string(data)), err
	}
}

func urandom() (string, error) {
	f, err := os.Open("/dev/urandom")
	if err != nil {
		return "", err
	}
	defer f.Close()
	data := make([]byte, 64)
	_, err = f.Read(data)
	return hex.EncodeToString(data), err
}

func getrandom() (string, error) {
	data := make([]byte, 64)
	_, err := unix.Getrandom(data, 0)
	return hex.EncodeToString(data), err
}

// atRandom is the 16 bytes that the kernel gives a program at execve(2).
func atRandom() (string, error) {
	aux, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return "", err
	}
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		return "", err
	}
	defer memory.Close()
	const atRandom = 25 // linux/auxvec.h
	for ; len(aux) >= 16; aux = aux[16:] {
		if binary.NativeEndian.Uint64(aux) == atRandom {
			data := make([]byte, 16)
			_, err := memory.ReadAt(data, int64(binary.NativeEndian.Uint64(aux[8:])))
			return hex.EncodeToString(data), err
		}
	}
	return "", errors.New("not given")
}

// mapped is the address of a mapping of this process.
func mapped(name string) func() (string, error) {
	return func() (string, error) {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(maps)) {
			if strings.HasSuffix(strings.TrimSpace(line), name) {
				return strings.Fields(line)[0], nil
			}
		}
		return "", errors.New("not mapped")
	}
}

// mapping is where the kernel puts what may be anywhere.
func mapping() (string, error) {
	data, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	return fmt.Sprintf("%p", data), err
}

// syn connects over loopback and reads what TCP's secrets decide from the first
// segment: the source's port, the sequence number and the time stamp.
func syn(id map[string]string) error {
	const all = 0x0300 // ETH_P_ALL in network order
	sniffer, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, all)
	if err != nil {
		return err
	}
	defer unix.Close(sniffer)
	l, err := net.Listen("tcp4", "127.0.0.1:4242")
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	packet := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(sniffer, packet, 0)
		if err != nil {
			return err
		}
		p := packet[:n]
		if n < 40 || p[9] != unix.IPPROTO_TCP {
			continue
		}
		tcp := p[int(p[0]&0xf)*4:]
		if tcp[13]&0x12 != 0x02 { // SYN without ACK
			continue
		}
		id["port"] = fmt.Sprint(binary.BigEndian.Uint16(tcp))
		id["sequence"] = fmt.Sprint(binary.BigEndian.Uint32(tcp[4:]))
		for options := tcp[20 : tcp[12]>>4*4]; len(options) > 1; {
			switch options[0] {
			case 0:
				return errors.New("no time stamp")
			case 1:
				options = options[1:]
				continue
			case 8:
				id["timestamp"] = fmt.Sprint(binary.BigEndian.Uint32(options[2:]))
				return nil
			}
			options = options[options[1]:]
		}
		return errors.New("no time stamp")
	}
}
