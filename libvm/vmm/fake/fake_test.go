package fake_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/libvm/vmm/fake"
	"github.com/runm/runm/libvm/vmm/vmmtest"
	"github.com/runm/runm/libvm/vmm/vmmtest/guest"
)

func TestContract(t *testing.T) {
	share := t.TempDir()
	kernel := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(kernel, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d := &fake.Driver{Output: []byte("a console\n"), Guest: func(stream io.ReadWriteCloser) {
		guest.Serve(stream, guest.System{
			Mount: func(_, _ string) (string, error) { return share, nil },
			Print: func(string) {},
		})
	}}
	vmmtest.Run(t, d, &vmm.Config{
		CPUs: 1, MemoryMiB: 64, Accel: vmm.AccelTCG, Kernel: kernel, Initrd: kernel,
		Shares: []vmm.Share{{Type: vmm.ShareVirtiofs, Tag: "share", Path: share}},
	})
	if got := len(d.Configs()); got < 10 {
		t.Errorf("%d configs recorded, want one for each machine", got)
	}
}

func TestFailures(t *testing.T) {
	boom := errors.New("boom")
	if _, err := (&fake.Driver{Failure: boom}).Start(t.Context(), &vmm.Config{}); !errors.Is(err, boom) {
		t.Errorf("Start = %v, want %v", err, boom)
	}
	d := &fake.Driver{WaitErr: boom, Guest: func(io.ReadWriteCloser) {}}
	m, err := d.Start(t.Context(), &vmm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(); !errors.Is(err, boom) {
		t.Errorf("Wait = %v, want %v", err, boom)
	}
}
