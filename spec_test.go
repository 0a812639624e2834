//go:build linux

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/libvm/bundle"
)

func TestWriteSpec(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeSpec(dir, false); err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Load(dir)
	if err != nil {
		t.Fatalf("what spec writes is refused: %v", err)
	}
	if len(b.Warnings) > 0 || len(b.Unknown) > 0 {
		t.Errorf("%q %q", b.Warnings, b.Unknown)
	}
	if b.Spec.Version != specs.Version || !b.Spec.Process.Terminal || b.Spec.Process.Args[0] != "sh" {
		t.Errorf("%+v", b.Spec)
	}
	err = writeSpec(dir, false)
	if err == nil || err.Error() != "File config.json exists. Remove it first" {
		t.Errorf("%v", err)
	}
	if err := writeSpec(filepath.Join(dir, "none"), false); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}

func TestMakeRootless(t *testing.T) {
	s := exampleSpec()
	makeRootless(s)
	var names []string
	for _, n := range s.Linux.Namespaces {
		names = append(names, string(n.Type))
	}
	if !slices.Contains(names, "network") || !slices.Contains(names, "user") || s.Linux.Resources != nil {
		t.Errorf("namespaces %v, resources %v", names, s.Linux.Resources)
	}
	text, err := json.Marshal(s.Mounts)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "gid=") || !strings.Contains(string(text), `"rbind"`) {
		t.Errorf("%s", text)
	}
	if m := s.Linux.UIDMappings; len(m) != 1 || int(m[0].HostID) != os.Geteuid() || m[0].Size != 1 {
		t.Errorf("%+v", m)
	}
}
