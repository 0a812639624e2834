package report

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Text writes what a person reads on a terminal.
func (r *Report) Text(w io.Writer) error {
	fmt.Fprintln(w, r.Machine)
	for _, s := range r.Sections {
		if err := s.text(w); err != nil {
			return err
		}
	}
	return nil
}

func (s *Section) text(w io.Writer) error {
	fmt.Fprintf(w, "\n%s: %s, %s, %s\n", s.Title, s.Date.Format("2006-01-02 15:04"), rounds(s.Rounds), s.Quiet)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if len(s.Rows) > 0 {
		fmt.Fprintln(tw, "\tmeasured\tfloor\tratio\tprocessor time\ttarget\t")
	}
	for _, row := range s.Rows {
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Name, spread(row.Values, row.Unit),
			spread(row.Floor, row.Unit), row.ratio(), row.processorTime(), row.Target, row.result())
	}
	if len(s.Phases) > 0 {
		fmt.Fprintln(tw, "\ttook\tat\t\t\t\t")
	}
	for _, p := range s.Phases {
		fmt.Fprintf(tw, "  %s\t%s\t%s\t\t\t\t\n", p.Until, Amount(p.Took, "ms"), Amount(p.At, "ms"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, n := range s.Notes {
		fmt.Fprintf(w, "  note: %s\n", n)
	}
	return nil
}

// ratio is "" where there is no floor.
func (r Row) ratio() string {
	if !r.HasFloor() {
		return ""
	}
	return fmt.Sprintf("%.2f", r.Ratio())
}

func rounds(n int) string {
	if n == 1 {
		return "1 round"
	}
	return fmt.Sprintf("%d rounds", n)
}
