//go:build linux

package libvm

import (
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/store"
)

// CRI-O as it comes makes no container for a sandbox: the first of a pod has a
// machine of its own, the next are in its.
func TestPodWithoutInfraContainer(t *testing.T) {
	root := t.TempDir()
	self, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	spec := func(pod string) *specs.Spec {
		return &specs.Spec{Annotations: map[string]string{
			"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": pod,
		}}
	}
	if p, err := findPod(root, "c1", spec("pod")); err != nil || p != nil {
		t.Fatalf("the first: %v, %v, want a machine of its own", p, err)
	}
	for i, id := range []string{"c1", "other"} {
		dir, err := store.Create(root, id)
		if err != nil {
			t.Fatal(err)
		}
		s := &store.State{ID: id, Spec: spec([]string{"pod", "another-pod"}[i]), Created: time.Now(), Monitor: self, Holder: self, GuestMemoryBytes: 512 << 20}
		if err := dir.Save(s); err != nil {
			t.Fatal(err)
		}
	}
	p, err := findPod(root, "c2", spec("pod"))
	if err != nil || p == nil || p.member.ID() != "c1" || p.plan.MemoryMiB != 512 {
		t.Errorf("the second: %+v, %v, want the machine of c1", p, err)
	}
	// A name in the share is used once, also where the id is used again at once.
	again, err := findPod(root, "c2", spec("pod"))
	if err != nil || again.plan.Files == p.plan.Files || strings.HasPrefix(p.plan.Files, "c1") {
		t.Errorf("%v: files are called %q, and the next time %q", err, p.plan.Files, again.plan.Files)
	}
	if name := filesName(strings.Repeat("x", 255), time.Now()); len(name) > 255 {
		t.Errorf("a name of %d bytes", len(name))
	}
	// containerd always makes one.
	s := &specs.Spec{Annotations: map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod"}}
	if p, err := findPod(root, "c2", s); err == nil {
		t.Errorf("containerd's: %+v, want an error", p)
	}
}
