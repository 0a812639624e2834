// Package lines reads the lists of what tests expect.
package lines

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Each calls row for each line but for empty ones and comments (#), without the
// space around it, until it returns an error. Row returns what its line is about,
// which no other line may be.
func Each(in io.Reader, row func(line string) (name string, err error)) error {
	seen := map[string]bool{}
	text := bufio.NewScanner(in)
	for n := 1; text.Scan(); n++ {
		line := strings.TrimSpace(text.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, err := row(line)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if seen[name] {
			return fmt.Errorf("line %d: %s twice", n, name)
		}
		seen[name] = true
	}
	return text.Err()
}
