package handler

// Produce, key 0, versions 3 to 13 (0 is advertised, KAFKA-18659: old librdkafka turns
// features off if it is not; 0 to 2 close the connection).
//
// The batches are checked and appended in the connection's reader, in the order in which they came,
// and acknowledged in its writer: requests behind each other are on their way to the
// disk together. Those that came with one recv are appended together (Settle): one write for a partition. acks=0 is never answered; an error closes the connection after the
// earlier answers. Exactly one batch of format 2 a partition (else INVALID_RECORD); version 13 names
// topics by id (KIP-516); from version 10 on a partition that moved comes with its
// leader's address (KIP-951). A transactional request is refused with a fatal error
// until there are transactions.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"moldau/internal/network"
	"moldau/internal/partition"
	"moldau/internal/record"
	"moldau/internal/storage"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// produceCall is a request whose batches are appended.
type produceCall struct {
	rc       requestContext
	req      wire.ProduceRequest
	parts    []producedPart // in the order of the request
	deadline time.Time
	local    time.Time
	waiter   partition.AckWaiter
	resp     wire.ProduceResponse
	out      []byte
	pieces   [1]wire.Piece
}

// producedPart is what becomes of one partition of a request.
type producedPart struct {
	p      *partition.Partition
	staged partition.Staged
	err    error
}

func startProduce(t *Table, rc requestContext, body []byte) (network.Call, error) {
	c := t.pools.getProduce()
	if err := c.req.Decode(rc.header.Version, body); err != nil {
		return nil, err
	}
	c.rc = rc
	now := time.Now()
	defer c.rc.work(now)
	c.deadline = now.Add(c.req.Timeout)
	for i := range c.req.Topics {
		topic := &c.req.Topics[i]
		for j := range topic.Partitions {
			p, err := t.lookup(topic.Name, topic.ID, topic.Partitions[j].Index)
			if err != nil && c.rc.hides(topic.Name, topic.ID) {
				err = wire.TopicAuthorizationFailed
			}
			c.parts = append(c.parts, producedPart{p: p, err: err})
		}
	}
	refused := c.mayTransact()
	if refused == nil {
		t.prepare(c)
	}
	parts := c.parts
	for i := range c.req.Topics {
		for j := range c.req.Topics[i].Partitions {
			if refused != nil {
				parts[0].err = refused
			} else {
				parts[0].err = t.stage(&c.rc, &c.req, c.req.Topics[i].Partitions[j].Records, now, &parts[0])
			}
			parts = parts[1:]
		}
	}
	state := stateOf(rc.conn)
	state.burst = append(state.burst, c)
	return c, nil
}

// mayTransact says why the whole request is refused, or nil. What the batches are decides, not what the header says: a
// transactional batch needs a transactional id that the client may write, whoever leaves it out (CVE-2018-17196).
func (c *produceCall) mayTransact() error {
	if c.rc.table.access == nil || !c.transactional() {
		return nil
	}
	if id := c.req.TransactionalID; id == nil || !c.rc.allowedTo(access{transactionalIDResource, opWrite}, *id) {
		return wire.TransactionalIDAuthorizationFailed
	}
	return nil
}

// transactional reports whether any batch of the request is one of a transaction.
func (c *produceCall) transactional() bool {
	for i := range c.req.Topics {
		for j := range c.req.Topics[i].Partitions {
			if batch, _, err := record.Parse(c.req.Topics[i].Partitions[j].Records); err == nil && batch.Transactional() {
				return true
			}
		}
	}
	return false
}

// Settle implements network.Service: it appends what the requests of a burst have staged, each partition's batches together.
func (t *Table) Settle(c *network.Conn) {
	s, ok := c.State().(*connState)
	if !ok || len(s.burst) == 0 {
		return
	}
	began := time.Now()
	b := t.pools.getBurst()
	for _, call := range s.burst {
		for i := range call.parts {
			if part := &call.parts[i]; part.err == nil {
				b.parts = append(b.parts, part)
			}
		}
	}
	b.append()
	t.pools.putBurst(b)
	now := time.Now()
	share := now.Sub(began) / time.Duration(len(s.burst))
	for _, call := range s.burst {
		call.local = now
		call.rc.worked += share
		for i := range call.parts {
			if part := &call.parts[i]; part.err == nil {
				part.err = part.staged.Err
			}
			if call.parts[i].err != nil {
				s.walked = 0
			}
		}
	}
	clear(s.burst)
	s.burst = s.burst[:0]
}

