package fileid

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestOf: the same file is the same by any name, and another as soon as its
// content can be another, also where its size and its modification time are what
// they were.
func TestOf(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	id := func(path string) string {
		t.Helper()
		got, err := Of(path)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	write(path, "one")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	before := id(path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := OfOpen(f); err != nil || got != before || id(link) != before {
		t.Errorf("open it is %q, %v, by a link %q, was %q", got, err, id(link), before)
	}
	time.Sleep(20 * time.Millisecond) // no tick is longer (CONFIG_HZ)
	write(path, "two")
	written := id(path)
	if written == before {
		t.Errorf("written, it is still %q", before)
	}
	other := filepath.Join(dir, "other")
	write(other, "two")
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if got := id(path); got == written {
		t.Errorf("replaced, it is still %q", got)
	}
	if _, err := Of(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("of no file: %v", err)
	}
	if _, err := OfOpen(f); err != nil {
		t.Errorf("of a file without a name: %v", err)
	}
}
