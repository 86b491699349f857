package bench

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// Produce measures producers.
func Produce(ctx context.Context, o Options) (*Result, error) {
	o, err := o.Defaults()
	if err != nil {
		return nil, err
	}
	o.Progress(Progress{Phase: "creating"})
	t, err := o.openTopic(ctx)
	if err != nil {
		return nil, err
	}
	r, err := o.produce(ctx, t)
	if err := errors.Join(err, o.closeTopic(ctx, t)); err != nil {
		return nil, err
	}
	return r, nil
}

func (o *Options) produce(ctx context.Context, t *topic) (*Result, error) {
	run, err := o.newProducing(ctx, t, false)
	if err != nil {
		return nil, err
	}
	defer run.close()
	run.start(time.Now())
	var from, to reading
	err = run.drive(ctx, func(ctx context.Context) error {
		from, to, err = o.measure(ctx, &run.meter, run.t0)
		return err
	})
	if err != nil {
		return nil, err
	}
	r := o.result("produce", t, &run.meter, from, to)
	run.judge(r)
	return r, nil
}

// measure reads the clocks after the warm-up and at the end.
func (o *Options) measure(ctx context.Context, m *meter, t0 time.Time) (from, to reading, err error) {
	begin := t0.Add(o.WarmUp)
	end := begin.Add(o.Duration)
	if err := o.watch(ctx, m, "warming up", t0, begin, nil); err != nil {
		return from, to, err
	}
	if from, err = o.read(m); err != nil {
		return from, to, err
	}
	if err := o.watch(ctx, m, "measuring", begin, end, o.ended()); err != nil {
		return from, to, err
	}
	to, err = o.read(m)
	return from, to, err
}

// ended says whether Until is closed; nil when there is none.
func (o *Options) ended() func() bool {
	if o.Until == nil {
		return nil
	}
	return func() bool {
		select {
		case <-o.Until:
			return true
		default:
			return false
		}
	}
}

// producing is one run of producers.
type producing struct {
	o         *Options
	topic     *topic
	load      *load
	meter     meter
	producers []*producer
	lines     map[int32]*timeline // by partition, where somebody measures to the other end; else nil
	interval  float64             // nanoseconds between the requests of all producers; 0: saturated

	t0       time.Time     // all durations below and in producers count from here
	from, to time.Duration // requests with a start in between are measured; none starts after to
	limit    int64         // requests to send, 0: as many as there is time for
	left     atomic.Int64  // of limit
	over     atomic.Bool   // the connections may be closed
	finished chan struct{} // closed when there is nothing left to send
}

// producer is one connection that sends. Its reader and its sender both call pump.
type producer struct {
	run     *producing
	c       *conn
	turns   [][]*template // the partitions in the order of their turns, each with its variants
	version int16
	every   float64 // nanoseconds between two requests, 0: saturated
	phase   float64 // nanoseconds from t0 to the first
	wake    chan struct{}

	ack    *hdrhistogram.Histogram // the reader's, until it has ended
	readID int32                   // the reader's: correlation id of the last response

	mu      sync.Mutex // guards the rest, and writing to c
	sent    int64      // requests, with those that were gathered into others
	pending []pending  // a ring of those without an answer, InFlight long
	head, n int
	lastID  int32
	id      *producerID // nil: not idempotent
	out     []byte
}

// pending is a request on its way.
type pending struct {
	dues dues
	t    *template
}

// dues are the moments at which what a request brings should have been sent: several where Gather made one of them.
type dues struct {
	first time.Duration
	n     int64
	every float64 // nanoseconds between them
}

// record counts the latencies of those that are measured.
func (d dues) record(h *hdrhistogram.Histogram, now, from, to time.Duration) {
	for i := range d.n {
		if at := d.first + time.Duration(float64(i)*d.every); at >= from && at < to {
			recordLatency(h, now-at)
		}
	}
}

// newProducing connects the producers. With exclusive each partition has one producer only.
func (o *Options) newProducing(ctx context.Context, t *topic, exclusive bool) (*producing, error) {
	all := make([]int32, 0, len(t.leaders))
	for p := range t.leaders {
		all = append(all, p)
	}
	slices.Sort(all)
	l, err := o.makeLoad(all)
	if err != nil {
		return nil, err
	}
	run := &producing{o: o, topic: t, load: l, finished: make(chan struct{}), interval: float64(o.Rate.interval(l.records, l.payload))}
	for _, address := range t.brokers() {
		for w := range o.Connections {
			schedule := run.turnsOf(address, w, exclusive)
			if len(schedule) == 0 {
				continue
			}
			if err := run.addProducer(ctx, address, w, schedule, exclusive); err != nil {
				run.close()
				return nil, err
			}
		}
	}
	return run, nil
}