// burst is what is appended together.
type burst struct {
	parts []*producedPart // in the order in which they came; nil: appended
	group []*partition.Staged
}

// maxSearched bounds the parts among which those of the same partition are looked for: one request may have thousands.
const maxSearched = 64

// append appends partition by partition.
func (b *burst) append() {
	for i, first := range b.parts {
		if first == nil {
			continue
		}
		b.group = append(b.group[:0], &first.staged)
		rest := b.parts[i+1:]
		for j, part := range rest[:min(len(rest), maxSearched)] {
			if part != nil && part.p == first.p {
				b.group = append(b.group, &part.staged)
				rest[j] = nil
			}
		}
		first.p.AppendAll(b.group)
	}
}

// prepare has the partitions that get their first record made ready together.
func (t *Table) prepare(c *produceCall) {
	if c.req.Acks < -1 || c.req.Acks > 1 || c.req.TransactionalID != nil {
		return
	}
	var fresh []*partition.Partition
	for i := range c.parts {
		if p := c.parts[i].p; c.parts[i].err == nil && p.Fresh() && t.mayProduce(&c.rc, p) == nil {
			fresh = append(fresh, p)
		}
	}
	if len(fresh) > 1 {
		partition.MakeReady(fresh)
	}
}

// mayProduce says why the client may not write a partition, or nil.
func (t *Table) mayProduce(rc *requestContext, p *partition.Partition) error {
	name := p.TopicPartition().Topic
	if !rc.allowed(name) {
		return wire.TopicAuthorizationFailed
	}
	if isInternal(name) && rc.header.ClientID != adminClientID {
		return fmt.Errorf("%s is written by the broker only: %w", name, wire.InvalidTopicException)
	}
	return nil
}

// stage checks one batch, which Settle appends. part has the partition, or why there is none.
func (t *Table) stage(rc *requestContext, req *wire.ProduceRequest, records []byte, now time.Time, part *producedPart) error {
	if part.err == wire.TopicAuthorizationFailed || part.p != nil && !rc.allowed(part.p.TopicPartition().Topic) {
		return wire.TopicAuthorizationFailed
	}
	if req.Acks < -1 || req.Acks > 1 {
		return fmt.Errorf("acks is %d, allowed are -1, 0 and 1: %w", req.Acks, wire.InvalidRequiredAcks)
	}
	if req.TransactionalID != nil {
		return partition.ErrTransactional
	}
	if part.err != nil {
		return part.err
	}
	p := part.p
	if err := t.mayProduce(rc, p); err != nil {
		return err
	}
	batch, err := oneBatch(records)
	if err != nil {
		return err
	}
	o := partition.AppendOptions{Acks: req.Acks, AllowZstd: req.Version >= 7, NowMs: now.UnixMilli()}
	if t.resolved(t.o.Cluster.Image()).trusts {
		o.HeaderOnly = stateOf(rc.conn).trusts() && !isInternal(p.TopicPartition().Topic)
	}
	return p.Prepare(&part.staged, batch, o)
}

// adminClientID is the client id with which Kafka lets internal topics be written.
const adminClientID = "__admin_client"

// magicByte is where a batch of any format says which it is.
const magicByte = 16

// oneBatch returns the one batch that a partition's records must be.
func oneBatch(records []byte) (record.Batch, error) {
	if len(records) == 0 {
		return nil, fmt.Errorf("there is no batch: %w", partition.ErrInvalid)
	}
	batch, rest, err := record.Parse(records)
	switch {
	case errors.Is(err, record.ErrShort):
		return nil, fmt.Errorf("%w: %w", partition.ErrInvalid, err)
	case errors.Is(err, record.ErrMagic) && records[magicByte] > 2:
		return nil, fmt.Errorf("%w: %w", wire.CorruptMessage, err) // 0 and 1 are old formats, anything else is damage
	case err != nil:
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("there is more than one batch: %w", partition.ErrInvalid)
	}
	return batch, nil
}

func (c *produceCall) Ready() bool {
	for i := range c.parts {
		if p := &c.parts[i]; p.err == nil && !p.p.AckReady(p.staged.At) {
			return false
		}
	}
	return true
}

