// Init is process 1 of vmmtest's guest. It serves on the virtio-serial port,
// as runm's agent does, and ends the machine the way the agent does.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/vmm/vmmtest/guest"
)

// aclName is where Linux keeps a file's access ACL.
const aclName = "system.posix_acl_access"

func main() {
	if err := run(); err != nil {
		printConsole("guest: " + err.Error())
	}
	// Restart, not power off: without ACPI only a reset ends the machine.
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func run() error {
	for _, m := range []struct{ fstype, dir string }{
		{"devtmpfs", "/dev"}, {"sysfs", "/sys"}, {"proc", "/proc"},
	} {
		if err := mount(m.fstype, m.fstype, m.dir); err != nil {
			return err
		}
	}
	port, err := openPort(api.PortName)
	if err != nil {
		return err
	}
	return guest.Serve(port, guest.System{Mount: mountShare, ACL: accessACL, Print: printConsole})
}

func accessACL(path string) (string, error) {
	b := make([]byte, 1024)
	n, err := unix.Getxattr(path, aclName, b)
	return string(b[:max(0, n)]), err
}

func mountShare(fstype, tag string) (string, error) {
	dir := "/mnt/" + tag
	if fstype != "9p" {
		return dir, mount(tag, fstype, dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, unix.Mount(tag, dir, fstype, 0, "trans=virtio,version=9p2000.L,msize=512000")
}

func mount(source, fstype, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := unix.Mount(source, dir, fstype, 0, "")
	if errors.Is(err, unix.EBUSY) { // the kernel mounted it
		return nil
	}
	return os.NewSyscallError("mount "+fstype, err)
}

// openPort opens the virtio-serial port called name.
func openPort(name string) (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if string(b) == name+"\n" {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no virtio-serial port %q among %d", name, len(names))
}

func printConsole(line string) {
	if f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
		fmt.Fprintln(f, line)
		f.Close()
	}
}
