package cli

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"
)

// progress is the line that long work shows of itself. Counting is safe from any
// goroutine; tick and clear belong to one.
type progress struct {
	records, bytes atomic.Int64
	began          time.Time
	w              io.Writer // nil: nothing is shown
	width          int       // of the line that stands on the terminal
}

const progressEvery = 200 * time.Millisecond

func (c *command) newProgress(forced bool) *progress {
	p := &progress{began: time.Now()}
	if forced || c.StderrIsTerminal {
		p.w = c.Stderr
	}
	return p
}

func (p *progress) count(bytes int) {
	p.records.Add(1)
	p.bytes.Add(int64(bytes))
}

func (p *progress) text() string {
	elapsed := time.Since(p.began)
	records, bytes := p.records.Load(), p.bytes.Load()
	perSecond := int64(float64(bytes) / max(elapsed.Seconds(), 1e-3))
	return fmt.Sprintf("%s, %s in %s (%s/s)", plural(records, "record"), bytesText(bytes), elapsed.Round(time.Millisecond), bytesText(perSecond))
}

func (p *progress) tick() {
	if p.w != nil {
		p.show(p.text())
	}
}

// show puts line on the terminal.
func (p *progress) show(line string) {
	if p.w == nil {
		return
	}
	fmt.Fprintf(p.w, "\r%-*s", p.width, line)
	p.width = len(line)
}

func (p *progress) clear() {
	if p.w != nil && p.width > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.width))
		p.width = 0
	}
}
