package handler

// Fetch, key 1, versions 4 to 18 (KIP-74, KIP-227 sessions, KIP-320 leader epochs,
// KIP-516 topic ids from version 13, KIP-951 leader hints from version 16).
//
// Answered at once when there are enough bytes, when any partition has an error, when
// there is nothing to read or no time to wait; else the request parks on its
// partitions. The first batch of the first partition that has one is returned whole,
// whatever the limits. Records leave as ranges of segment files. A consumer reads below
// the high watermark, or below the last stable offset under read_committed; an offset
// between that and the log end is no error. AbortedTransactions is null, not empty, under
// read_uncommitted. There are no other replicas yet, so a fetch that says it is one is
// answered with NOT_LEADER_OR_FOLLOWER.

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/network"
	"moldau/internal/partition"
	"moldau/internal/storage"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// fetchTarget is one partition that a fetch reads: what the client asked for, and
// for a session what it was told last.
type fetchTarget struct {
	topic string
	id    wire.UUID
	index int32

	offset       int64
	maxBytes     int32
	currentEpoch int32
	fetchedEpoch int32

	highWatermark int64 // last told, -1: nothing yet
	logStart      int64
}

// maxCopied bounds the records of one response that are read when they are planned and wait in memory for the client.
const maxCopied = 256 << 10

// fetchCall is one fetch.
type fetchCall struct {
	rc       *requestContext
	req      *kmsg.FetchRequest
	maxBytes int
	minBytes int64
	deadline time.Time
	session  *fetchSession // nil: none, or not yet made
	targets  []*fetchTarget
	results  []fetchResult
	failure  wire.Code // of the whole request
	plans    []storage.Plan
	local    time.Time
	looked   bool // the targets were read once
	enough   bool // and that was enough to answer
}

// fetchResult is what was read for one target.
type fetchResult struct {
	part partition.ReadResult
	err  error
}

func startFetch(t *Table, rc *requestContext, body []byte) (network.Call, error) {
	decoded, err := t.decoder.DecodeRequest(rc.header.Key, rc.header.Version, body)
	if err != nil {
		return nil, err
	}
	req := decoded.(*kmsg.FetchRequest)
	c := &fetchCall{rc: rc, req: req}
	im := t.o.Cluster.Image()
	limit := int32(t.config(im).Int("fetch.max.bytes"))
	c.maxBytes = int(max(0, min(req.MaxBytes, limit)))
	c.minBytes = int64(min(req.MinBytes, int32(c.maxBytes)))
	c.deadline = rc.arrived.Add(time.Duration(max(0, req.MaxWaitMillis)) * time.Millisecond)
	c.session, c.targets, c.failure = t.sessions.begin(req, rc.header.Version)
	return c, nil
}

// Ready reads, and reports whether that is enough for an answer.
func (c *fetchCall) Ready() bool {
	if !c.looked {
		c.looked = true
		c.enough = c.failure != wire.None || c.read() || !time.Now().Before(c.deadline)
		c.local = time.Now()
	}
	return c.enough
}

// Release lets go of the segments that the reply refers to.
func (c *fetchCall) Release() { c.unpin() }

func (c *fetchCall) unpin() {
	for i := range c.plans {
		c.plans[i].Release()
	}
	c.plans = c.plans[:0]
}

// Wait parks until there is something to answer.
func (c *fetchCall) Wait(ctx context.Context) network.Reply {
	if c.failure != wire.None {
		return c.reply(&wire.FetchResponse{ErrorCode: c.failure})
	}
	if !c.Ready() {
		c.park(ctx)
	}
	return c.reply(c.response())
}