// turnsOf are the turns of one worker at one broker.
func (run *producing) turnsOf(address string, worker int, exclusive bool) []int32 {
	var schedule []int32
	for _, p := range run.load.schedule {
		if run.topic.leaders[p] == address && (!exclusive || int(p)%run.o.Connections == worker) {
			schedule = append(schedule, p)
		}
	}
	if !exclusive && len(schedule) > 0 { // workers begin at different partitions
		at := worker * len(schedule) / run.o.Connections % len(schedule)
		schedule = append(schedule[at:len(schedule):len(schedule)], schedule[:at]...)
	}
	return schedule
}

func (run *producing) addProducer(ctx context.Context, address string, worker int, schedule []int32, exclusive bool) error {
	o := run.o
	c, err := o.connect(ctx, address)
	if err != nil {
		return err
	}
	p := &producer{run: run, c: c, version: c.versions[kmsg.Produce.Int16()], wake: make(chan struct{}, 1), ack: newHistogram(),
		pending: make([]pending, o.InFlight)}
	run.producers = append(run.producers, p)
	share := float64(len(schedule)) / float64(len(run.load.schedule))
	if !exclusive {
		share /= float64(o.Connections)
	}
	p.every = run.interval / share
	p.phase = p.every * float64(worker) / float64(o.Connections)

	templates := map[int32][]*template{}
	for _, at := range schedule {
		if templates[at] == nil {
			for _, b := range run.load.batches[at] {
				t, err := o.makeTemplate(c, run.topic.name, at, b)
				if err != nil {
					return err
				}
				templates[at] = append(templates[at], t)
			}
		}
		p.turns = append(p.turns, templates[at])
	}
	if o.Idempotent {
		id, epoch, err := initProducer(ctx, c)
		if err != nil {
			return err
		}
		p.id = &producerID{id: id, epoch: epoch, sequences: map[int32]int32{}, castagnoli: crc32.MakeTable(crc32.Castagnoli)}
	}
	p.lastID, p.readID = c.lastID, c.lastID
	return nil
}

func (run *producing) close() {
	run.over.Store(true)
	for _, p := range run.producers {
		p.c.Close()
	}
}

// drive, after start, runs the producers while during does, and then until what they have started is answered.
func (run *producing) drive(ctx context.Context, during func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, run.close)
	defer stop()
	for _, p := range run.producers {
		g.Go(func() error { return p.read(ctx) })
		g.Go(func() error { return p.send(ctx) })
	}
	if run.interval > 0 {
		g.Go(func() error { return run.pace(ctx) })
	}
	g.Go(func() error { return run.guard(ctx) })
	g.Go(func() error {
		if err := during(ctx); err != nil {
			return err
		}
		if err := run.drain(ctx); err != nil {
			return err
		}
		run.close()
		close(run.finished)
		return nil
	})
	return g.Wait()
}

// start sets the beginning and the measured interval.
func (run *producing) start(t0 time.Time) {
	run.t0 = t0
	run.from, run.to = run.o.WarmUp, run.o.WarmUp+run.o.Duration
	run.left.Store(run.limit)
}

