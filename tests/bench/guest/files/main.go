//go:build linux

// Files is the work of the benchmark's part files, in a container or as the init
// of a bare machine: it walks a tree of files, reads it, and creates and deletes
// small ones. After each step it prints the step's name and how much it has done;
// the host takes the time.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// bareDir is where a bare machine mounts the share that TAG names.
	bareDir = "/share"
	// port is the machine's first virtio-serial port.
	port = "/dev/vport0p1"
	// smallSize is what is written into each small file.
	smallSize = 4 << 10
	// readSize is how much one read asks for.
	readSize = 64 << 10
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "files:", err)
		os.Exit(1)
	}
}

func run() error {
	out, dir := io.Writer(os.Stdout), os.Getenv("DIR")
	if tag := os.Getenv("TAG"); tag != "" {
		p, err := mountShare(tag)
		if err != nil {
			return err
		}
		out, dir = p, bareDir
	}
	small, err := strconv.Atoi(os.Getenv("SMALL"))
	if err != nil {
		return fmt.Errorf("SMALL: %w", err)
	}
	tree := filepath.Join(dir, "tree")
	if _, err := fmt.Fprintln(out, "begin 0"); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func() (int64, error)
	}{
		{"find-cold", func() (int64, error) { return walk(tree) }},
		{"find-warm", func() (int64, error) { return walk(tree) }},
		{"read", func() (int64, error) { return read(tree) }},
		{"small", func() (int64, error) { return smallFiles(filepath.Join(dir, "small"), small) }},
	} {
		n, err := step.do()
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if _, err := fmt.Fprintln(out, step.name, n); err != nil {
			return err
		}
	}
	if out != os.Stdout {
		select {} // the host ends the machine when it has read all
	}
	return nil
}

// mountShare does what the agent does for a container, and opens the port.
func mountShare(tag string) (*os.File, error) {
	if err := errors.Join(os.MkdirAll("/dev", 0o755), os.MkdirAll(bareDir, 0o755)); err != nil {
		return nil, err
	}
	if err := unix.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil {
		return nil, fmt.Errorf("devtmpfs: %w", err)
	}
	if err := unix.Mount(tag, bareDir, "virtiofs", 0, ""); err != nil {
		return nil, fmt.Errorf("share: %w", err)
	}
	for {
		f, err := os.OpenFile(port, os.O_WRONLY, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		time.Sleep(time.Millisecond) // the port appears when the device has told of it
	}
}

// walk looks at each file below dir, as find does, and returns how many there
// are.
func walk(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		_, err = d.Info()
		return err
	})
	return n, err
}

// read reads all files below dir, as tar does, and returns how many bytes they
// have.
func read(dir string) (n int64, err error) {
	buffer := make([]byte, readSize)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for {
			got, err := f.Read(buffer)
			n += int64(got)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	return n, err
}

// smallFiles creates n files in dir and deletes them.
func smallFiles(dir string, n int) (int64, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	content := make([]byte, smallSize)
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), content, 0o644); err != nil {
			return 0, err
		}
	}
	for i := range n {
		if err := os.Remove(filepath.Join(dir, strconv.Itoa(i))); err != nil {
			return 0, err
		}
	}
	return int64(n), os.Remove(dir)
}
