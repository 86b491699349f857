package handler

// Fetch, key 1, versions 4 to 18 (KIP-74, KIP-227 sessions, KIP-320 leader epochs,
// KIP-516 topic ids from version 13, KIP-951 leader hints from version 16).
//
// Answered at once when there are enough bytes, when any partition has an error, when
// there is nothing to read or no time to wait; else the request parks on its
// partitions. What is not in memory is read by the log dir's cold queue, and the request parks as if those records had not been
// written yet; only if there is nothing else to tell at its deadline, it waits on for them, up to coldPatience. The first batch of the first partition that has one is returned whole,
// whatever the limits. Small ranges are read when they are planned, up to maxCopied; the others leave as ranges of
// segment files. In a session (fetch_session.go) only partitions that have news are read. A consumer reads below
// the high watermark, or below the last stable offset under read_committed; an offset
// between that and the log end is no error. AbortedTransactions is null, not empty, under
// read_uncommitted. There are no other replicas yet, so a fetch that says it is one is
// answered with NOT_LEADER_OR_FOLLOWER.

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"moldau/internal/network"
	"moldau/internal/partition"
	"moldau/internal/quota"
	"moldau/internal/storage"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// maxCopied bounds the records of one response that are read when they are planned and wait in memory for the client.
const maxCopied = 256 << 10

// coldPatience is how long after its arrival a fetch with nothing but cold partitions is answered without records.
const coldPatience = 5 * time.Second

// fetchCall is one fetch. What it needs is kept for the next one.
type fetchCall struct {
	rc       requestContext
	req      wire.FetchRequest
	maxBytes int
	minBytes int64
	deadline time.Time
	failure  wire.Code // of the whole request
	local    time.Time
	throttle time.Duration
	looked   bool // the targets were read once
	enough   bool // and that was enough to answer

	reader   storage.Reader
	cold     *partition.Partition // the first that has records which are not in memory; nil: none
	found    bool                 // there are records, or an error, to answer with
	diskWait time.Duration
	diskFor  string

	session *fetchSession // nil: none, or not yet made
	turn    int64         // of the session
	own     []fetchTarget // without a session: what the request names
	seen    map[targetKey]int

	targets []*fetchTarget // what is read
	results []fetchResult  // of targets
	parts   []wire.FetchPartition
	regions []vfs.Region // of parts
	resp    wire.FetchResponse
	encoder wire.FetchEncoder
	timer   *time.Timer
}

// fetchResult is what was read for one target.
type fetchResult struct {
	part partition.ReadResult
	err  error
}

func startFetch(t *Table, rc requestContext, body []byte) (network.Call, error) {
	c := t.pools.getFetch()
	if err := c.req.Decode(rc.header.Version, body); err != nil {
		return nil, err
	}
	c.rc = rc
	defer c.rc.work(time.Now())
	c.reader.Client = rc.conn
	limit := c.rc.mostBytes(t.resolved(t.o.Cluster.Image()).maxFetch)
	c.maxBytes = int(max(0, min(c.req.MaxBytes, limit)))
	c.minBytes = int64(min(c.req.MinBytes, int32(c.maxBytes)))
	c.deadline = rc.arrived.Add(max(0, c.req.MaxWait))
	c.failure = t.sessions.begin(c)
	return c, nil
}

// named makes what the request names the targets; of a partition that is named twice the last one counts.
func (c *fetchCall) named() {
	if c.seen == nil {
		c.seen = map[targetKey]int{}
	}
	for i := range c.req.Topics {
		topic := &c.req.Topics[i]
		for j := range topic.Partitions {
			k := targetKey{topic.Name, topic.ID, topic.Partitions[j].Index}
			n, known := c.seen[k]
			if !known {
				n = len(c.own)
				c.seen[k] = n
				c.own = append(c.own, fetchTarget{targetKey: k})
			}
			c.own[n].ask = topic.Partitions[j]
		}
	}
	for i := range c.own {
		c.targets = append(c.targets, &c.own[i])
	}
}

// Ready reads, and reports whether that is enough for an answer.
func (c *fetchCall) Ready() bool {
	if !c.looked {
		c.looked = true
		c.enough = c.failure != wire.None || c.read() || !time.Now().Before(c.until())
		c.local = time.Now()
	}
	return c.enough
}

