// Package guest is the other end of vmmtest: a guest that obeys one command a
// line. Its init subdirectory is the program that a real machine boots.
package guest

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// System is what of the guest differs between a machine and a fake of one.
type System struct {
	// Mount makes the share tagged tag readable and returns where it is.
	Mount func(fstype, tag string) (dir string, err error)
	// ACL returns a file's access ACL; only a real guest has it.
	ACL func(path string) (string, error)
	// Print writes a line to the console.
	Print func(string)
}

// Serve answers until it is told to power off or the stream ends. Every
// command gets one line: "ok" and a quoted result, or "error" and a quoted
// cause.
//
//	echo TEXT           the text
//	mount FSTYPE TAG    where the share is
//	cat PATH            the file's contents
//	ls PATH             the names in a directory, each in a line
//	walk PATH           how many files are below it, each looked up
//	acl PATH            the raw access ACL
//	write PATH TEXT     nothing
//	print TEXT          nothing; the text goes to the console
//	touch MIB           nothing; so much memory was used and is free again
//	poweroff            no answer: Serve returns nil
func Serve(stream io.ReadWriter, sys System) error {
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if lines.Text() == "poweroff" {
			return nil
		}
		answer := "ok "
		result, err := obey(lines.Text(), sys)
		if err != nil {
			answer, result = "error ", err.Error()
		}
		if _, err := io.WriteString(stream, answer+strconv.Quote(result)+"\n"); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

func obey(line string, sys System) (string, error) {
	command, rest, _ := strings.Cut(line, " ")
	first, second, _ := strings.Cut(rest, " ")
	switch command {
	case "echo":
		return rest, nil
	case "mount":
		return sys.Mount(first, second)
	case "cat":
		b, err := os.ReadFile(rest)
		return string(b), err
	case "ls":
		return list(rest)
	case "walk":
		return walk(rest)
	case "acl":
		return sys.ACL(rest)
	case "write":
		return "", os.WriteFile(first, []byte(second), 0o644)
	case "print":
		sys.Print(rest)
		return "", nil
	case "touch":
		return "", touch(rest)
	default:
		return "", fmt.Errorf("no such command: %q", line)
	}
}

// touch uses memory and gives it back to the guest's kernel.
func touch(mib string) error {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return err
	}
	mem, err := syscall.Mmap(-1, 0, n<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	for i := 0; i < len(mem); i += os.Getpagesize() {
		mem[i] = 1
	}
	return os.NewSyscallError("munmap", syscall.Munmap(mem))
}

func list(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, "\n"), err
}

func walk(dir string) (string, error) {
	n := 0
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		_, err = e.Info()
		return err
	})
	return strconv.Itoa(n), err
}
