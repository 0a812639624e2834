//go:build linux

package script

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// span is a complete event of Chrome's trace event format, times in µs.
type span struct {
	Name  string         `json:"name"`
	Phase string         `json:"ph"`
	Begin float64        `json:"ts"`
	Dur   float64        `json:"dur"`
	Pid   int            `json:"pid"`
	Tid   int            `json:"tid"`
	Args  map[string]any `json:"args"`

	process, lane string
}

// slack is the error of a µs in a float64 with a day's µs.
const slack = 0.01

func (s span) end() float64 { return s.Begin + s.Dur }

func (s span) within(o span) bool { return s.Begin >= o.Begin-slack && s.end() <= o.end()+slack }

func (s span) String() string {
	return fmt.Sprintf("%s/%s: %s [%.3f, %.3f]", s.process, s.lane, s.Name, s.Begin, s.end())
}

// cmdSpans checks a trace and that it has spans: spans FILE PROCESS:NAME...
func cmdSpans(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: spans FILE PROCESS:NAME...")
	}
	spans, err := readTrace(ts.ReadFile(args[0]))
	ts.Check(err)
	ts.Check(checkNesting(spans))
	ts.Check(checkGuest(spans))
	for _, want := range args[1:] {
		if !slices.ContainsFunc(spans, func(s span) bool { return s.process+":"+s.Name == want }) {
			ts.Fatalf("no span %q among %s", want, spans)
		}
	}
}

// readTrace returns the trace's spans in the order of their beginning, the outer
// ones first.
func readTrace(text string) ([]span, error) {
	var all, spans []span
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, err
	}
	processes, lanes := map[int]string{}, map[[2]int]string{}
	for _, s := range all {
		name, _ := s.Args["name"].(string)
		switch s.Phase + " " + s.Name {
		case "M process_name":
			processes[s.Pid] = name
		case "M thread_name":
			lanes[[2]int{s.Pid, s.Tid}] = name
		default:
			if s.Phase != "X" || s.Dur < 0 {
				return nil, fmt.Errorf("event %+v", s)
			}
			s.process, s.lane = processes[s.Pid], lanes[[2]int{s.Pid, s.Tid}]
			if s.process == "" || s.lane == "" {
				return nil, fmt.Errorf("%v is of a process or lane without a name", s)
			}
			spans = append(spans, s)
		}
	}
	slices.SortStableFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.Begin, b.Begin), cmp.Compare(b.Dur, a.Dur))
	})
	return spans, nil
}

// checkNesting: spans of one lane are within each other or apart, else viewers
// show nonsense.
func checkNesting(spans []span) error {
	open := map[[2]int][]span{}
	for _, s := range spans {
		lane := [2]int{s.Pid, s.Tid}
		stack := open[lane]
		for len(stack) > 0 && stack[len(stack)-1].end() <= s.Begin+slack {
			stack = stack[:len(stack)-1]
		}
		if len(stack) > 0 && !s.within(stack[len(stack)-1]) {
			return fmt.Errorf("%v and %v overlap", s, stack[len(stack)-1])
		}
		open[lane] = append(stack, s)
	}
	return nil
}

// checkGuest: what the guest did is within a call that asked for it.
func checkGuest(spans []span) error {
	for _, s := range spans {
		if s.process != "guest" {
			continue
		}
		if !slices.ContainsFunc(spans, func(o span) bool {
			return o.process == "monitor" && o.lane == strings.TrimSuffix(s.lane, ": init") && strings.HasPrefix(o.Name, "guest: ") && s.within(o)
		}) {
			return fmt.Errorf("%v is not within a call of the host's among %s", s, spans)
		}
	}
	return nil
}