// Describe names the partitions that were read, and the one whose records had to come from the disk.
func (c *fetchCall) Describe() []slog.Attr {
	attrs := c.rc.describe(describePartitions(len(c.targets), func() string {
		t := c.targets[0]
		return c.rc.partitionName(t.topic, t.id, t.index)
	}), slog.Duration("maxWait", c.req.MaxWait))
	if c.diskFor != "" {
		attrs = append(attrs, slog.String("diskFor", c.diskFor))
	}
	return attrs
}

// Release lets go of what the reply refers to, and gives the call to the request that comes next.
func (c *fetchCall) Release() {
	c.drop()
	t := c.rc.table
	clear(c.own)
	clear(c.seen)
	clear(c.targets)
	clear(c.parts)
	clear(c.regions)
	for i := range c.resp.Topics {
		clear(c.resp.Topics[i].Partitions)
	}
	buf := c.encoder.Forget()
	c.reader.Forget()
	c.rc, c.session, c.failure, c.looked, c.enough, c.throttle = requestContext{}, nil, wire.None, false, false, 0
	c.cold, c.diskWait, c.diskFor = nil, 0, ""
	c.own, c.targets = c.own[:0], c.targets[:0]
	t.pools.putFetch(c, buf, t.o.PoisonBuffers)
}

// drop lets go of what was read.
func (c *fetchCall) drop() {
	for i := range c.results {
		c.results[i].part.Plan.Release()
	}
	clear(c.results)
	c.results = c.results[:0]
}

// Wait parks until there is something to answer.
func (c *fetchCall) Wait(ctx context.Context) network.Reply {
	if !c.Ready() {
		c.park(ctx)
	}
	if c.failure == wire.None {
		c.failure = c.respond()
	}
	if c.failure != wire.None {
		c.resp = wire.FetchResponse{ErrorCode: c.failure}
		c.mustWait()
	}
	return network.Reply{
		Pieces:    c.encode(),
		Throttle:  c.throttle,
		LocalDone: c.local, Ready: time.Now(), MayPark: max(0, c.req.MaxWait-c.diskWait), DiskWait: c.diskWait,
	}
}

// encode is the response in bytes.
func (c *fetchCall) encode() []wire.Piece {
	return c.encoder.Encode(c.rc.header.CorrelationID, c.rc.header.Version, &c.resp)
}

// mustWait charges the response as it stands. Where the client has to wait first, it gets an empty one at once, and is charged no
// bytes for it; what it would have got is there for its next fetch. A response that is the first to overdraw what the client may have leaves as it is,
// and he waits after it.
func (c *fetchCall) mustWait() bool {
	if !c.rc.metered || c.isReplica() {
		return false
	}
	var bytes int64
	if c.rc.account(quota.ConsumerByteRate) != nil {
		bytes = -4 // Kafka counts the body, and four bytes for its size, but not the header
		if c.rc.header.Version >= 12 {
			bytes--
		}
		for _, p := range c.encode() {
			bytes += p.Len()
		}
	}
	ms := c.rc.chargeWork()
	first := ms > 0
	if first {
		bytes = 0 // they do not leave
	}
	bytesMs, refused := c.rc.takeFetched(bytes)
	ms = max(ms, bytesMs)
	c.resp.ThrottleMs, c.throttle = int32(ms), milliseconds(ms)
	if first = first || refused; first {
		c.resp.Topics, c.resp.Brokers = c.resp.Topics[:0], nil
	}
	return first
}

// isReplica reports whether another broker asks, on whom there are no quotas.
func (c *fetchCall) isReplica() bool {
	return c.req.ReplicaID >= 0 && c.rc.permitted(access{clusterResource, opClusterAction}, clusterName)
}

// park waits for more until the deadline.
func (c *fetchCall) park(ctx context.Context) {
	w := c.watch()
	if w == nil {
		return // read says why
	}
	defer c.unwatch(w)
	c.reader.Wake = w.Wake
	if c.timer == nil {
		c.timer = time.NewTimer(time.Until(c.deadline))
	} else {
		c.timer.Reset(time.Until(c.deadline))
	}
	defer c.timer.Stop()
	for first := true; !c.read(); first = false { // first of all what came before the watch
		if first && c.session != nil {
			c.hurry()
		}
		var began time.Time
		if c.cold != nil {
			began = time.Now()
			c.diskFor = c.cold.Name()
		}
		again := false
		select {
		case <-w.Wake:
			again = true
		case now := <-c.timer.C:
			until := c.until()
			if again = until.After(now); again {
				c.timer.Reset(until.Sub(now))
			}
		case <-ctx.Done():
			c.reader.Cancel()
		}
		if c.cold != nil {
			c.diskWait += time.Since(began)
		}
		if !again {
			return
		}
	}
}

