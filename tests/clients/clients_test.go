//go:build linux

package clients

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	upTime    = 2 * time.Minute  // a daemon's start, the image's import
	useTime   = 3 * time.Minute  // one use: machines boot, others beside them
	cleanTime = 30 * time.Second // removing what a use has left
)

// list is one client's list of uses.
type list struct {
	client string
	script string // uses/SCRIPT.sh
	// with is a script that SCRIPT reads and whose uses are the client's too;
	// only and without are patterns of their names, "" is none.
	with, only, without string
	// keeps are what the client itself leaves, as bridges for the next
	// container, by pattern.
	keeps []string
}

const (
	bridges = `^interface (docker0|br-\w+|podman\d+|pods0|cni0|nerdctl\d+)$`
	hostNet = `^mount /run/docker/netns/default$`
	// Of conmon, and of a pod in the hierarchies without controllers.
	podmans = `^cgroup (.*/conmon|/sys/fs/cgroup/(systemd|unified)/\w+/[0-9a-f]{64})$`
)

// lists are all of them, the longest first.
func lists() []list {
	return []list{
		{client: "docker", script: "docker", with: "common"},
		{client: "podman", script: "podman", with: "common", keeps: []string{podmans}},
		{client: "nerdctl", script: "nerdctl", with: "common"},
		{client: "ctr", script: "ctr", without: "^snapshotter_(blockfile|erofs)$"}, // containerd 1.6
		// containerd 2: what its shim does otherwise, and its snapshotters.
		{client: "ctr2", script: "ctr", only: `^(run|run_tty|exec|kill_signal|pause_resume|metrics|limits|out_of_memory|snapshotter_.*|kill_.*)$`},
		{client: "docker-net", script: "docker-net", with: "net", keeps: []string{bridges, hostNet}},
		{client: "podman-net", script: "podman-net", with: "net", keeps: []string{bridges, podmans}},
		{client: "nerdctl-net", script: "nerdctl-net", with: "net", without: "^connect$", keeps: []string{bridges}}, // it has no such command
		{client: "cri", script: "cri", keeps: []string{bridges}},
		// containerd 1.6: what its shim does otherwise.
		{client: "cri16", script: "cri", only: `^(container|exec|two_containers|port_forward|out_of_memory|stats|kill_containerd)$`, keeps: []string{bridges}},
	}
}

func (l list) stays(fact string) bool {
	return slices.ContainsFunc(l.keeps, func(k string) bool { return regexp.MustCompile(k).MatchString(fact) })
}

// uses reads the names of the uses from their scripts, in their order.
func (l list) uses(t *testing.T) []string {
	t.Helper()
	var uses []string
	for _, script := range []string{l.with, l.script} {
		if script == "" {
			continue
		}
		text, err := os.ReadFile(filepath.Join("uses", script+".sh"))
		must(t, err)
		for _, m := range regexp.MustCompile(`(?m)^use_(\w+)\(\)`).FindAllStringSubmatch(string(text), -1) {
			use := m[1]
			if l.without != "" && regexp.MustCompile(l.without).MatchString(use) {
				continue
			}
			if regexp.MustCompile(l.only).MatchString(use) && !slices.Contains(uses, use) {
				uses = append(uses, use)
			}
		}
	}
	if len(uses) == 0 {
		t.Fatalf("%s has no uses", l.client)
	}
	return uses
}

// A row is one use's results: pass or fail, by runtime.
type row struct {
	client, use string
	results     map[string]string
	took        map[string]time.Duration
}

func TestClients(t *testing.T) {
	expected := loadExpected(t)
	var mu sync.Mutex
	var rows []row
	t.Run("all", func(t *testing.T) {
		for _, l := range lists() {
			t.Run(l.client, func(t *testing.T) {
				t.Parallel()
				results := runList(t, l, expected)
				mu.Lock()
				defer mu.Unlock()
				rows = append(rows, results...)
			})
		}
	})
	report(t, rows)
}

// runList runs the uses with each runtime and looks, after each runtime, for
// what is left.
func runList(t *testing.T, l list, expected map[string]expectation) []row {
	client, uses := l.client, l.uses(t)
	s := newSandbox(t, l)
	if out, err := s.run("runc", "up", upTime); err != nil {
		t.Fatalf("%s\n%s\nup: %v", s.logs(), out, err)
	}
	rows := make([]row, len(uses))
	for i, use := range uses {
		rows[i] = row{client: client, use: use, results: map[string]string{}, took: map[string]time.Duration{}}
	}
	for _, rt := range []string{"runc", "runm"} {
		before := s.look()
		t.Run(rt, func(t *testing.T) {
			for i, use := range uses {
				t.Run(use, func(t *testing.T) {
					begin := time.Now()
					out, err := s.run(rt, "use_"+use, useTime)
					rows[i].took[rt] = time.Since(begin)
					if cleaned, cerr := s.run(rt, "clean", cleanTime); cerr != nil {
						err = cmp.Or(err, fmt.Errorf("clean: %w", cerr))
						out += cleaned
					}
					rows[i].results[rt] = "pass"
					if err != nil {
						rows[i].results[rt] = "fail"
					}
					want := expected[client+" "+use].results[rt]
					if got := rows[i].results[rt]; got != want && want != "any" {
						t.Errorf("%s%s, expected %q: %v", out, got, want, err)
					} else if err != nil {
						t.Logf("fails as expected: %v\n%s", err, out)
					}
				})
			}
		})
		// A test, so that its failure is told of by itself.
		t.Run(rt+"_left", func(t *testing.T) {
			for _, fact := range s.leaks(before) {
				if rt == "runc" {
					t.Log(fact) // not ours to mend
					continue
				}
				t.Error(fact)
			}
		})
	}
	out, err := s.run("runc", "down", cleanTime)
	if t.Failed() || err != nil {
		t.Log(s.logs())
	}
	if err != nil {
		t.Errorf("%sdown: %v", out, err)
	}
	return rows
}

// logs are the ends of the daemons' logs.
func (s *sandbox) logs() string {
	var b strings.Builder
	files, err := filepath.Glob(filepath.Join(s.dir, "*.log"))
	must(s.t, err)
	for _, name := range files {
		text, err := os.ReadFile(name)
		must(s.t, err)
		fmt.Fprintf(&b, "--- %s\n%s\n", filepath.Base(name), text[max(0, len(text)-4000):])
	}
	return b.String()
}

// report prints the table, and writes it to $RUNM_REPORT.
func report(t *testing.T, rows []row) {
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.client, b.client) })
	var b strings.Builder
	fmt.Fprintf(&b, "%-9s %-32s %-6s %7s   %-6s %7s\n", "client", "use", "runc", "seconds", "runm", "seconds")
	passed := map[string]int{}
	for _, r := range rows {
		if len(r.results) == 0 {
			continue // not selected by -run
		}
		fmt.Fprintf(&b, "%-9s %-32s", r.client, r.use)
		for _, rt := range []string{"runc", "runm"} {
			fmt.Fprintf(&b, " %-6s %7.1f  ", cmp.Or(r.results[rt], "-"), r.took[rt].Seconds())
			if r.results[rt] == "pass" {
				passed[rt]++
			}
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n%d uses: %d pass with runc, %d with runm\n", len(rows), passed["runc"], passed["runm"])
	t.Log("\n" + b.String())
	if name := os.Getenv("RUNM_REPORT"); name != "" {
		must(t, os.WriteFile(name, []byte(b.String()), 0o644))
	}
}
