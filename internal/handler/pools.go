package handler

import "sync"

// pools lend the calls that carry records, with all the memory that one needs, so that a request which is like
// those before it allocates next to nothing.
type pools struct{ produces, fetches, bursts sync.Pool }

// A call that has grown beyond these is left to the collector.
const (
	keepBytes      = maxCopied + 64<<10
	keepPartitions = 2048 // in all topics that it has room for
)

func (p *pools) getProduce() *produceCall {
	if c, _ := p.produces.Get().(*produceCall); c != nil {
		return c
	}
	return &produceCall{}
}

func (p *pools) putProduce(c *produceCall, poison bool) {
	if poison {
		overwrite(c.out)
	}
	n := cap(c.req.Topics) + cap(c.parts)
	for _, t := range c.req.Topics[:cap(c.req.Topics)] {
		n += cap(t.Partitions)
	}
	if cap(c.out) <= keepBytes && n <= keepPartitions {
		p.produces.Put(c)
	}
}

func (p *pools) getFetch() *fetchCall {
	if c, _ := p.fetches.Get().(*fetchCall); c != nil {
		return c
	}
	return &fetchCall{}
}

// putFetch takes back c, whose buffer is buf.
func (p *pools) putFetch(c *fetchCall, buf []byte, poison bool) {
	if poison {
		overwrite(buf)
	}
	n := cap(c.req.Topics) + cap(c.own) + cap(c.parts) + cap(c.resp.Topics)
	for _, t := range c.req.Topics[:cap(c.req.Topics)] {
		n += cap(t.Partitions)
	}
	for _, t := range c.req.Forgotten[:cap(c.req.Forgotten)] {
		n += cap(t.Partitions)
	}
	for _, t := range c.resp.Topics[:cap(c.resp.Topics)] {
		n += cap(t.Partitions)
	}
	if cap(buf) <= keepBytes && n <= keepPartitions {
		p.fetches.Put(c)
	}
}

// overwrite makes a use of b after its release show.
func overwrite(b []byte) {
	for i := range b {
		b[i] = 0xDB
	}
}

// resized is s with n elements, some of which hold what they held.
func resized[T any](s []T, n int) []T {
	if n > cap(s) {
		return append(s[:cap(s)], make([]T, n-cap(s))...)[:n]
	}
	return s[:n]
}

func (p *pools) getBurst() *burst {
	if b, _ := p.bursts.Get().(*burst); b != nil {
		return b
	}
	return &burst{}
}

func (p *pools) putBurst(b *burst) {
	clear(b.parts)
	clear(b.group[:cap(b.group)])
	b.parts, b.group = b.parts[:0], b.group[:0]
	if cap(b.parts)+cap(b.group) <= keepPartitions {
		p.bursts.Put(b)
	}
}
