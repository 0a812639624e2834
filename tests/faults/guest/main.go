//go:build linux

// Command guest is what the tests of faults run in guests: process 1 of a
// machine that never gets to know its host, or a container's process that does
// what no busybox applet does. It must be linked statically.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// modeFile in the initramfs says what process 1 does.
const modeFile = "/mode"

func main() {
	args := os.Args[1:]
	if mode, err := os.ReadFile(modeFile); err == nil {
		args = strings.Fields(string(mode))
	}
	if err := do(args); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func do(args []string) error {
	switch strings.Join(args[:1], "") {
	case "silent": // an agent that never answers
		fmt.Println("guest: I say nothing to my host")
		return unix.Pause()
	case "exit": // process 1 that ends: the kernel panics
		fmt.Println("guest: I end")
		return nil
	case "map":
		return dirty(args[1])
	case "eat":
		return eat(args[1])
	case "identity":
		return identity()
	case "now":
		fmt.Println(time.Now().UnixNano())
		return nil
	case "clocks":
		fmt.Println(clocks())
		return tell()
	case "set": // the clock, by so much
		return set(args[1])
	}
	return fmt.Errorf("no such mode: %q", args)
}

// set moves the wall clock.
func set(by string) error {
	d, err := time.ParseDuration(by)
	if err != nil {
		return err
	}
	ts := unix.NsecToTimespec(time.Now().Add(d).UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// dirty fills a file through a shared mapping and does not sync it.
func dirty(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	for i := range mem {
		mem[i] = byte(i>>12 + i)
	}
	return nil
}

// eat uses so many MiB of memory, and then waits.
func eat(mib string) error {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return err
	}
	mem := make([]byte, n<<20)
	for i := 0; i < len(mem); i += 4096 {
		mem[i] = 1
	}
	fmt.Println("full")
	return unix.Pause()
}
