package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"moldau/internal/record"
)

// Consume measures consumers of what is in the topic, after it has filled it where that is wished.
func Consume(ctx context.Context, o Options) (*Result, error) {
	o, err := o.Defaults()
	if err != nil {
		return nil, err
	}
	o.Progress(Progress{Phase: "creating"})
	t, err := o.openTopic(ctx)
	if err != nil {
		return nil, err
	}
	r, err := o.consume(ctx, t)
	if err := errors.Join(err, o.closeTopic(ctx, t)); err != nil {
		return nil, err
	}
	return r, nil
}

func (o *Options) consume(ctx context.Context, t *topic) (*Result, error) {
	if o.Fill > 0 {
		if err := o.fill(ctx, t); err != nil {
			return nil, err
		}
	}
	run, err := o.newConsuming(ctx, t, fromStart)
	if err != nil {
		return nil, err
	}
	defer run.close()
	var from, to reading
	if o.Once { // before anything is read
		if from, err = o.read(&run.meter); err != nil {
			return nil, err
		}
	}
	run.start(time.Now())
	err = run.drive(ctx, func(ctx context.Context) error {
		if o.Once {
			ended := func() bool { return run.reading.Load() == 0 }
			if err := o.watch(ctx, &run.meter, "measuring", run.t0, run.t0.Add(o.Duration), ended); err != nil {
				return err
			}
			to, err = o.read(&run.meter)
			return err
		}
		from, to, err = o.measure(ctx, &run.meter, run.t0)
		return err
	})
	if err != nil {
		return nil, err
	}
	r := o.result("consume", t, &run.meter, from, to)
	if o.Rate.Bytes > 0 {
		r.TargetPerSecond = o.Rate.Bytes / max(float64(r.Bytes), 1) * float64(r.Requests)
		r.KeptRate = r.BytesPerSecond >= keptShare*o.Rate.Bytes
	} else if o.Rate.Records > 0 {
		r.TargetPerSecond = o.Rate.Records / max(float64(r.Records), 1) * float64(r.Requests)
		r.KeptRate = r.RecordsPerSecond >= keptShare*o.Rate.Records
	}
	r.Fetch, r.Rounds = latencyOf(run.histograms()...), run.rounds.Load()
	return r, nil
}

// fill writes records into the topic, as fast as it goes.
func (o *Options) fill(ctx context.Context, t *topic) error {
	f := *o
	f.Rate, f.Acks, f.WarmUp, f.Duration = Rate{}, -1, 0, 24*time.Hour
	f.Connections = min(o.Connections, len(t.leaders))
	run, err := f.newProducing(ctx, t, false)
	if err != nil {
		return err
	}
	defer run.close()
	run.limit = int64(float64(o.Fill)/run.load.payload) + 1
	run.start(time.Now())
	return run.drive(ctx, func(context.Context) error { return nil }) // and then until all is sent
}

// where a run of consumers begins
type beginning int64

const (
	fromStart beginning = earliest
	fromEnd   beginning = latest
)

// consuming is one run of consumers.
type consuming struct {
	o        *Options
	topic    *topic
	meter    meter
	fetchers []*fetcher
	begin    beginning

	t0       time.Time
	from, to time.Duration // requests with a start in between are measured
	reading  atomic.Int64  // fetchers that have not reached the end
	rounds   atomic.Int64  // partitions that were begun again
	over     atomic.Bool   // the connections may be closed
}

// fetcher is one connection that reads some partitions, in a fetch session as consumers do. Its one goroutine owns it.
type fetcher struct {
	run     *consuming
	c       *conn
	cursors map[int32]*cursor
	pending []*cursor // those that the next request names
	left    int       // partitions that have not reached their end
	session int32
	epoch   int32
	read    float64 // what counts for the rate
	late    float64 // the share of the time between two of its requests by which its first is later than the first fetcher's
	fetch   *hdrhistogram.Histogram
	travel  *hdrhistogram.Histogram // from the producer's start
	out     []byte
}

// cursor is the position in one partition.
type cursor struct {
	partition       int32
	offset          int64
	first, end      int64 // of what was there at the beginning
	named, atItsEnd bool
	line            *timeline // where the way from the producer is measured; else nil
}

// newConsuming connects the consumers. The partitions of a broker are dealt out over its connections.
func (o *Options) newConsuming(ctx context.Context, t *topic, begin beginning) (*consuming, error) {
	run := &consuming{o: o, topic: t, begin: begin}
	for _, address := range t.brokers() {
		led := t.ledBy(address)
		workers := min(o.Connections, len(led))
		for w := range workers {
			var mine []int32
			for i, p := range led {
				if i%workers == w {
					mine = append(mine, p)
				}
			}
			if err := run.addFetcher(ctx, address, mine); err != nil {
				run.close()
				return nil, err
			}
		}
	}
	if begin == fromStart && run.reading.Load() == 0 {
		run.close()
		return nil, fmt.Errorf("topic %s is empty: fill it with --fill 1GB", t.name)
	}
	return run, nil
}

