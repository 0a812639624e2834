//go:build linux

package validation

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/runm/runm/tests/internal/lines"
)

// Classes of programs, as expected.txt explains them.
const (
	inside    = "inside"
	lifecycle = "lifecycle"
	standIn   = "stand-in"
	nothing   = "nothing" // also a result
)

// Results of a program.
const (
	pass   = "pass"
	fail   = "fail"
	either = "either" // only expected
	needs  = "needs:" // only expected; a path follows
)

// An expectation is one line of expected.txt.
type expectation struct {
	program, class, want string
	minOK, maxNotOK      int
	reason               string
}

// loadExpected reads expected.txt.
func loadExpected(t *testing.T) []expectation {
	t.Helper()
	f, err := os.Open("expected.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := parseExpected(f)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func parseExpected(in io.Reader) ([]expectation, error) {
	var list []expectation
	err := lines.Each(in, func(line string) (string, error) {
		e, err := parseLine(line)
		list = append(list, e)
		return e.program, err
	})
	return list, err
}

func parseLine(line string) (expectation, error) {
	f := strings.Fields(line)
	if len(f) < 4 {
		return expectation{}, fmt.Errorf("%d columns, want at least 4", len(f))
	}
	e := expectation{program: f[0], class: f[1], want: f[2], reason: strings.Join(f[4:], " ")}
	if _, err := fmt.Sscanf(f[3], "%d/%d", &e.minOK, &e.maxNotOK); err != nil {
		return e, fmt.Errorf("points %q: %w", f[3], err)
	}
	if !slices.Contains([]string{inside, lifecycle, standIn, nothing}, e.class) {
		return e, fmt.Errorf("class %q", e.class)
	}
	known := slices.Contains([]string{pass, fail, nothing, either}, e.want) || strings.HasPrefix(e.want, needs+"/")
	if !known {
		return e, fmt.Errorf("expected %q", e.want)
	}
	if e.want == nothing && e.class != nothing {
		return e, fmt.Errorf("class %s, expected %s", e.class, e.want)
	}
	if e.class == nothing && e.want != nothing && e.reason == "" {
		return e, fmt.Errorf("class %s, expected %q without a reason", e.class, e.want)
	}
	if e.want != pass && e.want != nothing && e.reason == "" {
		return e, fmt.Errorf("expected %q without a reason", e.want)
	}
	return e, nil
}

// wanted is the expectation on this machine: pass, fail, nothing or either.
func (e expectation) wanted() string {
	path, ok := strings.CutPrefix(e.want, needs)
	if !ok {
		return e.want
	}
	if _, err := os.Stat(path); err == nil {
		return pass
	}
	return fail
}

// surprise says how an outcome differs from the expectation, or "".
func (e expectation) surprise(o outcome) string {
	switch want := e.wanted(); {
	case o.timedOut:
		return "ran out of time"
	case want != either && o.result() != want:
		return fmt.Sprintf("%s, expected %s", o.result(), want)
	case want != either && o.tap.OK < e.minOK, o.tap.NotOK > e.maxNotOK:
		return fmt.Sprintf("%d/%d points, expected %d/%d", o.tap.OK, o.tap.NotOK, e.minOK, e.maxNotOK)
	}
	return ""
}

func TestExpectedRejects(t *testing.T) {
	for _, line := range []string{
		"x inside pass",
		"x inside pass 1",
		"x outside pass 1/0",
		"x inside maybe 1/0 because",
		"x inside fail 1/1",
		"x stand-in needs:/y 1/1",
		"x nothing pass 1/0",
		"x inside nothing 0/0",
		"x inside pass 1/0\nx inside pass 1/0",
	} {
		if list, err := parseExpected(strings.NewReader(line)); err == nil {
			t.Errorf("%q is taken: %+v", line, list)
		}
	}
}

// The numbers that the project publishes: 32 of 58 must pass.
func TestExpectedTotals(t *testing.T) {
	got := map[string]int{}
	for _, e := range loadExpected(t) {
		switch {
		case e.class == nothing:
			got["nothing"]++
		case e.want == pass && e.class == standIn:
			got["pass, stand-in"]++
		case e.want == pass:
			got["pass"]++
		default:
			got["not"]++
		}
	}
	want := map[string]int{"pass": 24, "pass, stand-in": 8, "nothing": 9, "not": 17}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
