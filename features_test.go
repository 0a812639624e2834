//go:build linux

package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestFeatures(t *testing.T) {
	f := supported()
	if !slices.Contains(f.MountOptions, "rro") {
		t.Error("CRI would not offer recursive read-only mounts")
	}
	for _, refused := range []string{"idmap", "ridmap"} {
		if slices.Contains(f.MountOptions, refused) {
			t.Errorf("%s is offered and refused", refused)
		}
	}
	if slices.Contains(f.Linux.Seccomp.Actions, "SCMP_ACT_NOTIFY") {
		t.Error("SCMP_ACT_NOTIFY is offered and refused")
	}
	if slices.Contains(f.Linux.Seccomp.KnownFlags, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV") {
		t.Error("a flag of SCMP_ACT_NOTIFY's is offered")
	}
	for _, list := range [][]string{f.MountOptions, f.Linux.Namespaces, f.Linux.Capabilities, f.Hooks, f.Linux.Seccomp.Archs} {
		if len(list) == 0 || slices.Contains(list, "") {
			t.Errorf("%q", list)
		}
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"ociVersionMin":"1.0.0"`, `"idmap":{"enabled":false}`, `"apparmor":{"enabled":false}`, `"rdma":false`,
		`"org.opencontainers.runm.version":"` + version + `"`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}
