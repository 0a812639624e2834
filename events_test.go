//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// fakeSource answers Stats from a list, the last one for ever; the container
// ends when end is closed.
type fakeSource struct {
	answers []fakeAnswer
	end     chan struct{}
	atEnd   uint64 // oom kills
}

type fakeAnswer struct {
	stats    string
	oomKills uint64
	err      error
}

func (f *fakeSource) Stats() (json.RawMessage, uint64, error) {
	a := f.answers[0]
	if len(f.answers) > 1 {
		f.answers = f.answers[1:]
	} else {
		select {
		case <-f.end:
		default:
			close(f.end)
		}
	}
	return json.RawMessage(a.stats), a.oomKills, a.err
}

func (f *fakeSource) Wait(ctx context.Context) (uint64, error) {
	select {
	case <-f.end:
		return f.atEnd, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// kinds are the types of the events printed.
func kinds(t *testing.T, out string) string {
	t.Helper()
	var all []string
	for line := range strings.Lines(out) {
		var e struct{ Type, ID string }
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.ID != "c1" {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, e.Type)
	}
	return strings.Join(all, " ")
}

func TestEventsWatch(t *testing.T) {
	var out strings.Builder
	e := events{id: "c1", out: &out, source: &fakeSource{
		end: make(chan struct{}), atEnd: 6,
		answers: []fakeAnswer{
			{`{}`, 2, nil}, // before events looked: not its to report
			{`{"pids":{"current":1}}`, 2, nil},
			{`{}`, 4, nil},
			{"", 0, errors.New("the guest is busy")},
			{`{}`, 4, nil},
		},
	}}
	done := make(chan error, 1)
	go func() { done <- e.watch(context.Background(), time.Millisecond) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end with the container")
	}
	// The last stats may come more than once before the end is seen.
	got := kinds(t, out.String())
	if !strings.HasPrefix(got, "stats oom oom stats stats") || !strings.HasSuffix(got, "stats oom oom") {
		t.Errorf("%s", got)
	}
	if !strings.Contains(out.String(), `"pids":{"current":1}`) {
		t.Errorf("no pids in %s", out.String())
	}
}

// As runc's: go-runc decodes the first line, whatever it is.
func TestEventsStatsIsOneLine(t *testing.T) {
	var out strings.Builder
	e := events{id: "c1", out: &out, source: &fakeSource{
		end:     make(chan struct{}),
		answers: []fakeAnswer{{`{"pids":{"current":1}}`, 2, nil}},
	}}
	if err := e.stats(); err != nil {
		t.Fatal(err)
	}
	if got := kinds(t, out.String()); got != "stats" {
		t.Errorf("after 2 kills: %s", got)
	}
}

func TestEventsPassCountersOnly(t *testing.T) {
	var out strings.Builder
	e := events{id: "c1", out: &out, source: &fakeSource{
		end:     make(chan struct{}),
		answers: []fakeAnswer{{stats: `{"memory":{"cache":7},"evil":"\u001b[2J"}`}},
	}}
	if err := e.stats(); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, `"cache":7`) || strings.Contains(s, "evil") {
		t.Errorf("%s", s)
	}
	e.source = &fakeSource{end: make(chan struct{}), answers: []fakeAnswer{{stats: `{"memory":"much"}`}}}
	if err := e.stats(); err == nil || !strings.HasPrefix(err.Error(), "the guest's counters: ") {
		t.Errorf("%v", err)
	}
}

// A guest that counts to 2^64 must not keep events printing.
func TestEventsBoundOOM(t *testing.T) {
	var out strings.Builder
	e := events{id: "c1", out: &out}
	if err := e.oom(1 << 63); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != maxOOM {
		t.Errorf("%d lines", n)
	}
	if err := e.oom(1 << 63); err != nil || strings.Count(out.String(), "\n") != maxOOM {
		t.Errorf("%v: printed again", err)
	}
}

// Names in the counters are the guest's: none is one that a terminal obeys.
func TestEventsPrintASCII(t *testing.T) {
	var out strings.Builder
	e := events{id: "c1", out: &out, source: &fakeSource{
		end:     make(chan struct{}),
		answers: []fakeAnswer{{"{\"hugetlb\":{\"a\\u009b\u202e\u007f\U0001f600é\":{\"usage\":7}}}", 0, nil}},
	}}
	if err := e.stats(); err != nil {
		t.Fatal(err)
	}
	for _, b := range []byte(strings.TrimSuffix(out.String(), "\n")) {
		if b < ' ' || b > '~' {
			t.Fatalf("%q", out.String())
		}
	}
	var printed struct {
		Data struct {
			Hugetlb map[string]struct{ Usage int } `json:"hugetlb"`
		} `json:"data"`
	}
	err := json.Unmarshal([]byte(out.String()), &printed)
	if err != nil || printed.Data.Hugetlb["a\u009b\u202e\u007f\U0001f600é"].Usage != 7 {
		t.Errorf("%v: %q", err, out.String())
	}
}
