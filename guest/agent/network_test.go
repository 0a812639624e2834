//go:build linux

package agent_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/runm/runm/guest/agent/agenttest"
	"github.com/runm/runm/guest/api"
)

// rtnetlink is a request of rtnetlink(7) with an acknowledgement.
func rtnetlink(kind, flags uint16, payload ...byte) []byte {
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(payload)))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	return append(append(m, make([]byte, 8)...), payload...)
}

// loopbackAddress is struct ifaddrmsg and an IFA_LOCAL for 10.9.9.9/32 of an
// interface.
func loopbackAddress(index byte) []byte {
	return []byte{unix.AF_INET, 32, 0, 0, index, 0, 0, 0, 8, 0, unix.IFA_LOCAL, 0, 10, 9, 9, 9}
}

func testRtnetlink(t *testing.T, vm *agenttest.VM) {
	resp, err := vm.Rtnetlink(t.Context(), &api.RtnetlinkRequest{Messages: [][]byte{
		rtnetlink(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, loopbackAddress(1)...),
		rtnetlink(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, loopbackAddress(1)...),
		rtnetlink(unix.RTM_NEWADDR, unix.NLM_F_CREATE, loopbackAddress(99)...),
		rtnetlink(unix.RTM_GETLINK, 0, make([]byte, unix.SizeofIfInfomsg)...),
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []unix.Errno{0, unix.EEXIST, unix.ENODEV, unix.EINVAL}
	for i, errno := range resp.GetErrnos() {
		if unix.Errno(errno) != want[i] {
			t.Errorf("message %d: %v, want %v", i, unix.Errno(errno), want[i])
		}
	}
	if len(resp.GetErrnos()) != len(want) {
		t.Errorf("%d answers, want %d", len(resp.GetErrnos()), len(want))
	}
	vm.Rootfs(t, "address")
	if out, _, _ := vm.Run(t, "address", sh("address", "grep -c 10.9.9.9 /proc/net/fib_trie"), ""); out == "0\n" || out == "" {
		t.Errorf("the container finds its address %s times", out)
	}
	// A message that nobody would answer is refused.
	unanswered := rtnetlink(unix.RTM_NEWADDR, 0, loopbackAddress(1)...)
	unanswered[6] &^= unix.NLM_F_ACK
	for _, m := range [][]byte{unanswered, {1, 2, 3}, nil} {
		_, err := vm.Rtnetlink(t.Context(), &api.RtnetlinkRequest{Messages: [][]byte{m}})
		wantError(t, err, codes.Unknown, "malformed rtnetlink message")
	}
}

// testResolver: a question goes over the stream that was named last.
func testResolver(t *testing.T, vm *agenttest.VM) {
	started(t, vm, "resolver", sh("resolver", "sleep 1000"))
	for _, execID := range []string{"first", "second"} {
		s := vm.Stream(t)
		if _, err := vm.Resolver(t.Context(), &api.ResolverRequest{Stream: s.StreamID()}); err != nil {
			t.Fatal(err)
		}
		asked := make(chan string, 1)
		go func() {
			q, err := api.ReadQuery(s)
			if err != nil {
				asked <- err.Error()
				return
			}
			asked <- string(q.Message)
			// An answer to nobody's question, then one without a message.
			_ = api.WriteQuery(s, api.Query{ID: q.ID + 7, Message: []byte("lost")})
			_ = api.WriteQuery(s, api.Query{ID: q.ID, Stream: q.Stream})
		}()
		// Over TCP: two bytes of length and a message; there is no answer, so
		// the connection ends.
		out, _ := execSh(t, vm, "resolver", execID, `printf '\000\005hello' | nc 127.0.0.11 53 | wc -c`)
		if got := <-asked; got != "hello" || strings.TrimSpace(out) != "0" {
			t.Errorf("the host is asked %q, the program gets %s bytes", got, out)
		}
	}
}
