//go:build linux && critest

package clients

import (
	"cmp"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/runm/runm/tests/internal/lines"
)

// registryAddress is where the sandbox has its images from.
const registryAddress = "127.0.0.1:5000"

// suiteTime is how long critest may take with one runtime.
const suiteTime = 40 * time.Minute

var (
	focus    = flag.String("focus", "", "run only specs that match this regular expression")
	parallel = flag.Int("specs", 2, "how many specs run at the same time")
	with     = flag.String("with", "runc runm", "run with these runtimes")
)

// TestCritest runs cri-tools' conformance suite for the CRI of containerd with
// each runtime, and compares each spec's outcome with critest.txt. $RUNM_REPORT
// names a file for what was found, in the form of critest.txt.
func TestCritest(t *testing.T) {
	expected := loadSpecs(t)
	path := "PARALLEL=" + strconv.Itoa(*parallel) + "; PATH=" + output(t, "../../hack/critest.sh") + ":$BUILT/containerd:$PATH; REGISTRY=" + registryAddress + "; "
	s := newSandbox(t, list{client: "critest", script: "critest", keeps: []string{bridges}})
	serveImages(t, s)
	if out, err := s.run("runc", path+"up", upTime); err != nil {
		t.Fatalf("up: %v\n%s\n%s", err, out, s.logs())
	}
	found := map[string]map[string]string{} // spec, runtime: outcome
	for _, rt := range strings.Fields(*with) {
		before := s.look()
		out, err := s.run(rt, path+"specs '"+*focus+"'", suiteTime)
		if err != nil {
			t.Errorf("%s: %v\n%s", rt, err, out)
		}
		results := readReport(t, filepath.Join(s.dir, "critest-"+rt+".xml"))
		for _, r := range results {
			if found[r.Name] == nil {
				found[r.Name] = map[string]string{}
			}
			found[r.Name][rt] = r.outcome()
			// What -focus leaves out is skipped too, and without a word.
			if *focus != "" && r.outcome() == "skip" {
				continue
			}
			if want := expected[r.Name].results[rt]; r.outcome() != want {
				t.Errorf("%s: %s, expected %q: %s\n%s\n%s", rt, r.outcome(), want, r.Name, r.Failure, r.Log)
			}
		}
		if out, err := s.run(rt, path+"clean", cleanTime); err != nil {
			t.Errorf("clean: %v: %s", err, out)
		}
		for _, fact := range s.leaks(before) {
			if rt == "runc" {
				t.Logf("runc left %s", fact) // not ours to mend
				continue
			}
			t.Errorf("%s left %s", rt, fact)
		}
	}
	for name := range expected {
		if found[name] == nil {
			t.Errorf("critest.txt has a spec that critest has not: %s", name)
		}
	}
	if out, err := s.run("runc", path+"down", cleanTime); err != nil {
		t.Errorf("down: %v\n%s", err, out)
	}
	if t.Failed() {
		t.Log(s.logs())
	}
	reportSpecs(t, found, expected)
}

func output(t *testing.T, program string) string {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return strings.TrimSpace(string(out))
}

// serveImages serves the images at registryAddress in the sandbox.
func serveImages(t *testing.T, s *sandbox) {
	t.Helper()
	images, err := newRegistry()
	must(t, err)
	l, err := listenIn(s.init.Process.Pid, registryAddress)
	must(t, err)
	srv := &http.Server{Handler: images}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("registry: %v", err)
		}
	})
}

// A specResult is a spec's, as critest's JUnit report has it.
type specResult struct {
	Name    string `xml:"name,attr"`
	Status  string `xml:"status,attr"`
	Failure string `xml:"failure"`
	Log     string `xml:"system-err"`
}

func (r specResult) outcome() string {
	switch r.Status {
	case "passed":
		return "pass"
	case "skipped", "pending":
		return "skip"
	}
	return "fail" // failed, timedout, panicked, …
}

func readReport(t *testing.T, path string) []specResult {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	var report struct {
		Results []specResult `xml:"testsuite>testcase"`
	}
	must(t, xml.Unmarshal(data, &report))
	specs := report.Results[:0]
	for _, r := range report.Results {
		var isSpec bool // and not a step before or after all of them
		if r.Name, isSpec = strings.CutPrefix(r.Name, "[It] "); isSpec {
			specs = append(specs, r)
		}
	}
	if len(specs) == 0 {
		t.Fatalf("%s has no specs", path)
	}
	return specs
}

// loadSpecs reads critest.txt, by the spec's name.
func loadSpecs(t *testing.T) map[string]expectation {
	t.Helper()
	f, err := os.Open("critest.txt")
	must(t, err)
	defer f.Close()
	specs, err := parseSpecs(f)
	must(t, err)
	return specs
}

func parseSpecs(in io.Reader) (map[string]expectation, error) {
	all := map[string]expectation{}
	err := lines.Each(in, func(line string) (string, error) {
		line, reason, _ := strings.Cut(line, " # ")
		f := strings.Fields(line)
		if len(f) < 3 {
			return "", fmt.Errorf("%d columns, want at least 3", len(f))
		}
		for _, outcome := range f[:2] {
			if !slices.Contains([]string{"pass", "fail", "skip"}, outcome) {
				return "", fmt.Errorf("expected %q", outcome)
			}
		}
		name := strings.Join(f[2:], " ")
		if (f[0] == "fail" || f[0] != f[1]) && reason == "" {
			return "", errors.New("to fail takes a reason")
		}
		all[name] = expectation{map[string]string{"runc": f[0], "runm": f[1]}, reason}
		return name, nil
	})
	return all, err
}

func reportSpecs(t *testing.T, found map[string]map[string]string, expected map[string]expectation) {
	t.Helper()
	var names []string
	count := map[string]int{}
	for name, results := range found {
		names = append(names, name)
		for rt, outcome := range results {
			count[rt+" "+outcome]++
		}
	}
	slices.Sort(names)
	for _, rt := range strings.Fields(*with) {
		t.Logf("%s: %d pass, %d fail, %d skip", rt, count[rt+" pass"], count[rt+" fail"], count[rt+" skip"])
	}
	file := os.Getenv("RUNM_REPORT")
	if file == "" {
		return
	}
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%-4s  %-4s  %s", cmp.Or(found[name]["runc"], "-"), cmp.Or(found[name]["runm"], "-"), name)
		if reason := expected[name].reason; reason != "" {
			b.WriteString(" # " + reason)
		}
		b.WriteString("\n")
	}
	must(t, os.WriteFile(file, []byte(b.String()), 0o644))
}

func TestSpecsRejects(t *testing.T) {
	for _, text := range []string{
		"pass pass",
		"pass maybe a spec # a reason",
		"pass fail a spec",
		"fail fail a spec",
		"pass pass a spec\npass pass a spec",
	} {
		if all, err := parseSpecs(strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken: %+v", text, all)
		}
	}
}
