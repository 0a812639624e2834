package tap

import (
	"bufio"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name, in string
		want     Result
		complete bool
	}{
		{"empty", "", Result{}, false},
		{"nothing asserted", "TAP version 13\n1..0\n", Result{Plans: 1}, true},
		{"plain", "TAP version 13\nok 1 - a\nnot ok 2 - b\n1..2\n",
			Result{OK: 1, NotOK: 1, Planned: 2, Plans: 1, Failures: []string{"2 - b"}}, true},
		{"plan first, CRLF", "1..1\r\nok 1\r\n", Result{OK: 1, Planned: 1, Plans: 1}, true},
		{"two documents", "TAP version 13\nok 1\n1..1\nTAP version 13\nok 1\nok 2\n1..2\n",
			Result{OK: 3, Planned: 3, Plans: 2}, true},
		{"JSON in a YAML block", "ok 1\n  ---\n  {\n    \"stdout\": \"not ok 1\\n\"\n  }\n  ...\nok 2\n1..2\n",
			Result{OK: 2, Planned: 2, Plans: 1}, true},
		{"not ok inside a block does not count", "ok 1\n  ---\n  not ok 2\n  ...\n1..1\n",
			Result{OK: 1, Planned: 1, Plans: 1}, true},
		{"block never closed", "ok 1\n  ---\n  {\nnot ok 2 - b\n1..2\n",
			Result{OK: 1, NotOK: 1, Planned: 2, Plans: 1, Failures: []string{"2 - b"}}, true},
		{"stray output", "<nil>\nokay\nok 1\n1..1\n1..x\n", Result{OK: 1, Planned: 1, Plans: 1}, true},
		{"skip and todo", "ok 1 # SKIP no\nnot ok 2 # todo later\nok 3 - c # 1\n1..3\n",
			Result{OK: 1, Skipped: 2, Planned: 3, Plans: 1}, true},
		{"short of the plan", "ok 1\n1..2\n", Result{OK: 1, Planned: 2, Plans: 1}, false},
		{"no plan", "ok 1\n", Result{OK: 1}, false},
		{"bail out", "1..1\nok 1\nBail out! no\n", Result{OK: 1, Planned: 1, Plans: 1, Bailed: true}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse(strings.NewReader(test.in))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			if got.Complete() != test.complete {
				t.Errorf("Complete() = %v, want %v", got.Complete(), test.complete)
			}
		})
	}
}

func TestParseLongLine(t *testing.T) {
	_, err := Parse(strings.NewReader(strings.Repeat("x", maxLine+1)))
	if !errors.Is(err, bufio.ErrTooLong) {
		t.Errorf("got %v, want %v", err, bufio.ErrTooLong)
	}
}

// No stream makes Parse count more points than it has lines.
func FuzzParse(f *testing.F) {
	f.Add("TAP version 13\nok 1\n  ---\n  {}\n  ...\n1..1\n")
	f.Add("not ok\nok\n1..0")
	f.Fuzz(func(t *testing.T, in string) {
		r, err := Parse(strings.NewReader(in))
		if err != nil {
			return
		}
		if lines := strings.Count(in, "\n") + 1; r.Asserted()+r.Skipped+r.Plans > lines {
			t.Errorf("%+v from %d lines", r, lines)
		}
		if len(r.Failures) != r.NotOK {
			t.Errorf("%d failures named, %d counted", len(r.Failures), r.NotOK)
		}
	})
}