func (run *consuming) addFetcher(ctx context.Context, address string, partitions []int32) error {
	c, err := run.o.connect(ctx, address)
	if err != nil {
		return err
	}
	f := &fetcher{run: run, c: c, cursors: map[int32]*cursor{}, fetch: newHistogram(), travel: newHistogram()}
	run.fetchers = append(run.fetchers, f)
	ends, err := listOffsets(ctx, c, run.topic.name, partitions, latest)
	if err != nil {
		return err
	}
	firsts := ends
	if run.begin == fromStart {
		if firsts, err = listOffsets(ctx, c, run.topic.name, partitions, earliest); err != nil {
			return err
		}
	}
	for _, p := range partitions {
		cur := &cursor{partition: p, offset: firsts[p], first: firsts[p], end: ends[p], named: true}
		if run.begin == fromStart && cur.first == cur.end {
			continue // nothing is there
		}
		f.cursors[p] = cur
		f.pending = append(f.pending, cur)
	}
	if f.left = len(f.cursors); f.left > 0 {
		run.reading.Add(1)
	}
	return nil
}

func (run *consuming) close() {
	run.over.Store(true)
	for _, f := range run.fetchers {
		f.c.Close()
	}
}

func (run *consuming) histograms() (list []*hdrhistogram.Histogram) {
	for _, f := range run.fetchers {
		list = append(list, f.fetch)
	}
	return list
}

// start sets the beginning and the measured interval.
func (run *consuming) start(t0 time.Time) {
	run.t0 = t0
	run.from, run.to = run.o.WarmUp, run.o.WarmUp+run.o.Duration
	if run.o.Once {
		run.from, run.to = 0, run.o.Duration
	}
	for i, f := range run.fetchers {
		f.late = float64(i) / float64(len(run.fetchers))
	}
}

// drive, after start, runs the consumers while during does.
func (run *consuming) drive(ctx context.Context, during func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, run.close)
	defer stop()
	for _, f := range run.fetchers {
		g.Go(func() error { return f.consume(ctx) })
	}
	g.Go(func() error {
		defer run.close()
		return during(ctx)
	})
	return g.Wait()
}

func (f *fetcher) consume(ctx context.Context) error {
	if len(f.cursors) == 0 {
		return nil
	}
	share := float64(len(f.run.fetchers))
	rate := f.run.o.Rate.Bytes / share
	if rate == 0 {
		rate = f.run.o.Rate.Records / share
	}
	behind := 0.0
	if f.run.o.Rate.Bytes > 0 { // they all read at the same rate, and not all at the same moments
		behind = f.late * min(float64(f.run.o.FetchMaxBytes), float64(f.run.o.PartitionMaxBytes)*float64(len(f.cursors)))
	}
	for {
		start := time.Since(f.run.t0)
		if rate > 0 && f.run.begin == fromStart {
			intended := time.Duration((behind + f.read) / rate * 1e9)
			for start < intended && !f.run.over.Load() {
				time.Sleep(min(intended-start, pacerNap))
				start = time.Since(f.run.t0)
			}
			start = intended
		}
		if f.run.over.Load() {
			return context.Cause(ctx)
		}
		err := f.once(start)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case f.run.over.Load():
			return nil
		default:
			return err
		}
		if f.left == 0 {
			f.run.reading.Add(-1)
			return nil
		}
	}
}

// once does one Fetch.
func (f *fetcher) once(start time.Duration) error {
	c := f.c
	req := f.request()
	if err := c.prepare(req); err != nil {
		return err
	}
	if req.Version < 4 {
		return tooOld(c, req)
	}
	if err := c.SetDeadline(time.Now().Add(f.run.o.Timeout + f.run.o.MaxWait)); err != nil {
		return c.failed(context.Background(), kmsg.Fetch.Int16(), err)
	}
	c.lastID++
	f.out = c.formatter.AppendRequest(f.out[:0], req, c.lastID)
	if _, err := c.Write(f.out); err != nil {
		return c.failed(context.Background(), kmsg.Fetch.Int16(), err)
	}
	frame, err := c.frames.next()
	if err != nil {
		return c.failed(context.Background(), kmsg.Fetch.Int16(), err)
	}
	now := time.Since(f.run.t0)
	resp := kmsg.NewPtrFetchResponse()
	resp.Version = req.Version
	body, err := bodyOf(frame, resp, c.lastID)
	if err != nil {
		return err
	}
	if err := resp.UnsafeReadFrom(body); err != nil {
		return unreadable(resp, err)
	}
	if start >= f.run.from && start < f.run.to {
		recordLatency(f.fetch, now-start)
	}
	return f.take(resp, now)
}