// park waits for more until the deadline.
func (c *fetchCall) park(ctx context.Context) {
	w := partition.NewWatcher()
	defer w.Stop()
	for _, t := range c.targets {
		if p, err := c.rc.table.o.Partitions.Lookup(t.topic, t.id, t.index); err == nil {
			p.Watch(w)
		}
	}
	timer := time.NewTimer(time.Until(c.deadline))
	defer timer.Stop()
	for !c.read() { // first of all what came before the watch
		select {
		case <-w.Wake:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// read reads every target and reports whether the fetch may be answered.
func (c *fetchCall) read() (done bool) {
	c.unpin()
	if cap(c.results) < len(c.targets) {
		c.results = make([]fetchResult, len(c.targets))
	}
	c.results = c.results[:len(c.targets)]
	left, total, copyLeft := c.maxBytes, int64(0), maxCopied
	failed := false
	for i, t := range c.targets {
		r := &c.results[i]
		*r = c.readOne(t, left, total == 0, copyLeft)
		if r.err != nil || r.part.Diverging != nil {
			failed = true
			continue
		}
		if n := r.part.Plan.Len(); n > 0 {
			c.plans = append(c.plans, r.part.Plan)
			copyLeft -= len(r.part.Plan.Bytes)
			total += n
			left = max(0, left-int(n))
		}
	}
	return failed || total >= c.minBytes || len(c.targets) == 0
}

func (c *fetchCall) readOne(t *fetchTarget, left int, minOne bool, copyBytes int) fetchResult {
	if c.req.ReplicaID >= 0 || c.req.ReplicaState.ID >= 0 {
		return fetchResult{err: wire.NotLeaderOrFollower}
	}
	p, err := c.rc.table.o.Partitions.Lookup(t.topic, t.id, t.index)
	if err != nil {
		return fetchResult{err: err}
	}
	if !c.rc.allowed(p.TopicPartition().Topic) {
		return fetchResult{err: wire.TopicAuthorizationFailed}
	}
	part, err := p.Read(partition.ReadOptions{
		Offset: t.offset, CurrentEpoch: t.currentEpoch, FetchedEpoch: t.fetchedEpoch,
		ReadCommitted: c.req.IsolationLevel == 1,
		MaxBytes:      int(min(max(t.maxBytes, 0), int32(left))), MinOne: minOne, CopyBytes: copyBytes,
	})
	return fetchResult{part, err}
}

// response is the answer for what was read, reduced to what changed if there is a session.
func (c *fetchCall) response() *wire.FetchResponse {
	resp := &wire.FetchResponse{}
	parts := make([]wire.FetchPartition, len(c.targets))
	var leaders leaderHints
	for i, t := range c.targets {
		parts[i] = c.partition(t, &c.results[i], &leaders)
	}
	send := c.rc.table.sessions.finish(c, resp, parts)
	resp.Brokers = leaders.brokers
	for i, t := range c.targets {
		if !send(i) {
			continue
		}
		n := len(resp.Topics)
		if n == 0 || resp.Topics[n-1].Name != t.topic || resp.Topics[n-1].ID != t.id {
			resp.Topics = append(resp.Topics, wire.FetchTopic{Name: t.topic, ID: t.id})
			n++
		}
		resp.Topics[n-1].Partitions = append(resp.Topics[n-1].Partitions, parts[i])
	}
	return resp
}

func (c *fetchCall) partition(t *fetchTarget, r *fetchResult, leaders *leaderHints) wire.FetchPartition {
	part := wire.NewFetchPartition(t.index)
	part.ErrorCode = codeOf(r.err)
	if r.err != nil {
		if part.ErrorCode == wire.UnknownServerError {
			c.rc.table.refused.log(c.rc, "fetch failed", r.err)
		}
		if errors.Is(r.err, storage.ErrOffsetRange) {
			part.HighWatermark, part.LastStableOffset, part.LogStartOffset = r.part.HighWatermark, r.part.LastStable, r.part.LogStart
		}
		if part.ErrorCode == wire.NotLeaderOrFollower || part.ErrorCode == wire.FencedLeaderEpoch {
			if id, epoch, ok := leaders.find(c.rc, t.topic, t.id, t.index); ok {
				part.CurrentLeader = &wire.LeaderAndEpoch{LeaderID: id, LeaderEpoch: epoch}
			}
		}
		return part
	}
	part.HighWatermark, part.LastStableOffset, part.LogStartOffset = r.part.HighWatermark, r.part.LastStable, r.part.LogStart
	if d := r.part.Diverging; d != nil {
		part.DivergingEpoch = &wire.EpochEndOffset{Epoch: d.Epoch, EndOffset: d.EndOffset}
	}
	if c.req.IsolationLevel == 1 {
		part.AbortedTransactions = []wire.AbortedTransaction{}
		for _, a := range r.part.Aborted {
			part.AbortedTransactions = append(part.AbortedTransactions, wire.AbortedTransaction{ProducerID: a.ProducerID, FirstOffset: a.FirstOffset})
		}
	}
	part.Records = r.part.Plan.Bytes
	if r.part.Plan.Region.Len > 0 {
		part.Regions = []vfs.Region{r.part.Plan.Region}
	}
	return part
}

func (c *fetchCall) reply(resp *wire.FetchResponse) network.Reply {
	return network.Reply{
		Pieces:    wire.EncodeFetch(c.rc.header.CorrelationID, c.rc.header.Version, resp),
		Throttle:  c.rc.throttle(),
		LocalDone: c.local, Ready: time.Now(),
	}
}
