package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// goTest is what `go test -json` says of a package of testdata, or of several.
func goTest(t *testing.T, packages ...string) *bytes.Buffer {
	t.Helper()
	args := []string{"test", "-json", "-count=1", "-p=1"}
	for _, p := range packages {
		args = append(args, "./testdata/"+p)
	}
	var out bytes.Buffer
	cmd := exec.Command("go", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return &out
}

func TestSummary(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	var out bytes.Buffer
	if err := run(goTest(t, "broken", "failing", "panics", "setup"), &out, log, false); err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(out.String(), "--- skipped:\n")
	got = regexp.MustCompile(`[\w/.]*/summary/testdata/|0x[0-9a-f]+|\d+ s$`).ReplaceAllString(got, "")
	for _, want := range []string{
		"failing TestSkipped: failing_test.go:10: there is no such device\n--- what failed:\n",
		"undefined: notThere\n",
		"--- FAIL: broken\n",
		"    failing_test.go:21: the cause\n",
		"    failing_test.go:29: something was left .[31m\n",
		"--- FAIL: panics TestPanics\npanic: no hope",
		"--- FAIL: setup\nsetup: the binary under test is missing\n",
		"--- failed:\nbroken\nfailing TestParent/failing\nfailing TestOwn\npanics TestPanics\nsetup\n--- in ",
		"\n3 passed, 5 failed, 1 skipped\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in it", want)
		}
	}
	for _, no := range []string{"not worth", "of a test that passes", "of the parent"} {
		if strings.Contains(got, no) {
			t.Errorf("%q is in it", no)
		}
	}
	for line := range strings.Lines(got) {
		if len(line) > maxWidth+1 {
			t.Errorf("a line of %d bytes: %.40s", len(line), line)
		}
	}
	if n := strings.Count(got, "far away"); n == 0 || n > maxLines {
		t.Errorf("%d lines of 100 that are not the end", n)
	}
	if t.Failed() {
		t.Log(got)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"=== RUN   TestFine", "not worth a word", "--- PASS: TestFine", strings.Repeat("long ", 10000), "goroutine "} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("%.40q is not in the log", want)
		}
	}
}

// Many failures: what is said of them stays within what is seen of a log.
func TestBudget(t *testing.T) {
	list := strings.Split(strings.Repeat(strings.Repeat("x", maxWidth)+"\n", 50), "\n")[:50]
	for _, failed := range []int{1, 3, 10} {
		size := len(strings.Join(end(list, max(minShare, budget/failed)), "\n"))
		if size == 0 || size*failed > budget {
			t.Errorf("%d failed tests: %d bytes each", failed, size)
		}
	}
	if got := end(list, 10); len(got) != 1 {
		t.Errorf("%d lines where none fits", len(got))
	}
}