// request asks for the partitions that are not as the session knows them.
func (f *fetcher) request() *kmsg.FetchRequest {
	o := f.run.o
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = -1, int32(o.MaxWait.Milliseconds()), o.MinBytes, o.FetchMaxBytes
	req.SessionID, req.SessionEpoch = f.session, f.epoch
	if len(f.pending) == 0 {
		return req
	}
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = f.run.topic.name
	rt.Partitions = make([]kmsg.FetchRequestTopicPartition, len(f.pending))
	for i, cur := range f.pending {
		rp := &rt.Partitions[i]
		rp.Default()
		rp.Partition, rp.FetchOffset, rp.CurrentLeaderEpoch = cur.partition, cur.offset, -1
		rp.LogStartOffset, rp.PartitionMaxBytes = -1, o.PartitionMaxBytes
		cur.named = false
	}
	f.pending = f.pending[:0]
	req.Topics = append(req.Topics, rt)
	return req
}

// take looks at the answer's errors and batch headers and moves on.
func (f *fetcher) take(resp *kmsg.FetchResponse, now time.Duration) error {
	if resp.ThrottleMillis > 0 {
		f.run.meter.throttleMs.Add(int64(resp.ThrottleMillis))
	}
	code := kerr.ErrorForCode(resp.ErrorCode)
	switch {
	case errors.Is(code, kerr.FetchSessionIDNotFound), errors.Is(code, kerr.InvalidFetchSessionEpoch):
		f.restart() // the broker has forgotten the session: consumers begin another
		return nil
	case code != nil:
		return refused("Fetch", f.run.topic.name, -1, resp.ErrorCode, nil)
	}
	if f.session = resp.SessionID; f.session != 0 {
		f.epoch = f.epoch%(1<<31-1) + 1
	}
	var records, bytes int64
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			p := &resp.Topics[i].Partitions[j]
			if err := refused("Fetch", f.run.topic.name, p.Partition, p.ErrorCode, nil); err != nil {
				return err
			}
			cur := f.cursors[p.Partition]
			if cur == nil {
				return fmt.Errorf("a Fetch response with partition %d, which was not asked for", p.Partition)
			}
			r, b, err := f.walk(cur, p.RecordBatches, now)
			if err != nil {
				return err
			}
			records, bytes = records+r, bytes+b
		}
	}
	if f.session == 0 { // the broker keeps none: every request names all partitions
		f.restart()
	}
	f.run.meter.add(1, records, bytes, bytes)
	if f.run.o.Rate.Bytes > 0 {
		f.read += float64(bytes)
	} else {
		f.read += float64(records)
	}
	return nil
}

// restart makes the next request a full one.
func (f *fetcher) restart() {
	f.session, f.epoch = 0, 0
	f.pending = f.pending[:0]
	for _, cur := range f.cursors {
		cur.named = true
		f.pending = append(f.pending, cur)
	}
}

// walk goes from header to header. What stands behind the last whole batch is the next one's beginning.
func (f *fetcher) walk(cur *cursor, p []byte, now time.Duration) (records, bytes int64, err error) {
	for len(p) >= record.HeaderSize {
		h, err := record.HeaderOf(p)
		if err != nil {
			return 0, 0, fmt.Errorf("%s-%d at offset %d: %w", f.run.topic.name, cur.partition, cur.offset, err)
		}
		if h.Size() > len(p) {
			break
		}
		if h.NextOffset() <= cur.offset {
			return 0, 0, fmt.Errorf("%s-%d: a batch that ends at offset %d, where %d was asked for", f.run.topic.name, cur.partition, h.LastOffset(), cur.offset)
		}
		cur.offset = h.NextOffset()
		records, bytes = records+int64(h.Count()), bytes+int64(h.Size())
		if cur.line != nil {
			if err := f.arrived(cur, h, now); err != nil {
				return 0, 0, err
			}
		}
		p = p[h.Size():]
	}
	if len(p) > 0 && bytes == 0 && len(p) >= record.HeaderSize {
		return 0, 0, fmt.Errorf("%s-%d at offset %d: not one whole batch in %d bytes", f.run.topic.name, cur.partition, cur.offset, len(p))
	}
	if bytes > 0 && !cur.named {
		cur.named = true
		f.pending = append(f.pending, cur)
	}
	if f.run.begin == fromStart && cur.offset >= cur.end && !cur.atItsEnd {
		if f.run.o.Once {
			cur.atItsEnd = true
			f.left--
		} else {
			cur.offset = cur.first
			f.run.rounds.Add(1)
		}
	}
	return records, bytes, nil
}
