package qemu

import (
	"bufio"
	"net"
	"testing"
)

func TestParseTranslated(t *testing.T) {
	const text = "Accelerator settings:\none-insn-per-tb: off\n\nTranslation buffer state:\ngen code size       123456/50331648\nTB count            7\n"
	if size, err := parseTranslated(text); err != nil || size != 123456 {
		t.Errorf("%d, %v", size, err)
	}
	for _, wrong := range []string{"", "gen code size", "gen code size       a/b"} {
		if size, err := parseTranslated(wrong); err == nil {
			t.Errorf("%q: %d", wrong, size)
		}
	}
}

func TestTranslations(t *testing.T) {
	const before = `555555554000-555555a00000 r-xp 00000000 fe:00 123        /usr/bin/qemu-system-x86_64
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
7f0000100000-7f0000200000 ---p 00000000 00:00 0
`
	const one = `7f0010000000-7f0012fff000 rwxp 00000000 00:00 0
7f0012fff000-7f0013000000 ---p 00000000 00:00 0
`
	const two = `7f0010000000-7f0010fff000 rwxp 00000000 00:00 0
7f0010fff000-7f0011000000 ---p 00000000 00:00 0
7f0011000000-7f0012fff000 rwxp 00000000 00:00 0
7f0012fff000-7f0013000000 ---p 00000000 00:00 0
`
	const after = `7f0020000000-7f0040000000 rw-s 00000000 00:01 4243       /memfd:runm-memory (deleted)
7ffc2c3f4000-7ffc2c3f6000 r-xp 00000000 00:00 0          [vdso]
`
	want := memoryRange{0x7f0010000000 + prologue, 0x7f0013000000}
	for name, c := range map[string]struct {
		maps string
		want memoryRange
		err  bool
	}{
		"one CPU":     {before + one + after, want, false},
		"two CPUs":    {before + two + after, want, false},
		"none":        {before + after, memoryRange{}, true},
		"two buffers": {one + after + "7f0050000000-7f0051000000 rwxp 00000000 00:00 0\n", memoryRange{}, true},
		"no maps":     {"7f00", memoryRange{}, true},
	} {
		maps, err := parseMaps(c.maps)
		var r memoryRange
		if err == nil {
			r, err = translations(maps)
		}
		if (err != nil) != c.err || err == nil && r != c.want {
			t.Errorf("%s: %x, %v", name, r, err)
		}
	}
}

// TestGDBStub: packets as the GDB manual has them.
func TestGDBStub(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	stub := &gdbStub{conn: ours, in: bufio.NewReader(ours)}
	asked := make(chan string, 1)
	go func() {
		buf := make([]byte, 64)
		n, _ := theirs.Read(buf)
		asked <- string(buf[:n])
		theirs.Write([]byte("+$T05thread:01;#07"))
		theirs.Write([]byte("+$OK#9a"))
	}()
	if answer, err := stub.ask("s"); err != nil || answer != "T05thread:01;" {
		t.Errorf("%q, %v", answer, err)
	}
	if packet := <-asked; packet != "+$s#73" {
		t.Errorf("sent %q", packet)
	}
	if answer, err := stub.receive(); err != nil || answer != "OK" {
		t.Errorf("%q, %v", answer, err)
	}
}
