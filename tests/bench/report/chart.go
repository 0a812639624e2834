package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Names of the sections that have a chart.
const (
	StartSection   = "start"
	DensitySection = "density"
)

// bar is a bar of the start chart.
type bar struct {
	name   string
	values []float64
	class  string
}

// StartChart draws the rows and floors of the section "start", the fastest
// first. nil: there is nothing to draw.
func (r *Report) StartChart() []byte {
	s := r.Section(StartSection)
	if s == nil {
		return nil
	}
	bars := s.bars()
	if len(bars) == 0 {
		return nil
	}
	const right, top, row = 110, 92, 30
	const width = 860
	left := 0.0
	for _, b := range bars {
		left = max(left, 28+7.2*float64(len(b.name))) // about the width of 13 pixel letters
	}
	foot := top + row*float64(len(bars))
	least, most := math.Inf(1), 0.0
	for _, b := range bars {
		least, most = min(least, slices.Min(b.values)), max(most, slices.Max(b.values))
	}
	x, ticks := decades(least, most, left, width-left-right)
	c := newCanvas(width, foot+58, "From the command to the end of /bin/true", r.caption(s))
	c.legend(20, 74, [][2]string{{"a", "runm"}, {"b", "other runtimes"}, {"c", "bare QEMU, what cannot be avoided"}})
	for _, t := range ticks {
		c.line("grid", x.pixel(t), top-4, x.pixel(t), foot)
		c.text("small", "middle", x.pixel(t), foot+18, tick(t))
	}
	c.line("axis", left, top-4, left, foot)
	c.text("small", "middle", left+x.length/2, foot+42, "milliseconds, logarithmic; the bar is the median, the line from the least to the most")
	for i, b := range bars {
		y := top + row*float64(i)
		m, lo, hi := Median(b.values), slices.Min(b.values), slices.Max(b.values)
		c.text("", "end", left-8, y+row/2+3, b.name)
		c.rect(b.class, left, y+4, x.pixel(m)-left, row-10)
		c.line("range", x.pixel(lo), y+row/2-1, x.pixel(hi), y+row/2-1)
		c.text("", "start", x.pixel(hi)+8, y+row/2+3, Amount(m, "ms"))
	}
	return c.end()
}

// bars are the rows in milliseconds and their floors, by their medians. What is
// not above 0 has no place on a logarithmic axis, and is no time.
func (s *Section) bars() []bar {
	classes := map[Kind]string{KindRunm: "a", KindPeer: "b", KindFloor: "c"}
	var bars []bar
	add := func(name string, values []float64, kind Kind) {
		if len(values) > 0 && slices.Min(values) > 0 {
			bars = append(bars, bar{strings.ReplaceAll(name, "`", ""), values, classes[kind]})
		}
	}
	for _, row := range s.Rows {
		if row.Unit != "ms" || row.NoBar {
			continue
		}
		add(row.Name, row.Values, row.Kind)
		add(row.FloorName, row.Floor, KindFloor)
	}
	slices.SortStableFunc(bars, func(p, q bar) int { return cmp.Compare(Median(p.values), Median(q.values)) })
	return bars
}

// DensityChart draws the series of the section "density". nil: there is nothing
// to draw.
func (r *Report) DensityChart() []byte {
	s := r.Section(DensitySection)
	if s == nil {
		return nil
	}
	most, count, unit := 0.0, 0, ""
	for _, line := range s.Series {
		if len(line.Values) > 0 {
			most, count, unit = max(most, line.Limit, slices.Max(line.Values)), max(count, len(line.Values)), line.Unit
		}
	}
	if most <= 0 || count < 2 {
		return nil
	}
	const left, right, top, width, height = 80, 30, 92, 860, 420
	const foot = height - 62
	y, ticks := fromZero(most, foot, top-foot)
	x := axis{lo: 1, hi: float64(count), at: left, length: width - left - right}
	c := newCanvas(width, height, "How long each container takes to start, the others running", r.caption(s))
	var names [][2]string
	classes := []string{"a", "b", "c"}
	for _, t := range ticks {
		c.line("grid", left, y.pixel(t), width-right, y.pixel(t))
		c.text("small", "end", left-8, y.pixel(t)+4, tick(t)+" "+unit)
	}
	_, columns := fromZero(float64(count), 0, 1)
	for _, n := range columns {
		if n = max(n, 1); n <= x.hi {
			c.text("small", "middle", x.pixel(n), foot+18, tick(n))
		}
	}
	c.line("axis", left, foot, width-right, foot)
	c.text("small", "middle", left+x.length/2, foot+42, "container, in the order in which they are started; they all keep running")
	for i, line := range s.Series {
		class := classes[i%len(classes)]
		var points []point
		for n, v := range line.Values {
			points = append(points, point{x.pixel(float64(n + 1)), y.pixel(v)})
		}
		if line.Limit > 0 {
			c.line("limit", left, y.pixel(line.Limit), width-right, y.pixel(line.Limit))
			c.text("limit-text", "end", width-right, y.pixel(line.Limit)-5, "target, "+line.Name)
		}
		c.curve(class, points)
		names = append(names, [2]string{class, line.Name})
	}
	c.legend(20, 74, names)
	return c.end()
}

// legend writes what the colours mean, in a line: pairs of class and text.
func (c *canvas) legend(x, y float64, entries [][2]string) {
	for _, e := range entries {
		c.rect(e[0], x, y-10, 11, 11)
		c.text("small", "start", x+17, y, e[1])
		x += 40 + 6.6*float64(len(e[1])) // about the width of 12 pixel letters
	}
}

// caption says where and when a chart was measured.
func (r *Report) caption(s *Section) string {
	m := r.Machine
	caption := fmt.Sprintf("%d cores of %s, guests by %s, %s", m.Cores, m.CPU, strings.ToUpper(m.Accel), s.Date.Format("2006-01-02"))
	if s.Quiet.Busy {
		caption += ", on a busy machine"
	}
	return caption
}
