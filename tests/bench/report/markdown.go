package report

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The lines between which a document has the figures. Whatever is between them
// is replaced.
const (
	beginMark = "<!-- make bench-docs: begin -->"
	endMark   = "<!-- make bench-docs: end -->"
)

// Names of what WriteDocs writes.
const (
	document     = "performance.md"
	dataFile     = "performance.json"
	startChart   = "performance-start.svg"
	densityChart = "performance-density.svg"
)

// ErrNoMarks: the document has no place for the figures.
var ErrNoMarks = errors.New("no lines " + beginMark + " and " + endMark)

// DataFile is where a directory of documents has the figures as JSON.
func DataFile(dir string) string { return filepath.Join(dir, dataFile) }

// WriteDocs writes the data, the charts, and the table into performance.md of
// dir.
func (r *Report) WriteDocs(dir string) error {
	files, err := r.docs(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.content, 0o644); err != nil {
			return err
		}
	}
	return r.Save(DataFile(dir))
}

type file struct {
	name    string
	content []byte
}

// docs are the files of dir that are made from r.
func (r *Report) docs(dir string) ([]file, error) {
	old, err := os.ReadFile(filepath.Join(dir, document))
	if err != nil {
		return nil, err
	}
	var files []file
	var figures bytes.Buffer
	for _, c := range []struct {
		name, alt string
		draw      func() []byte
	}{
		{startChart, "How long it takes to run /bin/true: other runtimes, runm, and bare QEMU", r.StartChart},
		{densityChart, "How long each of many containers took to start while the ones before it ran", r.DensityChart},
	} {
		if image := c.draw(); image != nil {
			files = append(files, file{c.name, image})
			fmt.Fprintf(&figures, "![%s](%s)\n\n", c.alt, c.name)
		}
	}
	r.markdown(&figures)
	text, err := between(string(old), figures.String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, document), err)
	}
	return append(files, file{document, []byte(text)}), nil
}

// between puts figures in the place of what stands between the marks.
func between(text, figures string) (string, error) {
	head, rest, ok := strings.Cut(text, beginMark+"\n")
	_, tail, ended := strings.Cut(rest, endMark+"\n")
	if !ok || !ended {
		return "", ErrNoMarks
	}
	return head + beginMark + "\n" + figures + endMark + "\n" + tail, nil
}

// markdown writes one table of all sections, and the notes.
func (r *Report) markdown(w *bytes.Buffer) {
	fmt.Fprintf(w, "Measured on %s. Each figure is a median, with the least and the most in brackets.\n", r.Machine)
	fmt.Fprint(w, "\n| | measured | floor | ratio | processor time / floor's | target | |\n|---|---|---|---|---|---|---|\n")
	var notes []string
	for _, s := range r.Sections {
		if len(s.Rows) == 0 {
			continue
		}
		fmt.Fprintf(w, "| **%s** | | | | | | |\n", s.Title)
		for _, row := range s.Rows {
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s |\n", row.Name, spread(row.Values, row.Unit),
				spread(row.Floor, row.Unit), row.ratio(), row.processorTime(), row.Target, row.result())
		}
	}
	fmt.Fprint(w, "\n| measurement | when | rounds | what else the machine did |\n|---|---|---|---|\n")
	for _, s := range r.Sections {
		fmt.Fprintf(w, "| %s | %s | %d | %s |\n", s.Title, s.Date.Format("2006-01-02 15:04"), s.Rounds, s.Quiet)
		for _, n := range s.Notes {
			notes = append(notes, fmt.Sprintf("- %s: %s\n", s.Title, n))
		}
	}
	for _, s := range r.Sections {
		if len(s.Phases) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n| %s, until | took | at |\n|---|---|---|\n", s.Title)
		for _, p := range s.Phases {
			fmt.Fprintf(w, "| %s | %s | %s |\n", p.Until, Amount(p.Took, "ms"), Amount(p.At, "ms"))
		}
	}
	if len(notes) > 0 {
		fmt.Fprintf(w, "\n%s", strings.Join(notes, ""))
	}
}