// Describe names the partitions of the request.
func (c *produceCall) Describe() []slog.Attr {
	return c.rc.describe(describePartitions(len(c.parts), func() string {
		if p := c.parts[0].p; p != nil {
			return p.Name()
		}
		topic := &c.req.Topics[0]
		return c.rc.partitionName(topic.Name, topic.ID, topic.Partitions[0].Index)
	}), slog.Int("acks", int(c.req.Acks)))
}

// Release gives the call to the request that comes next.
func (c *produceCall) Release() {
	t := c.rc.table
	c.req.Forget()
	clear(c.parts)
	c.parts, c.rc, c.pieces[0] = c.parts[:0], requestContext{}, wire.Piece{}
	t.pools.putProduce(c, t.o.PoisonBuffers)
}

// Wait waits until every batch may be acknowledged.
func (c *produceCall) Wait(ctx context.Context) network.Reply {
	failed := false
	for i := range c.parts {
		p := &c.parts[i]
		if p.err == nil {
			p.err = p.p.WaitAck(ctx, &c.waiter, p.staged.At, c.deadline)
		}
		if p.err != nil {
			failed = true
			if errors.Is(p.err, storage.ErrNoSpace) && !vfs.IsNoSpace(p.err) {
				continue // the log dir has told that it leaves the last bytes to others, once
			}
			c.rc.table.refused.log(&c.rc, "produce was refused", p.err)
		}
	}
	throttleMs := c.throttleMs()
	if c.req.Acks == 0 {
		return network.Reply{None: true, CloseAfter: failed, LocalDone: c.local, Throttle: milliseconds(throttleMs)}
	}
	ready := time.Now()
	resp := c.response()
	resp.ThrottleMs = int32(throttleMs)
	c.out = wire.AppendProduce(c.out[:0], c.rc.header.CorrelationID, c.rc.header.Version, resp)
	c.pieces[0].Bytes = c.out
	return network.Reply{
		Pieces:    c.pieces[:],
		LocalDone: c.local, Ready: ready, Throttle: milliseconds(throttleMs),
	}
}

// throttleMs charges the request, and says how long its client has to wait. As in Kafka, the work for one that is not answered is on nobody's account;
// its bytes are.
func (c *produceCall) throttleMs() int64 {
	if !c.rc.metered {
		return 0
	}
	ms := c.rc.takeProduced(c.rc.size)
	if c.req.Acks != 0 {
		ms = max(ms, c.rc.chargeWork())
	}
	return ms
}

func (c *produceCall) response() *wire.ProduceResponse {
	resp := &c.resp
	resp.Topics = resized(resp.Topics, len(c.req.Topics))
	var leaders leaderHints
	next := 0
	for i := range c.req.Topics {
		topic := &c.req.Topics[i]
		rt := &resp.Topics[i]
		rt.Name, rt.ID = topic.Name, topic.ID
		rt.Partitions = resized(rt.Partitions, len(topic.Partitions))
		for j := range topic.Partitions {
			rp := &rt.Partitions[j]
			*rp = c.parts[next].result()
			rp.Partition = topic.Partitions[j].Index
			if rp.ErrorCode == wire.NotLeaderOrFollower {
				if id, epoch, ok := leaders.find(&c.rc, topic.Name, topic.ID, rp.Partition); ok {
					rp.CurrentLeader = &wire.LeaderAndEpoch{LeaderID: id, LeaderEpoch: epoch}
				}
			}
			next++
		}
	}
	resp.Brokers = leaders.brokers
	return resp
}

// result is the outcome as a response has it.
func (p *producedPart) result() wire.ProducedPartition {
	if p.err == nil {
		at := &p.staged.At
		return wire.ProducedPartition{BaseOffset: at.BaseOffset, LogAppendTimeMs: at.LogAppendTimeMs, LogStartOffset: at.LogStart}
	}
	text := p.err.Error()
	rp := wire.ProducedPartition{ErrorCode: codeOf(p.err), BaseOffset: -1, LogAppendTimeMs: -1, LogStartOffset: -1, ErrorMessage: &text}
	var invalid *record.InvalidError
	if errors.As(p.err, &invalid) {
		rp.ErrorMessage = &invalid.Message
		for _, r := range invalid.Records {
			rp.ErrorRecords = append(rp.ErrorRecords, wire.ProducedError{Index: r.Index, Message: r.Message})
		}
	}
	return rp
}
