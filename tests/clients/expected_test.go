//go:build linux

package clients

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/runm/runm/tests/internal/lines"
)

// An expectation is one line of expected.txt.
type expectation struct {
	results map[string]string // by runtime
	reason  string
}

// loadExpected reads expected.txt, by "client use", and asserts that it names
// each use of the lists once and nothing else.
func loadExpected(t *testing.T) map[string]expectation {
	t.Helper()
	f, err := os.Open("expected.txt")
	must(t, err)
	defer f.Close()
	expected, err := parseExpected(f)
	must(t, err)
	named := 0
	for _, l := range lists() {
		for _, use := range l.uses(t) {
			named++
			if _, ok := expected[l.client+" "+use]; !ok {
				t.Errorf("expected.txt does not name %s %s", l.client, use)
			}
		}
	}
	if named < len(expected) {
		t.Errorf("expected.txt has %d lines, there are %d uses", len(expected), named)
	}
	return expected
}

func parseExpected(in io.Reader) (map[string]expectation, error) {
	all := map[string]expectation{}
	err := lines.Each(in, func(line string) (string, error) {
		f := strings.Fields(line)
		if len(f) < 4 {
			return "", fmt.Errorf("%d columns, want at least 4", len(f))
		}
		e := expectation{results: map[string]string{"runc": f[2], "runm": f[3]}, reason: strings.Join(f[4:], " ")}
		for _, r := range e.results {
			if r != "pass" && r != "fail" && r != "any" {
				return "", fmt.Errorf("expected %q", r)
			}
		}
		if (f[2] != "pass" || f[3] != "pass") && e.reason == "" {
			return "", errors.New("not to pass takes a reason")
		}
		name := f[0] + " " + f[1]
		all[name] = e
		return name, nil
	})
	return all, err
}

func TestExpectedRejects(t *testing.T) {
	for _, text := range []string{
		"docker run pass",
		"docker run pass maybe",
		"docker run pass fail",
		"docker run any pass",
		"docker run pass pass\ndocker run pass pass",
	} {
		if all, err := parseExpected(strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken: %+v", text, all)
		}
	}
}
