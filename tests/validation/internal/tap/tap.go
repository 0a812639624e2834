// Package tap reads the Test Anything Protocol as runtime-tools prints it:
// several documents in one stream, JSON in the YAML blocks, and stray lines.
package tap

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxLine bounds one line in bytes: a YAML block holds a whole container's
// output on one line.
const maxLine = 16 << 20

// A Result is what a stream asserted.
type Result struct {
	OK, NotOK, Skipped int
	Planned            int      // sum of all "1..N"
	Plans              int      // how many "1..N" there were
	Failures           []string // the text of each "not ok", in order
	Bailed             bool     // "Bail out!" was seen
}

// Asserted counts the test points that were not skipped.
func (r Result) Asserted() int { return r.OK + r.NotOK }

// Complete says that there was a plan and every planned point was reported.
func (r Result) Complete() bool {
	return r.Plans > 0 && !r.Bailed && r.Planned == r.Asserted()+r.Skipped
}

// Parse reads in to its end. Lines that are not TAP are skipped, as the
// protocol demands; the only errors are those of reading.
func Parse(in io.Reader) (Result, error) {
	var r Result
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	inBlock := false
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		if inBlock && indented(line) {
			inBlock = strings.TrimSpace(line) != "..."
			continue
		}
		// A line that is not indented ends a block that was never closed.
		inBlock = indented(line) && strings.TrimSpace(line) == "---"
		if !inBlock {
			r.add(line)
		}
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return r, fmt.Errorf("tap: line over %d bytes: %w", maxLine, err)
		}
		return r, fmt.Errorf("tap: %w", err)
	}
	return r, nil
}

func indented(line string) bool {
	return line == "" || line[0] == ' ' || line[0] == '\t'
}

// add counts one line outside YAML blocks.
func (r *Result) add(line string) {
	if text, ok := point(line, "not ok"); ok {
		if skipped(text) {
			r.Skipped++
			return
		}
		r.NotOK++
		r.Failures = append(r.Failures, text)
		return
	}
	if text, ok := point(line, "ok"); ok {
		if skipped(text) {
			r.Skipped++
			return
		}
		r.OK++
		return
	}
	if strings.HasPrefix(line, "Bail out!") {
		r.Bailed = true
		return
	}
	if n, ok := plan(line); ok {
		r.Plans++
		r.Planned += n
	}
}

// point splits a test point into its verdict and "NUMBER - DESCRIPTION".
func point(line, verdict string) (text string, ok bool) {
	rest, ok := strings.CutPrefix(line, verdict)
	if !ok || (rest != "" && rest[0] != ' ') {
		return "", false
	}
	return strings.TrimSpace(rest), true
}

// skipped knows the SKIP and TODO directives: neither asserts anything.
func skipped(text string) bool {
	_, directive, ok := strings.Cut(text, "# ")
	if !ok {
		return false
	}
	directive = strings.ToUpper(strings.TrimSpace(directive))
	return strings.HasPrefix(directive, "SKIP") || strings.HasPrefix(directive, "TODO")
}

func plan(line string) (points int, ok bool) {
	rest, ok := strings.CutPrefix(line, "1..")
	if !ok {
		return 0, false
	}
	number, _, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(number)
	return n, err == nil && n >= 0
}
