//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// table is all that was measured.
type table struct {
	Date    time.Time `json:"date"`
	Machine machine   `json:"machine"`
	Rows    []row     `json:"rows"`
	Phases  []phase   `json:"phases"`
	// Notes are what went wrong without ending the measurement.
	Notes []string `json:"notes,omitempty"`
}

// row is one measure: a median against the median of its floor.
type row struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
	// Floor is 0 where there is none.
	Floor  float64 `json:"floor,omitempty"`
	Target string  `json:"target,omitempty"`
	// OK is nil where there is no target.
	OK *bool `json:"ok,omitempty"`
	// All are the single measurements, in the order they were made.
	All      []float64 `json:"all,omitempty"`
	AllFloor []float64 `json:"allFloor,omitempty"`
}

// phase is a part of one run, in milliseconds, up to the event Until.
type phase struct {
	Until string  `json:"until"`
	Took  float64 `json:"tookMs"`
	At    float64 `json:"atMs"`
}

// newRow is the row of the medians.
func newRow(name, unit string, all, floor []float64) row {
	return row{Name: name, Unit: unit, Value: median(all), Floor: median(floor), All: all, AllFloor: floor}
}

// aim sets the target: its words and whether it is met.
func (r row) aim(target string, met bool) row {
	r.Target, r.OK = target, &met
	return r
}

func (r row) ratio() float64 { return r.Value / r.Floor }

func (r row) result() string {
	switch {
	case r.OK == nil:
		return ""
	case *r.OK:
		return "ok"
	default:
		return "MISS"
	}
}

// print writes what a person reads.
func (t *table) print(w io.Writer) error {
	fmt.Fprintf(w, "%s, %s\n\n", t.Date.Format("2006-01-02 15:04"), t.Machine)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "\tmeasured\tfloor\tratio\ttarget\t")
	for _, r := range t.Rows {
		floor, ratio := "", ""
		if r.Floor > 0 {
			floor, ratio = amount(r.Floor, r.Unit), fmt.Sprintf("%.2f", r.ratio())
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, amount(r.Value, r.Unit), floor, ratio, r.Target, r.result())
	}
	if len(t.Phases) > 0 {
		fmt.Fprintln(tw, "\n`runm run` of /bin/true, with --debug and --keep\ttook\tat\t\t\t")
		for _, p := range t.Phases {
			fmt.Fprintf(tw, "  %s\t%s\t%s\t\t\t\n", p.Until, amount(p.Took, "ms"), amount(p.At, "ms"))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, n := range t.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", n)
	}
	return nil
}

// save writes t to path as JSON.
func (t *table) save(path string) error {
	data, err := json.MarshalIndent(t, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

func amount(v float64, unit string) string {
	if unit == "" {
		return fmt.Sprintf("%.0f", v)
	}
	if v < 10 {
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// median is 0 of nothing.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
