// Command summary reads the output of `go test -json`. It keeps what `go test
// -v` would have printed in a log, shows what ends as it ends, and says last
// what was skipped and why, what failed with the end of its output, and how
// many there were. Whoever sees only the last kilobytes sees what matters.
//
//	go test -json ./... 2>&1 | summary [-v] LOG
//
// It succeeds if it could do its work, whatever the tests' results.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gotest.tools/gotestsum/testjson"
)

const (
	maxLines = 20   // of one failed test
	maxWidth = 300  // bytes of a line
	budget   = 8000 // bytes of all failed tests together, as far as
	minShare = 500  // each has this many
)

func main() {
	verbose := flag.Bool("v", false, "show each test that ends, not only packages and failures")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: summary [-v] LOG")
		os.Exit(2)
	}
	if err := run(os.Stdin, os.Stdout, flag.Arg(0), *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, name string, verbose bool) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	log := bufio.NewWriter(file)
	result, err := testjson.ScanTestOutput(testjson.ScanConfig{
		Stdout:                   in,
		Handler:                  handler{log, out, verbose},
		IgnoreNonJSONOutputLines: true, // the go command's own
	})
	if err != nil {
		return err
	}
	if err := log.Flush(); err != nil {
		return err
	}
	return summarize(out, result)
}

// handler is told what happens, as it happens.
type handler struct {
	log     *bufio.Writer
	out     io.Writer
	verbose bool
}

func (h handler) Event(e testjson.TestEvent, _ *testjson.Execution) error {
	if _, err := h.log.WriteString(e.Output); err != nil {
		return err
	}
	if e.Action.IsTerminal() {
		// Somebody may want to read it while a long test runs.
		if err := h.log.Flush(); err != nil {
			return err
		}
	}
	var err error
	switch {
	case e.PackageEvent() && hasAny(e.Output, "ok ", "FAIL\t"):
		_, err = io.WriteString(h.out, e.Output)
	case e.Test != "" && (e.Action == testjson.ActionFail || h.verbose && e.Action.IsTerminal()):
		_, err = fmt.Fprintf(h.out, "--- %s: %s (%.2fs)\n", strings.ToUpper(string(e.Action)), e.Test, e.Elapsed)
	}
	return err
}

func (h handler) Err(text string) error {
	fmt.Fprintln(h.log, text)
	_, err := fmt.Fprintln(h.out, text)
	return err
}

func summarize(w io.Writer, result *testjson.Execution) error {
	out := bufio.NewWriter(w)
	skipped := result.Skipped()
	if len(skipped) > 0 {
		fmt.Fprintln(out, "--- skipped:")
	}
	for _, t := range skipped {
		reason := strings.Join(lines(ownOutput(result, t)), " ")
		fmt.Fprintln(out, cut(name(t)+": "+strings.TrimSpace(reason)))
	}
	// A test that fails because of a test within it is not told of.
	failed := testjson.FilterFailedUnique(result.Failed())
	if len(failed) > 0 {
		fmt.Fprintln(out, "--- what failed:")
	}
	if errs := lines(strings.Join(result.Errors(), "")); len(errs) > 0 { // of compilers
		fmt.Fprintln(out, strings.Join(end(errs, budget), "\n"))
	}
	for _, t := range failed {
		fmt.Fprintf(out, "--- FAIL: %s\n", name(t))
		for _, line := range end(lines(ownOutput(result, t)), max(minShare, budget/len(failed))) {
			fmt.Fprintln(out, line)
		}
	}
	if len(failed) > 0 {
		fmt.Fprintln(out, "--- failed:")
	}
	for _, t := range failed {
		fmt.Fprintln(out, name(t))
	}
	passed := 0
	for _, p := range result.Packages() {
		passed += len(result.Package(p).Passed)
	}
	fmt.Fprintf(out, "--- in %.0f s\n", result.Elapsed().Seconds())
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", passed, len(failed), len(skipped))
	return out.Flush()
}

// name is what to call a test, or a package that failed as such.
func name(t testjson.TestCase) string {
	return strings.TrimSpace(testjson.RelativePackagePath(t.Package) + " " + t.Test.Name())
}

// ownOutput is a test's output without that of the tests within it.
func ownOutput(result *testjson.Execution, t testjson.TestCase) string {
	var b strings.Builder
	_ = result.Package(t.Package).WriteOutputTo(&b, t.ID) // a Builder takes everything
	return b.String()
}

// lines are those of text that the test printed, none longer than maxWidth.
func lines(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		line = strings.TrimRightFunc(line, unicode.IsSpace)
		if line != "" && !hasAny(strings.TrimLeft(line, " "), "=== ", "--- FAIL: ", "--- SKIP: ") {
			list = append(list, cut(line))
		}
	}
	return list
}

// cut makes a line at most maxWidth long and fit for a terminal.
func cut(line string) string {
	line = strings.Map(func(r rune) rune {
		if r != '\t' && !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, line)
	if len(line) <= maxWidth {
		return line
	}
	const dots = " ..."
	n := maxWidth - len(dots)
	for !utf8.RuneStart(line[n]) {
		n--
	}
	return line[:n] + dots
}

// end is the end of list that has room: at most maxLines, and as many as fit
// into share bytes, but one. Of a panic it is the beginning: stacks are long.
func end(list []string, share int) []string {
	panics := slices.IndexFunc(list, func(line string) bool { return strings.HasPrefix(line, "panic: ") })
	if panics >= 0 {
		list = list[panics:]
	} else {
		slices.Reverse(list)
	}
	n, size := 0, 0
	for n < min(maxLines, len(list)) {
		size += len(list[n]) + 1
		if n > 0 && size > share {
			break
		}
		n++
	}
	list = list[:n]
	if panics < 0 {
		slices.Reverse(list)
	}
	return list
}

func hasAny(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
