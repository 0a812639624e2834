//go:build linux

package script

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// busybox is Debian's busybox-static.
const busybox = "/bin/busybox"

// cmdBundle makes a bundle as a user does, with `runm spec`: a root file
// system of busybox, no terminal, and a cgroup that is the script's.
//
//	bundle DIR [-e PATH=VALUE]... [ARG...]
//
// ARGs are process.args, `sleep 1000` without. PATH=VALUE is an edit.
func cmdBundle(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: bundle DIR [-e PATH=VALUE]... [ARG...]")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(makeRootfs(filepath.Join(dir, "rootfs")))
	ts.Check(ts.Exec("runm", "spec", "--bundle", dir))
	edits := []string{
		"process.terminal=false",
		"root.readonly=false",
		"linux.cgroupsPath=" + ts.Getenv("CGROUP") + "-" + filepath.Base(dir),
	}
	args = args[1:]
	for len(args) > 1 && args[0] == "-e" {
		edits, args = append(edits, args[1]), args[2:]
	}
	if len(args) == 0 {
		args = []string{"sleep", "1000"}
	}
	line, err := json.Marshal(args)
	ts.Check(err)
	edits = append(edits, "process.args="+string(line))
	ts.Check(editFile(filepath.Join(dir, "config.json"), edits))
}

// cmdEdit edits a bundle's config.json: edit DIR PATH=VALUE...
func cmdEdit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: edit DIR PATH=VALUE...")
	}
	ts.Check(editFile(filepath.Join(ts.MkAbs(args[0]), "config.json"), args[1:]))
}

func makeRootfs(dir string) error {
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return fmt.Errorf("install busybox-static: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		return err
	}
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return err
	}
	for _, applet := range strings.Fields(string(list)) {
		err := os.Symlink("busybox", filepath.Join(dir, "bin", applet))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644)
}

func editFile(path string, edits []string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var doc any
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	for _, e := range edits {
		if doc, err = edit(doc, e); err != nil {
			return fmt.Errorf("edit %q: %w", e, err)
		}
	}
	if data, err = json.MarshalIndent(doc, "", "\t"); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// edit sets one value: "linux.namespaces.0.type=user". The value is JSON, or a
// string where it is none; "+" as a key appends to a list; without "=" the
// value is removed. A "/" in a key stands for itself, "\." for a dot.
func edit(doc any, e string) (any, error) {
	path, text, given := strings.Cut(e, "=")
	var value any = removed{}
	if given {
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			value = text
		}
	}
	keys := strings.Split(strings.ReplaceAll(path, `\.`, "\x00"), ".")
	for i := range keys {
		keys[i] = strings.ReplaceAll(keys[i], "\x00", ".")
	}
	return set(doc, keys, value)
}

// removed is the value of what is to go.
type removed struct{}

func set(node any, keys []string, value any) (any, error) {
	if len(keys) == 0 {
		return value, nil
	}
	key := keys[0]
	switch n := node.(type) {
	case []any:
		if key == "+" {
			v, err := set(nil, keys[1:], value)
			return append(n, v), err
		}
		i, err := strconv.Atoi(key)
		if err != nil || i < 0 || i >= len(n) {
			return nil, fmt.Errorf("%q is no index of a list of %d", key, len(n))
		}
		v, err := set(n[i], keys[1:], value)
		if v == (any)(removed{}) {
			return append(n[:i:i], n[i+1:]...), err
		}
		n[i] = v
		return n, err
	case map[string]any:
		v, err := set(n[key], keys[1:], value)
		n[key] = v
		if v == (any)(removed{}) {
			delete(n, key)
		}
		return n, err
	case nil:
		if key == "+" {
			return set([]any{}, keys, value)
		}
		return set(map[string]any{}, keys, value)
	default:
		return nil, fmt.Errorf("%q is in a %T", key, node)
	}
}

func TestEdit(t *testing.T) {
	for _, c := range []struct{ doc, edit, want string }{
		{`{"a":1}`, "a=2", `{"a":2}`},
		{`{}`, "a.b=x y", `{"a":{"b":"x y"}}`},
		{`{"a":[1,2]}`, "a.1=true", `{"a":[1,true]}`},
		{`{"a":[1]}`, `a.+={"b":null}`, `{"a":[1,{"b":null}]}`},
		{`{}`, "a.+=1", `{"a":[1]}`},
		{`{"a":1,"b":2}`, "a", `{"b":2}`},
		{`{"a":[1,2,3]}`, "a.1", `{"a":[1,3]}`},
		{`{}`, `a.dev\.runm\.share=9p`, `{"a":{"dev.runm.share":"9p"}}`},
	} {
		var doc any
		if err := json.Unmarshal([]byte(c.doc), &doc); err != nil {
			t.Fatal(err)
		}
		got, err := edit(doc, c.edit)
		text, _ := json.Marshal(got)
		if err != nil || string(text) != c.want {
			t.Errorf("%s %s: %s %v, want %s", c.doc, c.edit, text, err, c.want)
		}
	}
	if _, err := edit(map[string]any{"a": 1.0}, "a.b=1"); err == nil {
		t.Error("a key in a number")
	}
}
