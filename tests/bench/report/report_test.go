package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the goldens")

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0}, {[]float64{3}, 3}, {[]float64{4, 2}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{1, 100, 3, 2}, 2.5},
	} {
		values := append([]float64(nil), c.values...)
		if got := Median(values); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.values, got, c.want)
		}
		for i := range values {
			if values[i] != c.values[i] {
				t.Fatalf("Median changed its argument: %v, was %v", values, c.values)
			}
		}
	}
}

func TestAmount(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{20, "", "20"}, {1645.4, "ms", "1645 ms"}, {27.04, "ms", "27.0 ms"}, {0.3, "s", "0.30 s"}, {0, "s", "0.00 s"}, {-21.98, "MiB", "-22.0 MiB"},
	} {
		if got := Amount(c.v, c.unit); got != c.want {
			t.Errorf("Amount(%v, %q) = %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}

func TestTargets(t *testing.T) {
	r := Row{Unit: "MiB", Values: []float64{9, 10, 30}, Floor: []float64{5, 5, 1}}
	for _, c := range []struct {
		row    Row
		target string
		result string
	}{
		{r, "", ""},
		{r.AtMost(2, 0), "at most 2 times", "met"},
		{r.AtMost(1.9, 1.5), "at most 1.9 times, better 1.5", "missed"},
		{r.AtLeast(2), "at least 2", "met"},
		{r.AtLeast(2.1), "at least 2.1", "missed"},
		{r.Within(10, 8), "at most 10 MiB, better 8", "met"},
		{r.Within(9.9, 0), "at most 9.9 MiB", "missed"},
	} {
		if c.row.Target != c.target || c.row.result() != c.result {
			t.Errorf("target %q is %q, want %q to be %q", c.row.Target, c.row.result(), c.target, c.result)
		}
	}
	if r.Met != nil {
		t.Error("a target of a copy changed the row")
	}
}

// example has one of everything.
func example() *Report {
	date := time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)
	return &Report{
		Machine: Machine{CPU: "Example <CPU> & co", Cores: 2, MemoryGiB: 24, Kernel: "6.18", QEMU: "QEMU 10.0", Accel: "tcg", VCPUs: 1, GuestMiB: 512},
		Sections: []Section{
			{
				Name: StartSection, Title: "Start", Date: date, Rounds: 3, Quiet: Quiet{Load: 0.4, After: 1.2, Others: 0.02, Steal: 0.1},
				Rows: []Row{
					Row{Name: "`runm run`, warm", Unit: "ms", Values: []float64{300, 310, 290}, FloorName: "bare QEMU, restored", Floor: []float64{100, 90, 95}, CPU: []float64{0.3, 0.29, 0.31}, FloorCPU: []float64{0.1, 0.1, 0.1}}.AtMost(5, 3),
					Row{Name: "`runm run`, cold", Unit: "ms", Values: []float64{1800, 1700, 1750}, FloorName: "bare QEMU, booted", Floor: []float64{600, 610, 620}}.AtMost(1.5, 0),
					{Name: "`runc run`", Unit: "ms", Kind: KindPeer, Values: []float64{27, 26, 28}},
				},
				Phases: []Phase{{Until: "booted", Took: 500, At: 500}, {Until: "ended", Took: 20.5, At: 520.5}},
				Notes:  []string{"crun: not here"},
			},
			{
				Name: DensitySection, Title: "Density", Date: date, Rounds: 1, Quiet: Quiet{Load: 3, After: 4, Others: 1, Busy: true},
				Rows: []Row{Row{Name: "ended well", Values: []float64{4}}.Aim("4", true)},
				Series: []Series{
					{Name: "one after another", Unit: "ms", Values: []float64{300, 310, 305, 330}, Limit: 457.5},
					{Name: "two at a time", Unit: "ms", Values: []float64{500, 510, 640, 650}},
				},
			},
		},
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s has changed (go test -update writes it):\n%s", path, got)
	}
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := example().Text(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", b.Bytes())
}

// TestWriteDocs: what stands outside the marks stays, what stands between them
// is replaced, and doing it again changes nothing.
func TestWriteDocs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, document)
	if err := os.WriteFile(path, []byte("# Before\n"+beginMark+"\nold\n"+endMark+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var last []byte
	for range 2 {
		if err := example().WriteDocs(dir); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if last != nil && !bytes.Equal(text, last) {
			t.Errorf("not the same again:\n%s", text)
		}
		last = text
	}
	golden(t, document, last)
	for _, name := range []string{startChart, densityChart} {
		image, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, image)
	}
	loaded, err := Load(DataFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	loaded.markdown(&b)
	if !bytes.Contains(last, b.Bytes()) {
		t.Errorf("what was saved gives another table:\n%s", b.Bytes())
	}
}

func TestWriteDocsWithoutMarks(t *testing.T) {
	for _, text := range []string{"", beginMark + "\n", endMark + "\n" + beginMark + "\n"} {
		dir := t.TempDir()
		path := filepath.Join(dir, document)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := example().WriteDocs(dir); !errors.Is(err, ErrNoMarks) {
			t.Errorf("%q: %v, want %v", text, err, ErrNoMarks)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != text {
			t.Errorf("%q became %q (%v)", text, now, err)
		}
	}
}

// TestDocuments: the project's own charts and table are what its data gives.
func TestDocuments(t *testing.T) {
	const docs = "../../../docs"
	r, err := Load(DataFile(docs))
	if err != nil {
		t.Fatal(err)
	}
	files, err := r.docs(docs)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 {
		t.Errorf("%d files, want two charts and a table", len(files))
	}
	for _, f := range files {
		now, err := os.ReadFile(filepath.Join(docs, f.name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(now, f.content) {
			t.Errorf("docs/%s is not what docs/%s gives; `hack/bench.sh -from docs/%s -docs docs` writes it", f.name, dataFile, dataFile)
		}
	}
}

func TestMerge(t *testing.T) {
	names := []string{"start", "exec", "density"}
	old := example()
	fresh := &Report{Machine: old.Machine, Sections: []Section{{Name: "exec", Title: "new"}, {Name: "start", Title: "newer"}}}
	if err := fresh.Merge(old, names); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range fresh.Sections {
		got = append(got, s.Name+" "+s.Title)
	}
	if want := "start newer, exec new, density Density"; strings.Join(got, ", ") != want {
		t.Errorf("sections %q, want %q", got, want)
	}
	other := &Report{Machine: Machine{CPU: "another"}}
	if err := other.Merge(old, names); !errors.Is(err, ErrMachine) {
		t.Errorf("sections of two machines: %v, want %v", err, ErrMachine)
	}
}

// TestCharts: the images are XML, whatever a machine is called; a section
// without figures has none.
func TestCharts(t *testing.T) {
	for name, image := range map[string][]byte{"start": example().StartChart(), "density": example().DensityChart()} {
		d := xml.NewDecoder(bytes.NewReader(image))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	for _, r := range []*Report{
		{},
		{Sections: []Section{{Name: StartSection}, {Name: DensitySection}}},
		{Sections: []Section{
			{Name: StartSection, Rows: []Row{{Unit: "ms", Values: []float64{0, 1}}, {Unit: "s", Values: []float64{1}}}},
			{Name: DensitySection, Series: []Series{{Values: []float64{1}}, {}}},
		}},
	} {
		if image := r.StartChart(); image != nil {
			t.Errorf("a chart of nothing: %s", image)
		}
		if image := r.DensityChart(); image != nil {
			t.Errorf("a chart of nothing: %s", image)
		}
	}
}

func TestAxes(t *testing.T) {
	a, ticks := decades(26, 1800, 100, 300)
	if want := []float64{20, 50, 100, 200, 500, 1000, 2000}; !slices.Equal(ticks, want) || a.lo != 20 || a.hi != 2000 {
		t.Errorf("an axis around 26 to 1800: %v to %v, ticks %v, want %v", a.lo, a.hi, ticks, want)
	}
	for v, want := range map[float64]float64{20: 100, 200: 250, 2000: 400} {
		if got := a.pixel(v); got < want-1e-6 || got > want+1e-6 {
			t.Errorf("%v is at %v, want %v", v, got, want)
		}
	}
	for _, c := range []struct{ least, most, lo, hi float64 }{
		{100, 100, 100, 200}, {100, 200, 100, 200}, {99, 201, 50, 500}, {0.3, 0.4, 0.2, 0.5}, {8, 12, 5, 20},
	} {
		if a, ticks := decades(c.least, c.most, 0, 1); a.lo != c.lo || a.hi != c.hi {
			t.Errorf("an axis around %v to %v has ticks %v, want %v to %v", c.least, c.most, ticks, c.lo, c.hi)
		}
	}
	for most, want := range map[float64]float64{650: 700, 1000: 1000, 1001: 1200, 4: 4, 0.13: 0.14} {
		a, ticks := fromZero(most, 400, -300)
		if a.hi < want*(1-1e-9) || a.hi > want*(1+1e-9) {
			t.Errorf("an axis to %v ends at %v, want %v", most, a.hi, want)
		}
		if len(ticks) < 5 || len(ticks) > 11 {
			t.Errorf("an axis to %v has ticks %v", most, ticks)
		}
		if top, bottom := a.pixel(a.hi), a.pixel(0); top != 100 || bottom != 400 {
			t.Errorf("an axis to %v is from %v to %v", most, bottom, top)
		}
	}
}

func TestTick(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 15000: "15000", 0.1 + 0.2: "0.3", 12.5: "12.5"} {
		if got := tick(v); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
}
