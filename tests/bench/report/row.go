package report

import (
	"fmt"
	"math"
	"slices"
)

// Row is one measure: values of runm's, or of a peer's, and as many of its
// floor's.
type Row struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`   // "" is a number of things
	Values []float64 `json:"values"` // in the order in which they were taken
	Kind   Kind      `json:"kind,omitempty"`
	// NoBar: another row has the values in the chart already.
	NoBar bool `json:"noBar,omitempty"`

	// FloorName is what cannot be avoided; "" where there is none.
	FloorName string    `json:"floorName,omitempty"`
	Floor     []float64 `json:"floor,omitempty"`

	// CPU and FloorCPU are the processor time of each value in seconds, of all
	// processes that took part. nil where it is not known.
	CPU      []float64 `json:"cpu,omitempty"`
	FloorCPU []float64 `json:"floorCPU,omitempty"`

	Target string `json:"target,omitempty"`
	// Met is nil where there is no target.
	Met *bool `json:"met,omitempty"`
}

// Kind is whose a row is. The zero Kind is runm's.
type Kind string

const (
	KindRunm  Kind = ""
	KindPeer  Kind = "peer"
	KindFloor Kind = "floor"
)

// Aim sets the target: its words and whether it is met.
func (r Row) Aim(target string, met bool) Row {
	r.Target, r.Met = target, &met
	return r
}

// AtMost is the row with the target that it takes at most so many times the
// floor. stretch, if not 0, is what would be better still.
func (r Row) AtMost(times, stretch float64) Row {
	return r.Aim(target("at most %s times", times, stretch), r.Ratio() <= times)
}

// AtLeast is the row with the target that it reaches at least that part of the
// floor.
func (r Row) AtLeast(part float64) Row {
	return r.Aim(fmt.Sprintf("at least %g", part), r.Ratio() >= part)
}

// Within is the row with the target that its value is at most limit.
func (r Row) Within(limit, stretch float64) Row {
	return r.Aim(target("at most %s "+r.Unit, limit, stretch), r.Value() <= limit)
}

func target(format string, limit, stretch float64) string {
	s := fmt.Sprintf(format, fmt.Sprintf("%g", limit))
	if stretch != 0 {
		s += fmt.Sprintf(", better %g", stretch)
	}
	return s
}

// Value is what the row says: the median.
func (r Row) Value() float64 { return Median(r.Values) }

// HasFloor says whether Ratio means something.
func (r Row) HasFloor() bool { return Median(r.Floor) > 0 }

// Ratio is the median against the floor's median.
func (r Row) Ratio() float64 { return Median(r.Values) / Median(r.Floor) }

// result is the verdict in a word.
func (r Row) result() string {
	switch {
	case r.Met == nil:
		return ""
	case *r.Met:
		return "met"
	default:
		return "missed"
	}
}

// processorTime is the row's processor time, beside the floor's where there is
// one.
func (r Row) processorTime() string {
	switch own, floor := Median(r.CPU), Median(r.FloorCPU); {
	case own == 0:
		return ""
	case floor == 0:
		return Amount(own, "s")
	default:
		return fmt.Sprintf("%s / %s = %.2f", Amount(own, "s"), Amount(floor, "s"), own/floor)
	}
}

// spread is the median and in brackets the least and the most.
func spread(values []float64, unit string) string {
	switch len(values) {
	case 0:
		return ""
	case 1:
		return Amount(values[0], unit)
	}
	return fmt.Sprintf("%s (%s to %s)", Amount(Median(values), unit),
		digits(slices.Min(values), unit), digits(slices.Max(values), unit))
}

// Amount is a number with its unit.
func Amount(v float64, unit string) string {
	if unit == "" {
		return digits(v, unit)
	}
	return digits(v, unit) + " " + unit
}

// digits is v with three significant digits, and no fewer before the point. A
// number of things has no fraction.
func digits(v float64, unit string) string {
	switch {
	case unit == "" || math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// Median is 0 of nothing.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
