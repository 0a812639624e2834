//go:build linux

package script

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/runm/runm/tests/internal/leak"
)

// patience bounds what must come to pass, on a machine that is busy.
const patience = 30 * time.Second

// again is the pause between two looks at a fact that sends no event.
const again = 50 * time.Millisecond

// cmdStatus runs a command that must end with a status: status N CMD...
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := exitStatus(ts, ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func exitStatus(ts *testscript.TestScript, err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		ts.Fatalf("%v", err)
		return -1
	}
}

// cmdDetached runs a command whose stdio outlives it: a container's is that of
// `create`. It goes to the files out and err of the work directory, which are
// emptied first; stdin is /dev/null.
func cmdDetached(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: detached command [args...]")
	}
	line := append([]string{"-c", `exec "$@" </dev/null >$WORK/out 2>$WORK/err`, "detached"}, args...)
	err := ts.Exec("sh", line...)
	text, _ := os.ReadFile(ts.Getenv("WORK") + "/err")
	switch {
	case err != nil && !neg:
		ts.Fatalf("%v: %s", err, text)
	case err == nil && neg:
		ts.Fatalf("unexpected success")
	}
}

// cmdUntil runs a command again and again until its stdout matches.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN command [args...]")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline := time.Now().Add(patience)
	for {
		err := ts.Exec(args[1], args[2:]...)
		if want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q did not come within %v (%v)", args[0], patience, err)
		}
		time.Sleep(again)
	}
}

// cmdLeaks asserts, in the midst of a script, that nothing is left so far.
func cmdLeaks(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: leaks")
	}
	scope := ts.Value(scopeKey{}).(*leak.Scope)
	left, err := scope.Wait(settle)
	ts.Check(err)
	if len(left) > 0 {
		ts.Fatalf("left behind:%s", list(left))
	}
}

// lines splits a file into lines without the last one's end.
func lines(data []byte) []string {
	return strings.Split(string(bytes.TrimRight(data, "\n")), "\n")
}
