package report

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
)

// No library: those that draw charts bring fonts, colour schemes of their own
// and, the kept ones, megabytes of dependencies; two charts take a page of code.

// canvas is an SVG image being written. Coordinates are its pixels.
type canvas struct{ bytes.Buffer }

// style has the colours of both schemes: an image in a page follows what its
// reader has chosen, so it has a background of its own.
const style = `<style>
.back { fill: #ffffff; stroke: #d4d8de }
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 12px; fill: #57606a }
.grid { stroke: #e4e7eb } .axis { stroke: #8c959f } .range { stroke: #24292f; stroke-width: 1.5 }
.limit { stroke: #cf222e; stroke-dasharray: 6 4 } .limit-text { font-size: 12px; fill: #cf222e }
.a { fill: #1f6feb; stroke: #1f6feb } .b { fill: #c2600a; stroke: #c2600a } .c { fill: #a3abb5; stroke: #a3abb5 }
.line { fill: none; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
.back { fill: #0d1117; stroke: #30363d }
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.grid { stroke: #262c34 } .axis { stroke: #6e7681 } .range { stroke: #e6edf3 }
.limit { stroke: #ff7b72 } .limit-text { fill: #ff7b72 }
.a { fill: #4493f8; stroke: #4493f8 } .b { fill: #db8334; stroke: #db8334 } .c { fill: #59626d; stroke: #59626d }
.line { fill: none }
}
</style>
`

// newCanvas begins an image with a title, a line below it and a background.
func newCanvas(width, height float64, title, below string) *canvas {
	c := &canvas{}
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" viewBox="0 0 %g %g" role="img">`+"\n", width, height, width, height)
	fmt.Fprintf(c, "<title>%s</title>\n", escape(title))
	c.WriteString(style)
	fmt.Fprintf(c, `<rect class="back" x="0.5" y="0.5" width="%g" height="%g" rx="6"/>`+"\n", width-1, height-1)
	c.text("title", "start", 20, 30, title)
	c.text("small", "start", 20, 49, below)
	return c
}

func (c *canvas) end() []byte {
	c.WriteString("</svg>\n")
	return c.Bytes()
}

// text writes s; anchor is start, middle or end.
func (c *canvas) text(class, anchor string, x, y float64, s string) {
	fmt.Fprintf(c, `<text class="%s" text-anchor="%s" x="%s" y="%s">%s</text>`+"\n", class, anchor, px(x), px(y), escape(s))
}

func (c *canvas) rect(class string, x, y, width, height float64) {
	fmt.Fprintf(c, `<rect class="%s" x="%s" y="%s" width="%s" height="%s"/>`+"\n", class, px(x), px(y), px(width), px(height))
}

func (c *canvas) line(class string, x1, y1, x2, y2 float64) {
	fmt.Fprintf(c, `<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>`+"\n", class, px(x1), px(y1), px(x2), px(y2))
}

// curve joins points.
func (c *canvas) curve(class string, points []point) {
	fmt.Fprintf(c, `<polyline class="%s line" points="`, class)
	for i, p := range points {
		if i > 0 {
			c.WriteByte(' ')
		}
		fmt.Fprintf(c, "%s,%s", px(p.x), px(p.y))
	}
	c.WriteString(`"/>` + "\n")
}

type point struct{ x, y float64 }

// px has a tenth of a pixel, so that a golden does not depend on the last bit.
func px(v float64) string { return fmt.Sprintf("%.1f", v) }

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes everything
	return b.String()
}

// axis maps values from lo to hi to pixels from at to at+length; length may be
// negative. On a logarithmic axis lo is above 0.
type axis struct {
	lo, hi     float64
	at, length float64
	log        bool
}

func (a axis) pixel(v float64) float64 {
	if a.log {
		return a.at + a.length*math.Log(v/a.lo)/math.Log(a.hi/a.lo)
	}
	return a.at + a.length*(v-a.lo)/(a.hi-a.lo)
}

// decades is a logarithmic axis around the values, all above 0, and its ticks: 1,
// 2 and 5 in each decade. It begins and ends at a tick.
func decades(least, most, at, length float64) (a axis, ticks []float64) {
	for e := math.Floor(math.Log10(least)); len(ticks) < 2 || ticks[len(ticks)-1] < most; e++ {
		for _, digit := range []float64{1, 2, 5} {
			t := digit * math.Pow(10, e)
			if len(ticks) > 0 && t <= least {
				ticks = ticks[:0] // the axis begins at the last tick that is not above the least
			}
			if len(ticks) < 2 || ticks[len(ticks)-1] < most {
				ticks = append(ticks, t)
			}
		}
	}
	return axis{lo: ticks[0], hi: ticks[len(ticks)-1], at: at, length: length, log: true}, ticks
}

// fromZero is a linear axis from 0 to a round number at or above most, which is
// above 0, and its four to ten ticks.
func fromZero(most, at, length float64) (a axis, ticks []float64) {
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, part := range []float64{1, 0.5, 0.2} {
		if n := math.Ceil(most / (step * part)); n >= 4 {
			step *= part
			break
		}
	}
	a = axis{hi: step * math.Ceil(most/step-1e-9), at: at, length: length}
	for i := 0; float64(i)*step <= a.hi*(1+1e-9); i++ {
		ticks = append(ticks, float64(i)*step)
	}
	return a, ticks
}

// tick is a tick's number, without what adding up has left in its last digits.
func tick(v float64) string {
	return strconv.FormatFloat(math.Round(v*1e6)/1e6, 'f', -1, 64)
}
