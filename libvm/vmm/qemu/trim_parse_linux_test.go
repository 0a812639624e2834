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

func TestParseTranslations(t *testing.T) {
	const maps = `555555554000-555555a00000 r-xp 00000000 fe:00 123        /usr/bin/qemu-system-x86_64
7f0000000000-7f0001fff000 rw-s 00000000 00:01 4242       /memfd:tcg-jit (deleted)
7f0001fff000-7f0002000000 ---s 01fff000 00:01 4242       /memfd:tcg-jit (deleted)
7f0010000000-7f0012000000 r-xs 00000000 00:01 4242       /memfd:tcg-jit (deleted)
7f0020000000-7f0040000000 rw-s 00000000 00:01 4243       /memfd:runm-memory (deleted)
`
	span, size, err := parseTranslations(maps)
	if err != nil || span != "7f0010000000-7f0012000000" || size != 32<<20 {
		t.Errorf("%s, %d, %v", span, size, err)
	}
	if span, _, err := parseTranslations("7f0010000000-7f0012000000 rwxp 00000000 00:00 0\n"); err == nil {
		t.Errorf("found %s", span)
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
