//go:build linux

package qemu_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/agent/agenttest"
	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/libvm/vmm/qemu"
	"github.com/runm/runm/libvm/vmm/vmmtest"
)

// TestARM64: the arm64 guest, kernel and agent, boots on an amd64 host by this
// driver and runs a container.
func TestARM64(t *testing.T) {
	if runtime.GOARCH == "arm64" {
		t.Skip("this machine is arm64: every other test is of that guest")
	}
	guest := arm64Guest(t)
	file := func(name string) string { return filepath.Join(guest, name) }
	share := t.TempDir()
	d := qemu.Driver{
		QEMU: file("qemu-system-aarch64"), Virtiofsd: file("virtiofsd"), RunDir: t.TempDir(),
		Host: qemu.Host{Arch: "arm64", Root: true},
	}
	m, err := d.Start(t.Context(), &vmm.Config{
		CPUs: 2, MemoryMiB: 512, Accel: vmm.AccelTCG,
		Kernel: file("Image"), Initrd: file("initramfs.cpio"),
		Shares: []vmm.Share{{Type: vmm.ShareVirtiofs, Tag: api.ShareTag, Path: share}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Wait() }()
	t.Cleanup(func() {
		m.Kill()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("console:\n%s", m.Console())
		}
	})
	stream, err := m.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	vm := agenttest.Attach(t, stream, share, file("busybox"))
	hello := vm.Greet(t)
	if !strings.HasSuffix(hello.GetKernelRelease(), "-runm") || hello.GetMemoryBytes() < 400<<20 {
		t.Errorf("hello: %v", hello)
	}

	vm.Rootfs(t, "c")
	spec := agenttest.Spec("c", "sh", "-c", "busybox uname -m; nproc; mkdir /tmp/x")
	spec.Linux.Seccomp = &specs.LinuxSeccomp{ // libseccomp knows the guest's CPU
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchAARCH64},
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdirat"}, Action: specs.ActErrno}},
	}
	stdout, stderr, status := vm.Run(t, "c", spec, "")
	if stdout != "aarch64\n2\n" || !strings.Contains(stderr, "Operation not permitted") || status != 1 {
		t.Errorf("the container said %q, %q and ended with %d", stdout, stderr, status)
	}
}

// arm64Guest builds the guest, or skips the test where its tools cannot be
// installed. A guest that does not build is a failure.
func arm64Guest(t *testing.T) string {
	t.Helper()
	hack, err := filepath.Abs("../../../hack")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(hack, "deps.sh"), "--arm64").CombinedOutput(); err != nil {
		vmmtest.Require(t, "hack/deps.sh --arm64: "+string(out))
	}
	dir := t.TempDir()
	// Minutes, the first time, while tests of other packages boot machines.
	build := exec.Command("nice", filepath.Join(hack, "arm64.sh"), dir)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		t.Fatalf("hack/arm64.sh: %v", err)
	}
	return dir
}
