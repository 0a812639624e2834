package qemu

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// serveQMP plays QEMU: it greets, and answers each command with the next of
// answers.
func serveQMP(t *testing.T, greeting string, answers ...string) *qmp {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	go func() {
		io.WriteString(theirs, greeting+"\n")
		commands := bufio.NewScanner(theirs)
		for _, a := range answers {
			if !commands.Scan() {
				return
			}
			io.WriteString(theirs, a+"\n")
		}
		commands.Scan() // the next command gets no answer
	}()
	return newQMP(ours)
}

const greeting = `{"QMP": {"version": {}, "capabilities": []}}`

func TestQMP(t *testing.T) {
	q := serveQMP(t, greeting, `{"return": {}}`,
		`{"event": "STOP", "data": {}}`+"\n"+`{"return": {}}`,
		`{"error": {"class": "GenericError", "desc": "no"}}`,
		`{"return": {"status": "paused"}}`)
	if err := q.do(t.Context(), "stop", nil, nil); err != nil {
		t.Error(err)
	}
	if err := q.do(t.Context(), "nonsense", nil, nil); err == nil || !strings.Contains(err.Error(), "GenericError: no") {
		t.Errorf("a refused command = %v", err)
	}
	var status struct{ Status string }
	if err := q.do(t.Context(), "query-status", nil, &status); err != nil || status.Status != "paused" {
		t.Errorf("query-status = %+v, %v", status, err)
	}
}

func TestQMPFaults(t *testing.T) {
	tests := []struct {
		name    string
		q       *qmp
		wantErr string
	}{
		{"no greeting", serveQMP(t, `{"hello": 1}`), "not a QMP greeting"},
		{"no JSON", serveQMP(t, `hello`), "invalid character"},
		{"endless line", serveQMP(t, strings.Repeat("x", qmpLine+1)), "buffer full"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.q.do(t.Context(), "stop", nil, nil)
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("do = %v, want %q", err, tt.wantErr)
			}
			if err := tt.q.do(t.Context(), "cont", nil, nil); err == nil || !strings.Contains(err.Error(), "earlier fault") {
				t.Errorf("do after a fault = %v", err)
			}
		})
	}
}

func TestQMPCancelled(t *testing.T) {
	q := serveQMP(t, greeting, `{"return": {}}`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error)
	go func() { done <- q.do(ctx, "stop", nil, nil) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("do = %v, want %v", err, context.Canceled)
	}
}

func TestTail(t *testing.T) {
	tl := newTail(4)
	for _, tt := range []struct{ write, want string }{
		{"", ""}, {"ab", "ab"}, {"cd", "abcd"}, {"e", "bcde"},
		{"0123456789", "6789"}, {"xyz", "9xyz"}, {"1234", "1234"}, {"5", "2345"},
	} {
		if n, err := tl.Write([]byte(tt.write)); n != len(tt.write) || err != nil {
			t.Errorf("Write(%q) = %d, %v", tt.write, n, err)
		}
		if got := string(tl.Bytes()); got != tt.want {
			t.Errorf("after %q: %q, want %q", tt.write, got, tt.want)
		}
	}
}
