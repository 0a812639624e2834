// Package report is what the benchmark measured and how it is shown: as text,
// as Markdown, as charts in SVG, and as JSON, from which the others can be made
// again.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Report is all that was measured on one machine.
type Report struct {
	Machine  Machine   `json:"machine"`
	Sections []Section `json:"sections"`
}

// Machine is where the figures come from.
type Machine struct {
	CPU       string `json:"cpu"`
	Cores     int    `json:"cores"`
	MemoryGiB int    `json:"memoryGiB"`
	Kernel    string `json:"kernel"`
	QEMU      string `json:"qemu"`
	Accel     string `json:"accel"`
	VCPUs     int    `json:"vcpus"`    // of each guest
	GuestMiB  int    `json:"guestMiB"` // of each guest
}

func (m Machine) String() string {
	return fmt.Sprintf("%d cores of %s, %d GiB, Linux %s, %s, guests by %s with %d vCPU and %d MiB",
		m.Cores, m.CPU, m.MemoryGiB, m.Kernel, m.QEMU, m.Accel, m.VCPUs, m.GuestMiB)
}

// Section is one measurement: what was taken in the same minutes.
type Section struct {
	Name   string    `json:"name"`  // as -only has it
	Title  string    `json:"title"` // what a reader sees
	Date   time.Time `json:"date"`
	Rounds int       `json:"rounds"`
	Quiet  Quiet     `json:"quiet"`
	Rows   []Row     `json:"rows"`
	// Series have a value for each of many containers, in their order.
	Series []Series `json:"series,omitempty"`
	Phases []Phase  `json:"phases,omitempty"`
	// Notes are what went wrong without ending the measurement.
	Notes []string `json:"notes,omitempty"`
}

// Quiet says what else the machine did meanwhile.
type Quiet struct {
	Load  float64 `json:"load"`  // average of one minute, before
	After float64 `json:"after"` // and after
	// Others is how many cores' time processes had that are not the
	// benchmark's; Steal is what the hypervisor kept from this machine.
	Others float64 `json:"others"`
	Steal  float64 `json:"steal"`
	// Busy: the measurement began at a load above the benchmark's limit.
	Busy bool `json:"busy,omitempty"`
}

func (q Quiet) String() string {
	s := fmt.Sprintf("load %.1f before and %.1f after, others took %.2f cores", q.Load, q.After, q.Others)
	if q.Steal >= 0.01 {
		s += fmt.Sprintf(", the hypervisor %.2f", q.Steal)
	}
	if q.Busy {
		s = "BUSY MACHINE: " + s
	}
	return s
}

// Series is a line of the chart.
type Series struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"`
	// Limit is the target that the values should stay below; 0: there is none.
	Limit float64 `json:"limit,omitempty"`
}

// Phase is a part of one run, in milliseconds, up to the event Until.
type Phase struct {
	Until string  `json:"until"`
	Took  float64 `json:"tookMs"`
	At    float64 `json:"atMs"`
}

// Load reads what Save wrote.
func Load(path string) (*Report, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &r, nil
}

// Save writes r to path as JSON.
func (r *Report) Save(path string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// ErrMachine: figures of two machines cannot stand in one table.
var ErrMachine = errors.New("measured on another machine")

// Merge adds to r the sections of old that r does not have, in the order of
// names. A section that names does not have is dropped.
func (r *Report) Merge(old *Report, names []string) error {
	if r.Machine != old.Machine {
		return fmt.Errorf("%w: %s", ErrMachine, old.Machine)
	}
	var all []Section
	for _, name := range names {
		if s := r.Section(name); s != nil {
			all = append(all, *s)
		} else if s := old.Section(name); s != nil {
			all = append(all, *s)
		}
	}
	r.Sections = all
	return nil
}

// Section is the one of that name, or nil.
func (r *Report) Section(name string) *Section {
	i := slices.IndexFunc(r.Sections, func(s Section) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Sections[i]
}
