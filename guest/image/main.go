// Command image writes the guest's initramfs: a newc cpio that holds the agent
// as /init and what the kernel needs before the agent has mounted anything.
//
//	go run ./guest/image -agent _output/agent -o _output/initramfs.cpio
//
// Equal agents give equal bytes. The output is replaced atomically.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/u-root/u-root/pkg/cpio"
)

func main() {
	agent := flag.String("agent", "_output/agent", "static agent `binary`")
	out := flag.String("o", "_output/initramfs.cpio", "`file` to write")
	flag.Parse()
	if err := build(*agent, *out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// build writes the initramfs with the agent at path agent to out.
func build(agent, out string) error {
	binary, err := os.ReadFile(agent)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	var image bytes.Buffer
	if err := write(&image, binary); err != nil {
		return fmt.Errorf("write cpio: %w", err)
	}
	return replace(out, image.Bytes())
}

// write writes the archive to w.
func write(w io.Writer, agent []byte) error {
	archive := cpio.Newc.Writer(w)
	for i, r := range records(agent) {
		// Inode numbers only have to differ; the rest of Info is left zero, so
		// that the time and place of the build do not show.
		r.Ino = uint64(i + 1)
		if err := archive.WriteRecord(r); err != nil {
			return fmt.Errorf("%s: %w", r.Name, err)
		}
	}
	if err := cpio.WriteTrailer(archive); err != nil {
		return fmt.Errorf("trailer: %w", err)
	}
	return nil
}

// records lists the archive's content, parents first.
func records(agent []byte) []cpio.Record {
	return []cpio.Record{
		cpio.Directory("dev", 0o755),
		// The kernel opens it as fds 0, 1 and 2 of process 1.
		cpio.CharDev("dev/console", 0o600, 5, 1),
		// The agent's real root is mounted here and then moved over /.
		cpio.Directory("root", 0o755),
		cpio.StaticFile("init", string(agent), 0o755),
	}
}

// replace writes content to path atomically.
func replace(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("temporary file: %w", err)
	}
	defer os.Remove(tmp.Name()) // fails after the rename, as it should
	if _, err := tmp.Write(content); err != nil {
		tmp.Close()
		return fmt.Errorf("write: %w", err)
	}
	if err := tmp.Chmod(0o644); err != nil {
		tmp.Close()
		return fmt.Errorf("chmod: %w", err)
	}
	if err := tmp.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	return nil
}
