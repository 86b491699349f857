package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"moldau/internal/record"
)

// Latency measures the way from a producer to a consumer that waits for it.
func Latency(ctx context.Context, o Options) (*Result, error) {
	o, err := o.Defaults()
	switch {
	case err != nil:
		return nil, err
	case o.Acks == 0:
		return nil, errors.New("acks 0: a latency from end to end needs acks 1 or all")
	}
	o.Progress(Progress{Phase: "creating"})
	t, err := o.openTopic(ctx)
	if err != nil {
		return nil, err
	}
	r, err := o.latency(ctx, t)
	if err := errors.Join(err, o.closeTopic(ctx, t)); err != nil {
		return nil, err
	}
	return r, nil
}

func (o *Options) latency(ctx context.Context, t *topic) (*Result, error) {
	// Each partition has one producer, so that the n-th batch to arrive is the n-th that was sent.
	producers, err := o.newProducing(ctx, t, true)
	if err != nil {
		return nil, err
	}
	defer producers.close()
	consumers, err := o.newConsuming(ctx, t, fromEnd)
	if err != nil {
		return nil, err
	}
	defer consumers.close()
	producers.lines = map[int32]*timeline{}
	for _, f := range consumers.fetchers {
		for _, cur := range f.cursors {
			cur.line = &timeline{}
			producers.lines[cur.partition] = cur.line
		}
	}
	began := time.Now()
	consumers.start(began)
	producers.start(began)
	var from, to reading
	err = consumers.drive(ctx, func(ctx context.Context) error {
		err := producers.drive(ctx, func(ctx context.Context) error {
			from, to, err = o.measure(ctx, &consumers.meter, producers.t0)
			return err
		})
		if err != nil {
			return err
		}
		return o.awaitArrival(ctx, producers, consumers)
	})
	if err != nil {
		return nil, err
	}
	r := o.result("latency", t, &consumers.meter, from, to)
	// Requests are the producers'; of the payload the consumer knows nothing.
	r.Requests, r.RequestsPerSecond = 0, 0
	if producers.load.records > 0 {
		r.Bytes = int64(float64(r.Records) / producers.load.records * producers.load.payload)
		r.BytesPerSecond = float64(r.Bytes) / r.Seconds
		r.RequestsPerSecond = r.RecordsPerSecond / producers.load.records
		r.Requests = int64(r.RequestsPerSecond*r.Seconds + 0.5)
	}
	producers.judge(r)
	var travel []*hdrhistogram.Histogram
	for _, f := range consumers.fetchers {
		travel = append(travel, f.travel)
	}
	r.EndToEnd = latencyOf(travel...)
	return r, nil
}

// awaitArrival waits until every acknowledged record has come out at the other end.
func (o *Options) awaitArrival(ctx context.Context, p *producing, c *consuming) error {
	began := time.Now()
	all := func() bool { return c.meter.records.Load() >= p.meter.records.Load() }
	if err := o.watch(ctx, &c.meter, "draining", began, began.Add(o.Timeout), all); err != nil || all() {
		return err
	}
	return fmt.Errorf("%d records were acknowledged and %d have come to the consumer, %s after the last: %w",
		p.meter.records.Load(), c.meter.records.Load(), o.Timeout, context.DeadlineExceeded)
}

// timeline holds when the batches of one partition started, until they arrive.
type timeline struct {
	mu     sync.Mutex // guards starts
	starts []departure
}

type departure struct {
	dues    dues
	records int32
}

func (l *timeline) sent(at dues, records int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.starts = append(l.starts, departure{at, records})
}

// arrived takes the oldest departure.
func (l *timeline) arrived() (departure, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.starts) == 0 {
		return departure{}, false
	}
	d := l.starts[0]
	l.starts = l.starts[1:]
	return d, true
}

// arrived counts a batch at the consumer.
func (f *fetcher) arrived(cur *cursor, h record.Header, now time.Duration) error {
	d, ok := cur.line.arrived()
	if !ok || d.records != h.Count() {
		return fmt.Errorf("%s-%d: the batch at offset %d is not from this run: measure on a topic into which nobody else writes",
			f.run.topic.name, cur.partition, h.BaseOffset())
	}
	d.dues.record(f.travel, now, f.run.from, f.run.to)
	return nil
}
