package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

func TestBuild(t *testing.T) {
	dir := t.TempDir()
	agent, out := filepath.Join(dir, "agent"), filepath.Join(dir, "image")
	if err := os.WriteFile(agent, []byte("binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	var images [][]byte
	for range 2 {
		if err := build(agent, out); err != nil {
			t.Fatal(err)
		}
		image, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, image)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two builds differ")
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(images[0])))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]uint64{}
	for _, r := range records {
		names[r.Name] = r.Mode
	}
	if names["init"] != cpio.S_IFREG|0o755 || names["dev/console"] != cpio.S_IFCHR|0o600 || names["root"] != cpio.S_IFDIR|0o755 {
		t.Errorf("records: %v", names)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "image.*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := build(filepath.Join(dir, "none"), out); err == nil {
		t.Error("a missing agent is no error")
	}
}
