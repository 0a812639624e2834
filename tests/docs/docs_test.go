// Package docs holds the documents to the tree: what they name exists.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the top of the tree.
const root = "../.."

// documents are the markdown files of the tree, from its top.
func documents(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 10 {
		t.Fatalf("only %q", files)
	}
	return files
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestLinks: a relative link leads to a file, and its fragment to a heading.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, file := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, file), -1) {
			path, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: link %s: %v", file, m[1], err)
				continue
			}
			if fragment != "" && !headings(read(t, target))[fragment] {
				t.Errorf("%s: link %s: there is no such heading", file, m[1])
			}
		}
	}
}

// headings are the anchors of a document, as GitHub makes them.
func headings(doc string) map[string]bool {
	anchors := map[string]bool{}
	drop := regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
	for line := range strings.Lines(doc) {
		if text, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			text = drop.ReplaceAllString(strings.ToLower(strings.TrimSpace(text)), "")
			anchors[strings.ReplaceAll(text, " ", "-")] = true
		}
	}
	return anchors
}

// TestPaths: what stands in backquotes and begins with a directory of the tree
// is there.
func TestPaths(t *testing.T) {
	path := regexp.MustCompile("`((?:libvm|guest|hack|tests|docs)/[A-Za-z0-9_./*-]+)`")
	for _, file := range documents(t) {
		for _, m := range path.FindAllStringSubmatch(read(t, file), -1) {
			found, err := filepath.Glob(filepath.Join(root, m[1]))
			if err != nil || len(found) == 0 {
				t.Errorf("%s: there is no %s", file, m[1])
			}
		}
	}
}

// TestSpecification: each promise names tests, and they are there: a script by
// its path, a Go test as "directory: TestName" or "directory: TestName/sub".
func TestSpecification(t *testing.T) {
	doc := read(t, filepath.Join(root, "SPECIFICATION.md"))
	row := regexp.MustCompile(`^\| (\d+\.\d+) \| ([^|]+) \| ([^|]+) \|\n$`)
	seen := map[string]bool{}
	for line := range strings.Lines(doc) {
		r := row.FindStringSubmatch(line)
		switch {
		case r == nil && regexp.MustCompile(`^\|\s*\d`).MatchString(line):
			t.Errorf("not a number, a promise and its tests: %s", line)
			continue
		case r == nil:
			continue
		}
		number, tests := r[1], r[3]
		if seen[number] {
			t.Errorf("%s is there twice", number)
		}
		seen[number] = true
		if tests == "measured by `make bench`" && strings.HasPrefix(number, figures) {
			continue
		}
		named := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(tests, -1)
		if len(named) == 0 {
			t.Errorf("%s names no test", number)
		}
		for _, n := range named {
			if err := exists(n[1]); err != nil {
				t.Errorf("%s: %v", number, err)
			}
		}
	}
	if len(seen) < 20 {
		t.Fatalf("%d promises: has the form of the table changed?", len(seen))
	}
}

// figures begins the numbers of targets, which no test holds.
const figures = "11."

// exists says whether there is the test that name names.
func exists(name string) error {
	dir, test, isGo := strings.Cut(name, ": ")
	if !isGo {
		_, err := os.Stat(filepath.Join(root, name))
		return err
	}
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		return err
	}
	function, sub, _ := strings.Cut(test, "/")
	declared, err := regexp.Compile(`(?m)^func ` + function + `\(\w+ \*testing\.[TF]\) \{$`)
	if err != nil {
		return err
	}
	hasFunction, hasSub := false, sub == ""
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		text := string(data)
		hasFunction = hasFunction || declared.MatchString(text)
		hasSub = hasSub || strings.Contains(text, fmt.Sprintf("%q", sub))
	}
	if !hasFunction || !hasSub {
		return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return nil
}
