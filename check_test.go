//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/template"
	"github.com/runm/runm/libvm/vmm"
)

// good is a machine without faults.
func good() facts {
	return facts{
		Accel: vmm.AccelKVM, Share: "auto",
		Assets:    config.Assets{Kernel: "/k", Initrd: "/i", QEMU: "/q", Virtiofsd: "/v"},
		QEMU:      programVersion{Line: "QEMU emulator version 10.0.2 (Debian 1:10.0.2)"},
		Virtiofsd: programVersion{Line: "virtiofsd 1.13.2"},
		Cgroups:   "v2", Controllers: []string{"cpu", "cpuset", "io", "memory", "pids"},
		Root: "/run/runm", RootFS: "tmpfs", MemoryMiB: 4096, NeedMiB: 512,
		Templates: templates{Dir: "/run/runm-templates", FS: "tmpfs", Count: 1, Most: 8, Bytes: 44 << 20, MostBytes: 512 << 20},
	}
}

func TestExamine(t *testing.T) {
	missing := func(f *facts, name string) { f.Assets.Missing = []config.Missing{{Name: name, Looked: []string{"/x"}}} }
	for _, c := range []struct {
		name   string
		change func(*facts)
		want   string // name and status of what is not ok
		text   string // part of its detail or advice
	}{
		{"good", func(*facts) {}, "", ""},
		{"user", func(f *facts) { f.UID = 1000 }, "root fail", "sudo"},
		{"tcg", func(f *facts) { f.Accel, f.AccelReason = vmm.AccelTCG, "no vmx" }, "accelerator warn", "no vmx"},
		{"no kvm", func(f *facts) { f.AccelErr = errors.New("kvm is not real") }, "accelerator fail", "kvm is not real"},
		{"kernel", func(f *facts) { missing(f, "kernel") }, "kernel fail", "not found; looked for /x"},
		{"initrd", func(f *facts) { missing(f, "initrd") }, "initrd fail", "make all"},
		{"no qemu", func(f *facts) { missing(f, "qemu") }, "qemu fail", "make deps"},
		{"qemu fails", func(f *facts) { f.QEMU = programVersion{Err: errors.New("exit status 1")} }, "qemu fail", "exit status 1"},
		{"old qemu", func(f *facts) { f.QEMU.Line = "QEMU emulator version 7.2.1" }, "qemu warn", "tested with QEMU 10"},
		{"strange qemu", func(f *facts) { f.QEMU.Line = "hello" }, "qemu warn", "hello"},
		{"no virtiofsd", func(f *facts) { missing(f, "virtiofsd") }, "virtiofsd warn", "9p"},
		{"no virtiofsd, wanted", func(f *facts) { missing(f, "virtiofsd"); f.Share = "virtiofs" }, "virtiofsd fail", "looked for"},
		{"no virtiofsd, unwanted", func(f *facts) { missing(f, "virtiofsd"); f.Share = "9p" }, "", ""},
		{"QEMU's virtiofsd", func(f *facts) { f.Virtiofsd.Line = "virtiofsd version 7.2.1" }, "virtiofsd fail", "not the virtiofsd of"},
		{"no cgroups", func(f *facts) { f.Cgroups, f.Controllers = "", nil }, "cgroups fail", "mount cgroup2"},
		{"no memory controller", func(f *facts) { f.Controllers = []string{"cpu", "cpuset", "pids"} }, "cgroups warn", "without memory"},
		{"no tun", func(f *facts) { f.NetworkErr = os.ErrNotExist }, "network fail", "modprobe -a tun"},
		{"no BPF", func(f *facts) { f.LoopbackErr = os.ErrPermission }, "network warn", "Linux 5.9"},
		{"state on disk", func(f *facts) { f.RootFS = "ext4" }, "state warn", "/run/runm on ext4"},
		{"state read-only", func(f *facts) { f.RootErr = errors.New("read-only") }, "state fail", "--root"},
		{"template failed", func(f *facts) { f.Templates.Failure = &template.Failure{Key: "abc", Error: "no room"} }, "templates warn", "1 of 8, 44 of 512 MiB, in /run/runm-templates; template abc failed at 0001-01-01T00:00:00Z: no room"},
		{"templates refused", func(f *facts) { f.Templates.Err = errors.New("not this user's") }, "templates warn", "template_dir"},
		{"templates on disk", func(f *facts) { f.Templates.FS = "ext4" }, "templates warn", "on ext4"},
		{"templates off", func(f *facts) { f.Templates = templates{Off: true, Err: errors.New("x")} }, "", ""},
		{"memory", func(f *facts) { f.MemoryMiB = 100 }, "memory warn", "100 MiB available"},
	} {
		f := good()
		c.change(&f)
		var got []string
		var text string
		for _, finding := range examine(f) {
			if finding.Status == statusOK {
				if finding.Do != "" {
					t.Errorf("%s: %s is ok and wants %q", c.name, finding.Name, finding.Do)
				}
				continue
			}
			if finding.Do == "" {
				t.Errorf("%s: %s says not what to do", c.name, finding.Name)
			}
			got = append(got, finding.Name+" "+finding.Status)
			text = finding.Detail + "\n" + finding.Do
		}
		if strings.Join(got, ", ") != c.want || !strings.Contains(text, c.text) {
			t.Errorf("%s: %q: %s", c.name, got, text)
		}
	}
}

func TestPrintFindings(t *testing.T) {
	findings := []finding{ok("root", "user 0"), fail("qemu", "not found", "install it")}
	var out strings.Builder
	if err := printFindings(&out, formatTable, findings); err != nil {
		t.Fatal(err)
	}
	want := "ok    root         user 0\nfail  qemu         not found\n                   install it\n"
	if out.String() != want {
		t.Errorf("\n%swant\n%s", out.String(), want)
	}
	if err := printFindings(&out, "xml", findings); !errors.Is(err, errFormat) {
		t.Errorf("%v", err)
	}
}

func TestVersionOf(t *testing.T) {
	script := func(text string) string {
		path := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ctx := context.Background()
	if v := versionOf(ctx, ""); v.Line != "" || v.Err != nil {
		t.Errorf("%+v", v)
	}
	if v := versionOf(ctx, script("echo one $1; echo two")); v.Line != "one --version" || v.Err != nil {
		t.Errorf("%+v", v)
	}
	if v := versionOf(ctx, script("echo no library >&2; exit 127")); v.Err == nil || !strings.Contains(v.Err.Error(), "no library") {
		t.Errorf("%+v", v)
	}
	if v := versionOf(ctx, "/nonexistent"); v.Err == nil {
		t.Errorf("%+v", v)
	}
}

func TestStateRoot(t *testing.T) {
	dir := t.TempDir()
	// A root that is to be made yet lies where its parent does.
	fs1, err1 := stateRoot(dir)
	fs2, err2 := stateRoot(filepath.Join(dir, "a", "b"))
	if err1 != nil || err2 != nil || fs1 == "" || fs1 != fs2 {
		t.Errorf("%q %v, %q %v", fs1, err1, fs2, err2)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := stateRoot(filepath.Join(file, "x")); err == nil {
		t.Error("a file is no directory")
	}
}
