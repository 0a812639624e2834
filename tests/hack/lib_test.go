//go:build linux

package hack

import (
	"strings"
	"testing"
)

// TestRun: of a function that run calls each line counts, whoever asks how it went.
func TestRun(t *testing.T) {
	lines := `
. hack/lib.sh
failing() { echo begun; false; echo after; }
working() { echo begun; cat; echo ended >&2; }
log=$(mktemp)
trap 'rm "$log"' EXIT
`
	for _, test := range []struct{ name, lines, want string }{
		{"plain", `run x "$log" -- failing; echo passed`, ""},
		{"asked by ||", `run x "$log" -- failing || echo "status $?"`, "status 1"},
		{"asked by if", `if run x "$log" -- failing; then echo passed; else echo failed; fi`, "failed"},
		{"status", `leave() { exit 7; }; run x "$log" -- leave || echo "status $?"`, "status 7"},
		{"working", `run x "$log" -- working && paste -sd , "$log"`, "begun,ended"},
		{"strict", `if strict failing >"$log"; then echo passed; else cat "$log"; fi`, "begun"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := bash(t, tree(t), lines+"exec 2>/dev/null;"+test.lines)
			if got := strings.TrimSpace(out); got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("printed %q, ended with %v, want %q", got, err, test.want)
			}
		})
	}
}