// until is when the fetch is answered in any case, as far as is known now.
func (c *fetchCall) until() time.Time {
	if patience := c.rc.arrived.Add(coldPatience); c.cold != nil && !c.found && patience.After(c.deadline) {
		return patience
	}
	return c.deadline
}

// watch returns a watcher of the targets that waits.
func (c *fetchCall) watch() *partition.Watcher {
	f := c.session
	if f == nil {
		w := partition.NewWatcher()
		for _, t := range c.targets {
			if p, err := c.rc.table.o.Partitions.Lookup(t.topic, t.id, t.index); err == nil {
				p.Watch(w)
			}
		}
		return w
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.failure = f.mayAnswer(c); c.failure != wire.None {
		return nil
	}
	f.parked = true
	f.watcher.Waiting(true)
	return f.watcher
}

func (c *fetchCall) unwatch(w *partition.Watcher) {
	f := c.session
	if f == nil {
		w.Stop()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watcher == w {
		f.parked = false
		w.Waiting(false)
	}
}

// hurry asks for a flush of the records that came before the watcher waited.
func (c *fetchCall) hurry() {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	for _, t := range c.targets {
		if t.partition != nil {
			t.partition.Hurry()
		}
	}
}

// read reads every target and reports whether the fetch may be answered.
func (c *fetchCall) read() (done bool) {
	defer c.rc.work(time.Now())
	c.drop()
	c.rc.decided = decision{} // what was allowed when the fetch began to wait may not be any more
	if f := c.session; f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if c.failure = f.look(c); c.failure != wire.None {
			return true
		}
		c.targets = append(c.targets[:0], f.queue...)
	}
	c.results = resized(c.results, len(c.targets))
	left, total, copyLeft := c.maxBytes, int64(0), maxCopied
	failed := false
	c.cold = nil
	c.reader.Begin()
	for i, t := range c.targets {
		r := &c.results[i]
		c.readOne(r, t, left, total == 0, copyLeft)
		if r.err != nil || r.part.Diverging != nil {
			failed = true
			continue
		}
		n := r.part.Plan.Len()
		total += n
		left = max(0, left-int(n))
		copyLeft -= len(r.part.Plan.Bytes)
	}
	c.found = failed || total > 0
	return failed || total >= c.minBytes && (total > 0 || c.cold == nil) || c.session == nil && len(c.targets) == 0
}

func (c *fetchCall) readOne(r *fetchResult, t *fetchTarget, left int, minOne bool, copyBytes int) {
	if c.req.ReplicaID >= 0 {
		if r.err = wire.NotLeaderOrFollower; !c.rc.allowedTo(access{clusterResource, opClusterAction}, clusterName) {
			r.err = wire.TopicAuthorizationFailed
		}
		return
	}
	var p *partition.Partition
	if c.session != nil {
		p, r.err = c.session.hold(t, c.rc.table.o.Partitions)
	} else {
		p, r.err = c.rc.table.lookup(t.topic, t.id, t.index)
	}
	if r.err != nil {
		if c.rc.hides(t.topic, t.id) {
			r.err = wire.TopicAuthorizationFailed
		}
		return
	}
	if !c.rc.allowed(p.TopicPartition().Topic) {
		r.err = wire.TopicAuthorizationFailed
	} else {
		r.part, r.err = p.Read(partition.ReadOptions{
			Offset: t.ask.Offset, CurrentEpoch: t.ask.CurrentEpoch, FetchedEpoch: t.ask.FetchedEpoch,
			ReadCommitted: c.req.ReadCommitted,
			MaxBytes:      int(min(max(t.ask.MaxBytes, 0), int32(left))), MinOne: minOne, CopyBytes: copyBytes,
			Reader: &c.reader,
		})
		if r.err == storage.ErrCold {
			r.err = nil
			if c.cold == nil {
				c.cold = p
			}
		}
	}
	if r.err != nil && c.session != nil {
		t.letGo()
	}
}

// respond makes the response of what was read, reduced to what changed if there is a session. An error is that of
// the whole request.
func (c *fetchCall) respond() wire.Code {
	c.parts, c.regions = resized(c.parts, len(c.targets)), resized(c.regions, len(c.targets))
	var leaders leaderHints
	for i, t := range c.targets {
		c.parts[i] = c.partition(t, &c.results[i], &leaders, c.regions[i:i:i+1])
	}
	c.resp.ThrottleMs, c.resp.ErrorCode, c.resp.SessionID, c.resp.Brokers, c.resp.Topics = 0, wire.None, 0, leaders.brokers, c.resp.Topics[:0]
	if c.session != nil {
		return c.changes(c.session)
	}
	for i, t := range c.targets {
		c.send(t, &c.parts[i])
	}
	if !c.mustWait() && c.req.SessionEpoch == initialEpoch && c.req.Version >= 7 && len(c.targets) > 0 {
		c.resp.SessionID = c.rc.table.sessions.create(c, c.parts)
	}
	return wire.None
}

// changes sends what is news to the client of the session, and leaves in the queue what the next fetch looks at in any case.
func (c *fetchCall) changes(f *fetchSession) wire.Code {
	f.mu.Lock()
	defer f.mu.Unlock()
	if code := f.mayAnswer(c); code != wire.None {
		return code
	}
	c.resp.SessionID = f.id
	for i, t := range c.targets {
		if p := &c.parts[i]; t.isNews(p) {
			c.send(t, p)
		}
	}
	if c.mustWait() {
		return wire.None // and the next fetch looks at the same
	}
	f.queue = f.queue[:0]
	for i, t := range c.targets {
		p := &c.parts[i]
		t.told(p)
		if t.queued = false; !hasRecords(p) && c.unfinished(i) {
			f.enqueue(t)
		}
	}
	for i, t := range c.targets {
		if hasRecords(&c.parts[i]) {
			f.enqueue(t)
		}
	}
	return wire.None
}

// unfinished reports whether target i has to be looked at without news of its partition.
func (c *fetchCall) unfinished(i int) bool {
	r := &c.results[i]
	limit := r.part.HighWatermark
	if c.req.ReadCommitted {
		limit = r.part.LastStable
	}
	return r.err != nil || r.part.Diverging != nil || r.part.Pending || c.targets[i].ask.Offset < limit
}

// send puts a partition into the response, beside the one before it if that is of the same topic.
func (c *fetchCall) send(t *fetchTarget, p *wire.FetchPartition) {
	topics := c.resp.Topics
	n := len(topics)
	if n == 0 || topics[n-1].Name != t.topic || topics[n-1].ID != t.id {
		topics = resized(topics, n+1)
		topics[n].Name, topics[n].ID, topics[n].Partitions = t.topic, t.id, topics[n].Partitions[:0]
		c.resp.Topics = topics
		n++
	}
	topics[n-1].Partitions = append(topics[n-1].Partitions, *p)
}

func (c *fetchCall) partition(t *fetchTarget, r *fetchResult, leaders *leaderHints, region []vfs.Region) wire.FetchPartition {
	part := wire.NewFetchPartition(t.index)
	part.ErrorCode = codeOf(r.err)
	if r.err != nil {
		if part.ErrorCode == wire.UnknownServerError {
			c.rc.table.refused.log(&c.rc, "fetch failed", r.err)
		}
		if errors.Is(r.err, storage.ErrOffsetRange) {
			part.HighWatermark, part.LastStableOffset, part.LogStartOffset = r.part.HighWatermark, r.part.LastStable, r.part.LogStart
		}
		if part.ErrorCode == wire.NotLeaderOrFollower || part.ErrorCode == wire.FencedLeaderEpoch {
			if id, epoch, ok := leaders.find(&c.rc, t.topic, t.id, t.index); ok {
				part.CurrentLeader = &wire.LeaderAndEpoch{LeaderID: id, LeaderEpoch: epoch}
			}
		}
		return part
	}
	part.HighWatermark, part.LastStableOffset, part.LogStartOffset = r.part.HighWatermark, r.part.LastStable, r.part.LogStart
	if d := r.part.Diverging; d != nil {
		part.DivergingEpoch = &wire.EpochEndOffset{Epoch: d.Epoch, EndOffset: d.EndOffset}
	}
	if c.req.ReadCommitted {
		part.AbortedTransactions = []wire.AbortedTransaction{}
		for _, a := range r.part.Aborted {
			part.AbortedTransactions = append(part.AbortedTransactions, wire.AbortedTransaction{ProducerID: a.ProducerID, FirstOffset: a.FirstOffset})
		}
	}
	part.Records = r.part.Plan.Bytes
	if r.part.Plan.Region.Len > 0 {
		part.Regions = append(region, r.part.Plan.Region)
	}
	return part
}