// send writes what is due when it is woken, and without answers to wait for, all the time.
func (p *producer) send(ctx context.Context) error {
	if p.run.interval == 0 {
		p.poke()
	}
	for {
		select {
		case <-p.wake:
		case <-p.run.finished:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		n, err := p.pump()
		if err != nil {
			if p.run.over.Load() && ctx.Err() == nil {
				return nil
			}
			return p.c.failed(ctx, kmsg.Produce.Int16(), err)
		}
		if n > 0 && p.run.o.Acks == 0 {
			p.poke() // no answer will make room: there may be more at once
		}
	}
}

// poke wakes the sender.
func (p *producer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

const (
	pacerGrain = 50 * time.Microsecond // what is due within that is sent together
	pacerNap   = 100 * time.Millisecond
	// socketRoom is what a connection takes without making its writer wait for the broker.
	socketRoom = 256 << 10
)

// pace sends each request when it is due: itself where that cannot make it wait, and with it all others, else by
// the senders.
func (run *producing) pace(ctx context.Context) error {
	direct := run.o.Acks != 0 && run.o.InFlight*run.o.BatchSize <= socketRoom
	next := make([]float64, len(run.producers))
	for i, p := range run.producers {
		next[i] = p.phase
	}
	for ctx.Err() == nil {
		now := float64(time.Since(run.t0))
		first := float64(run.to)
		for i, p := range run.producers {
			if next[i] <= now {
				if !direct {
					p.poke()
				} else if _, err := p.pump(); err != nil && !run.over.Load() {
					return p.c.failed(ctx, kmsg.Produce.Int16(), err)
				}
				next[i] += (float64(int64((now-next[i])/p.every)) + 1) * p.every
			}
			first = min(first, next[i])
		}
		if now >= float64(run.to) || run.over.Load() {
			return nil
		}
		run.o.Sleep(max(pacerGrain, min(pacerNap, time.Duration(first-now))))
	}
	return context.Cause(ctx)
}

// intended is when request n should be sent.
func (p *producer) intended(n int64) time.Duration {
	return time.Duration(p.phase + float64(n)*p.every)
}

// due is the number of requests that should have been sent by now.
func (p *producer) due(now time.Duration) int64 {
	now = min(now, p.run.to-1)
	if float64(now) < p.phase {
		return 0
	}
	return int64((float64(now)-p.phase)/p.every) + 1
}

// room is how many requests may be sent now; it needs mu.
func (p *producer) room(now time.Duration) int64 {
	run := p.run
	room := int64(len(p.pending) - p.n)
	if run.o.Acks == 0 {
		room = int64(len(p.pending)) // nothing is pending; the connection's buffers are the limit
	}
	switch {
	case run.interval > 0:
		room = min(room, p.due(now)-p.sent)
		if run.o.Gather {
			room = min(room, 1)
		}
	case now >= run.to && run.limit == 0:
		return 0
	}
	if run.limit > 0 {
		if after := run.left.Add(-room); after < 0 {
			give := min(room, -after)
			run.left.Add(give)
			room -= give
		}
	}
	return room
}

const writeSize = 1 << 20 // requests that are written at once

// pump writes what may be sent and returns how many requests that were.
func (p *producer) pump() (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	total := int64(0)
	for {
		now := time.Since(p.run.t0)
		room := p.room(now)
		if room <= 0 {
			return total, nil
		}
		p.out = p.out[:0]
		var records, payload, wire int64
		for range room {
			t := p.take(now)
			records, payload, wire = records+int64(t.records), payload+int64(t.payload), wire+int64(len(t.bytes))
			if len(p.out) >= writeSize {
				if _, err := p.c.Write(p.out); err != nil {
					return total, err
				}
				p.out = p.out[:0]
			}
		}
		if _, err := p.c.Write(p.out); err != nil {
			return total, err
		}
		total += room
		if p.run.o.Acks == 0 {
			p.run.meter.add(room, records, payload, wire)
			return total, nil
		}
	}
}

// take appends the next request to out; it needs mu.
func (p *producer) take(now time.Duration) *template {
	turn := p.turns[p.sent%int64(len(p.turns))]
	t := turn[(p.sent+p.sent/int64(len(p.turns)))%int64(len(turn))]
	at := dues{now, 1, p.every}
	if p.run.interval > 0 {
		at.first = p.intended(p.sent)
		if p.run.o.Gather {
			at.n = p.due(now) - p.sent
		}
	}
	p.sent += at.n
	p.lastID++
	p.out = t.append(p.out, p.lastID, p.id)
	if p.run.o.Acks != 0 {
		p.pending[(p.head+p.n)%len(p.pending)] = pending{at, t}
		p.n++
	}
	if line := p.run.lines[t.partition]; line != nil {
		line.sent(at, t.records)
	}
	return t
}

// read takes the answers, and sends what they make room for.
func (p *producer) read(ctx context.Context) error {
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = p.version
	answered := 0
	for {
		frame, err := p.c.frames.next()
		if err != nil {
			if p.run.over.Load() && ctx.Err() == nil {
				return nil
			}
			if p.run.o.Acks == 0 {
				err = fmt.Errorf("with acks 0 that is its only way to refuse; --acks 1 shows the reason: %w", err)
			}
			return p.c.failed(ctx, kmsg.Produce.Int16(), err)
		}
		if err := p.check(frame, resp); err != nil {
			return err
		}
		answered++
		if answered < len(p.pending) && p.c.frames.ready() {
			continue
		}
		if err := p.answered(answered); err != nil {
			return err
		}
		answered = 0
		if _, err := p.pump(); err != nil && !p.run.over.Load() {
			return p.c.failed(ctx, kmsg.Produce.Int16(), err)
		}
	}
}

// check finds the errors in an answer.
func (p *producer) check(frame []byte, resp *kmsg.ProduceResponse) error {
	p.readID++
	body, err := bodyOf(frame, resp, p.readID)
	if err != nil {
		return err
	}
	if err := resp.UnsafeReadFrom(body); err != nil {
		return unreadable(resp, err)
	}
	if resp.ThrottleMillis > 0 {
		p.run.meter.throttleMs.Add(int64(resp.ThrottleMillis))
	}
	partitions := 0
	for _, t := range resp.Topics {
		for _, tp := range t.Partitions {
			partitions++
			if err := refused("Produce", p.run.topic.name, tp.Partition, tp.ErrorCode, tp.ErrorMessage); err != nil {
				return err
			}
		}
	}
	if partitions != 1 {
		return fmt.Errorf("a Produce response with %d partitions, where 1 is due", partitions)
	}
	return nil
}

// answered counts the oldest n requests as done.
func (p *producer) answered(n int) error {
	now := time.Since(p.run.t0)
	var records, payload, wire int64
	p.mu.Lock()
	defer p.mu.Unlock()
	if n > p.n {
		return errors.New("a response to a request that was not sent")
	}
	for range n {
		q := p.pending[p.head]
		p.head, p.n = (p.head+1)%len(p.pending), p.n-1
		records, payload, wire = records+int64(q.t.records), payload+int64(q.t.payload), wire+int64(len(q.t.bytes))
		q.dues.record(p.ack, now, p.run.from, p.run.to)
	}
	p.run.meter.add(int64(n), records, payload, wire)
	return nil
}

// undone is the number of requests that are due or sent, and not answered.
func (p *producer) undone() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := int64(p.n)
	if p.run.interval > 0 {
		n += p.due(p.run.to) - p.sent
	}
	return n
}

func (run *producing) undone() (n int64) {
	for _, p := range run.producers {
		n += p.undone()
	}
	return n + max(0, run.left.Load())
}

// drain waits for what belongs to the interval, or for all that there is to send. A broker that takes less than
// the rate is given up after as long a time as the interval took: judge counts what is left.
func (run *producing) drain(ctx context.Context) error {
	phase, began := "draining", time.Now()
	until := began.Add(max(run.o.Timeout, run.o.Duration))
	if run.limit > 0 {
		phase = "filling"
	}
	return run.o.watch(ctx, &run.meter, phase, began, until, func() bool { return run.undone() == 0 })
}

// guard ends the run when nothing has been answered for the timeout, though something is pending.
func (run *producing) guard(ctx context.Context) error {
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	last, since := int64(-1), time.Now()
	for !run.over.Load() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		n := run.meter.requests.Load()
		waiting := false
		for _, p := range run.producers {
			if p.mu.TryLock() {
				waiting = waiting || p.n > 0
				p.mu.Unlock()
			} else {
				waiting = true // it writes: to a broker that reads, that takes no time
			}
		}
		if n != last || !waiting {
			last, since = n, time.Now()
		}
		if time.Since(since) > run.o.Timeout {
			return fmt.Errorf("Produce: no answer within %s: %w", run.o.Timeout, context.DeadlineExceeded)
		}
	}
	return nil
}

// judge completes a result when the producers have ended.
func (run *producing) judge(r *Result) {
	now := time.Since(run.t0)
	histograms := make([]*hdrhistogram.Histogram, 0, len(run.producers))
	for _, p := range run.producers {
		histograms = append(histograms, p.ack)
		if run.interval == 0 || run.o.Acks == 0 {
			continue
		}
		for i := range p.n { // what was given up has taken at least until now
			p.pending[(p.head+i)%len(p.pending)].dues.record(p.ack, now, run.from, run.to)
		}
		for n := p.sent; n < p.due(run.to); n++ {
			if at := p.intended(n); at >= run.from {
				recordLatency(p.ack, now-at)
			}
		}
	}
	if run.interval > 0 {
		r.TargetPerSecond = 1e9 / run.interval
		r.KeptRate = r.RequestsPerSecond >= keptShare*r.TargetPerSecond
	}
	if run.o.Acks != 0 {
		r.Ack = latencyOf(histograms...)
	}
}
