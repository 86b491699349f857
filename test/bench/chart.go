package main

import (
	"fmt"
	"html"
	"strings"
)

// Sizes of a chart, in pixels.
const (
	chartWidth  = 960
	labelWidth  = 400
	ratioWidth  = 150
	valueWidth  = 80
	barHeight   = 14
	rowHeight   = 44
	chartTop    = 64
	chartBottom = 12
)

// chartStyle follows the reader's choice of light or dark; the background is the page's.
const chartStyle = `<style>
text{font:13px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#1f2328}
.title{font-size:16px;font-weight:600}.soft{fill:#59636e}.moldau{fill:#0969da}.kafka{fill:#9a6700}.line{stroke:#d1d9e0}
@media (prefers-color-scheme:dark){text{fill:#f0f6fc}.soft{fill:#9198a1}.moldau{fill:#4493f8}.kafka{fill:#d29922}.line{stroke:#3d444d}}
</style>
`

// pairedBars draws two bars for each row, from zero, and the ratio beside them.
func pairedBars(title, unit string, digits int, rows []summary) string {
	height := chartTop + rowHeight*len(rows) + chartBottom
	largest := 0.0
	for _, r := range rows {
		largest = max(largest, r.moldau, r.kafka)
	}
	if largest == 0 {
		largest = 1
	}
	scale := float64(chartWidth-labelWidth-ratioWidth-valueWidth) / largest
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		chartWidth, height, chartWidth, height, html.EscapeString(title))
	b.WriteString(chartStyle)
	fmt.Fprintf(&b, `<text class="title" x="0" y="20">%s, %s</text>`+"\n", html.EscapeString(title), html.EscapeString(unit))
	fmt.Fprintf(&b, `<rect class="moldau" x="0" y="34" width="12" height="12"/><text x="18" y="45">Moldau</text>`+
		`<rect class="kafka" x="90" y="34" width="12" height="12"/><text x="108" y="45">Apache Kafka</text>`+
		`<text class="soft" x="%d" y="45" text-anchor="end">Moldau is better by</text>`+"\n", chartWidth)
	for i, r := range rows {
		y := chartTop + i*rowHeight
		fmt.Fprintf(&b, `<line class="line" x1="0" x2="%d" y1="%d" y2="%d"/>`, chartWidth, y-4, y-4)
		fmt.Fprintf(&b, `<text x="0" y="%d">%s</text><text class="soft" x="0" y="%d">%s</text>`,
			y+13, html.EscapeString(r.title), y+30, html.EscapeString(string(r.mode)))
		bar(&b, "moldau", y, r.moldau*scale, r.ours(digits))
		if r.kafka > 0 {
			bar(&b, "kafka", y+barHeight+3, r.kafka*scale, number(r.kafka, digits))
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", chartWidth, y+20, html.EscapeString(r.better()))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func bar(b *strings.Builder, class string, y int, width float64, text string) {
	fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/><text class="soft" x="%.1f" y="%d">%s</text>`,
		class, labelWidth, y, max(width, 1), barHeight, labelWidth+max(width, 1)+6, y+12, html.EscapeString(text))
}
