package group

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// offsets are the committed offsets of a group, sorted: small, and the same order for everybody.
type offsets []topicOffsets

type topicOffsets struct {
	name  string
	parts []committed // sorted by partition
}

func (o offsets) topic(name []byte) (int, bool) {
	return slices.BinarySearchFunc(o, name, func(t topicOffsets, name []byte) int {
		switch {
		case t.name < string(name):
			return -1
		case t.name > string(name):
			return 1
		}
		return 0
	})
}

func (t *topicOffsets) partition(p int32) (int, bool) {
	return slices.BinarySearchFunc(t.parts, p, func(c committed, p int32) int { return cmp.Compare(c.partition, p) })
}

// of are the offsets of a topic, nil for none.
func (o offsets) of(name string) *topicOffsets {
	if i, ok := slices.BinarySearchFunc(o, name, func(t topicOffsets, name string) int { return cmp.Compare(t.name, name) }); ok {
		return &o[i]
	}
	return nil
}

func (t *topicOffsets) get(p int32) *committed {
	if t == nil {
		return nil
	}
	if i, ok := t.partition(p); ok {
		return &t.parts[i]
	}
	return nil
}

func (o *offsets) set(name, metadata []byte, c committed) {
	i, ok := o.topic(name)
	if !ok {
		*o = slices.Insert(*o, i, topicOffsets{name: string(name)})
	}
	t := &(*o)[i]
	at, ok := t.partition(c.partition)
	if !ok {
		t.parts = slices.Insert(t.parts, at, committed{})
	}
	if old := t.parts[at].metadata; old == string(metadata) {
		c.metadata = old
	} else {
		c.metadata = string(metadata)
	}
	t.parts[at] = c
}

func (o *offsets) remove(name []byte, p int32) {
	i, ok := o.topic(name)
	if !ok {
		return
	}
	t := &(*o)[i]
	if at, ok := t.partition(p); ok {
		t.parts = slices.Delete(t.parts, at, at+1)
	}
	if len(t.parts) == 0 {
		*o = slices.Delete(*o, i, i+1)
	}
}

// replayOffset sets or removes an offset. A group that has nothing else comes and goes with its offsets.
func (s *Shard) replayOffset(k recordKey, value []byte) error {
	g := s.groups[string(k.group)]
	if value == nil {
		if g != nil {
			g.offsets.remove(k.topic, k.partition)
			s.tidy(g)
		}
		return nil
	}
	c, metadata, err := parseOffset(value)
	if err != nil {
		return fmt.Errorf("group %q, topic %q, partition %d: %w", k.group, k.topic, k.partition, err)
	}
	if g == nil {
		g = s.groupOrNew(string(k.group))
	}
	c.partition = k.partition
	g.offsets.set(k.topic, metadata, c)
	return nil
}

// OffsetCommit is answered by a *kmsg.OffsetCommitResponse. In every version the caller has set both the
// name and, where it knows it, the id of each topic; topics that it refuses itself are not in req.
// The response holds both too.
func (s *Shard) OffsetCommit(now shard.Time, t shard.Ticket, req *kmsg.OffsetCommitRequest) shard.Effects {
	s.begin(now)
	code := s.mayCommit(req)
	parts, size := 0, 0
	for i := range req.Topics {
		topic := &req.Topics[i]
		parts += len(topic.Partitions)
		for j := range topic.Partitions {
			size += offsetRecordSize(req.Group, topic.Topic, metadataOf(&topic.Partitions[j]))
		}
	}
	expireMs := int64(-1)
	if ms := req.RetentionTimeMillis; req.Version >= 2 && req.Version <= 4 && ms != -1 {
		expireMs = max(now.WallMs, 0) + min(max(ms, 0), math.MaxInt64/2)
	}
	resp := kmsg.NewPtrOffsetCommitResponse()
	resp.Version = req.Version
	resp.Topics = make([]kmsg.OffsetCommitResponseTopic, len(req.Topics))
	answers := make([]kmsg.OffsetCommitResponseTopicPartition, parts)
	var buf []byte
	if code == wire.None {
		buf = make([]byte, 0, size)
		s.fx.Records = make([]shard.Record, 0, parts)
	}
	for i := range req.Topics {
		topic := &req.Topics[i]
		n := len(topic.Partitions)
		resp.Topics[i] = kmsg.OffsetCommitResponseTopic{Topic: topic.Topic, TopicID: topic.TopicID, Partitions: answers[:n:n]}
		answers = answers[n:]
		for j := range topic.Partitions {
			p := &topic.Partitions[j]
			metadata := metadataOf(p)
			answer := &resp.Topics[i].Partitions[j]
			answer.Partition, answer.ErrorCode = p.Partition, int16(code)
			switch {
			case code != wire.None:
				continue
			case s.tooLarge(metadata), expireMs >= 0 && len(metadata) > maxText:
				answer.ErrorCode = int16(wire.OffsetMetadataTooLarge)
				continue
			}
			start := len(buf)
			buf = appendOffsetKey(buf, req.Group, topic.Topic, p.Partition)
			value := len(buf)
			buf = appendOffsetValue(buf, &committed{offset: p.Offset, leaderEpoch: p.LeaderEpoch, commitMs: now.WallMs, expireMs: expireMs,
				topicID: topic.TopicID, metadata: metadata})
			s.write(shard.Record{Key: buf[start:value:value], Value: buf[value:len(buf):len(buf)]})
		}
	}
	s.reply(t, resp)
	return s.end()
}

func metadataOf(p *kmsg.OffsetCommitRequestTopicPartition) string {
	if p.Metadata == nil {
		return ""
	}
	return *p.Metadata
}

// tooLarge measures as Java does, in UTF-16.
func (s *Shard) tooLarge(metadata string) bool {
	if len(metadata) <= s.cfg.OffsetMetadataMaxBytes {
		return false
	}
	n := 0
	for _, r := range metadata {
		if n++; r > 0xffff {
			n++
		}
	}
	return n > s.cfg.OffsetMetadataMaxBytes
}

// mayCommit reports whether who commits is the group's member, or the group has none. A commit is also a sign of life.
func (s *Shard) mayCommit(req *kmsg.OffsetCommitRequest) wire.Code {
	if len(req.Group) > maxText {
		return wire.InvalidGroupID
	}
	g := s.groups[req.Group]
	switch {
	case g == nil && req.Generation < 0:
		return wire.None // offsets without members
	case g == nil && req.Version >= 9:
		return wire.GroupIDNotFound
	case g == nil:
		return wire.IllegalGeneration
	case g.isEmpty() && req.Generation < 0:
		return wire.None
	case g.consumer != nil:
		return g.consumer.mayCommit(req)
	case g.classic == nil, req.Generation < 0 && req.MemberID == "" && req.InstanceID == nil:
		return wire.UnknownMemberID
	}
	c := g.classic
	m, code := c.validate(req.MemberID, req.InstanceID)
	s.noteFenced(req.Group, req.MemberID, req.InstanceID, code)
	switch {
	case code != wire.None:
		return code
	case req.Generation != c.generation: // protection: generation of OffsetCommit
		return wire.IllegalGeneration
	case c.state == completingRebalance: // protection: no commit while partitions are given out
		return wire.RebalanceInProgress
	}
	s.touch(c, m)
	return wire.None
}

// mayCommit reports whether who commits is a member in its present epoch. One that has not heard of its last epoch yet may
// commit what it already had in the epoch that it knows: nobody else can have had it since. A member stays in its epoch while it gives
// back; so also in that one it does not commit what another has by now. Kafka looks at the epoch only, and lets a request that was
// late overwrite what the next holder has committed.
func (c *consumer) mayCommit(req *kmsg.OffsetCommitRequest) wire.Code {
	m := c.members.get(req.MemberID)
	if m == nil {
		return wire.UnknownMemberID
	}
	stale := wire.StaleMemberEpoch
	if m.classic != nil {
		stale = wire.IllegalGeneration
	}
	switch {
	case m.classic == nil && req.Version < commitHasEpoch:
		return wire.UnsupportedVersion
	case req.Generation > m.epoch: // protection: nobody commits in an epoch to come
		return stale
	}
	for i := range req.Topics {
		topic := &req.Topics[i]
		for j := range topic.Partitions {
			p := topic.Partitions[j].Partition
			epoch, ok := m.assigned.epochOf(topic.TopicID, p)
			if !ok {
				epoch, ok = m.revoking.epochOf(topic.TopicID, p)
			}
			if req.Generation == m.epoch {
				if !ok && c.holders.held(topic.TopicID, p) { // protection: no commit of what another has
					return stale
				}
				continue
			}
			if !ok || req.Generation < epoch { // protection: epochs of OffsetCommit
				return stale
			}
		}
	}
	return wire.None
}

// commitHasEpoch is the version of OffsetCommit from which on members of consumer groups may use it.
const commitHasEpoch = 9

// void reports whether an offset was committed for another topic of the same name.
func (c *committed) void(present wire.UUID) bool {
	return !c.topicID.IsZero() && !present.IsZero() && c.topicID != present // protection: offsets of a topic's namesake
}

// OffsetFetch is answered by a *kmsg.OffsetFetchResponseGroup. With listed topics the caller has set the
// name and, where it knows it, the present id of each: an offset that was committed for
// another id is answered as none. Without (Topics is nil) each topic of the answer has the id its offsets were
// committed for (zero: not recorded), a topic with offsets for several ids being several topics; the caller
// drops those that are void.
//
// requireStable will matter once transactions leave offsets pending; until then every offset is stable.
func (s *Shard) OffsetFetch(now shard.Time, t shard.Ticket, requireStable bool, req *kmsg.OffsetFetchRequestGroup) shard.Effects {
	s.begin(now)
	resp := kmsg.NewOffsetFetchResponseGroup()
	resp.Group = req.Group
	var all offsets
	if g := s.groups[req.Group]; g != nil {
		if code := g.mayFetch(req); code != wire.None {
			resp.ErrorCode = int16(code)
			s.reply(t, &resp)
			return s.end()
		}
		all = g.offsets
	}
	none := ""
	answer := func(p int32, c *committed) kmsg.OffsetFetchResponseGroupTopicPartition {
		a := kmsg.NewOffsetFetchResponseGroupTopicPartition()
		a.Partition, a.Offset, a.LeaderEpoch, a.Metadata = p, -1, -1, &none
		if c != nil {
			a.Offset, a.LeaderEpoch = c.offset, c.leaderEpoch
			if c.metadata != "" {
				metadata := c.metadata
				a.Metadata = &metadata
			}
		}
		return a
	}
	resp.Topics = make([]kmsg.OffsetFetchResponseGroupTopic, 0, len(req.Topics))
	for i := range req.Topics {
		topic := &req.Topics[i]
		known := all.of(topic.Topic)
		parts := make([]kmsg.OffsetFetchResponseGroupTopicPartition, len(topic.Partitions))
		for j, p := range topic.Partitions {
			c := known.get(p)
			if c != nil && c.void(topic.TopicID) {
				c = nil
			}
			parts[j] = answer(p, c)
		}
		resp.Topics = append(resp.Topics, kmsg.OffsetFetchResponseGroupTopic{Topic: topic.Topic, TopicID: topic.TopicID, Partitions: parts})
	}
	if req.Topics == nil {
		for i := range all {
			var ids []wire.UUID
			for j := range all[i].parts {
				c := &all[i].parts[j]
				at := slices.Index(ids, c.topicID)
				if at < 0 {
					at = len(ids)
					ids = append(ids, c.topicID)
					resp.Topics = append(resp.Topics, kmsg.OffsetFetchResponseGroupTopic{Topic: all[i].name, TopicID: c.topicID})
				}
				topic := &resp.Topics[len(resp.Topics)-len(ids)+at]
				topic.Partitions = append(topic.Partitions, answer(c.partition, c))
			}
		}
	}
	s.reply(t, &resp)
	return s.end()
}

// mayFetch reports whether a member of a consumer group that fetches offsets is one, in its present epoch: it would begin where
// another has gone on since.
func (g *group) mayFetch(req *kmsg.OffsetFetchRequestGroup) wire.Code {
	if g.consumer == nil || req.MemberID == nil && req.MemberEpoch < 0 {
		return wire.None
	}
	var m *consumerMember
	if req.MemberID != nil {
		m = g.consumer.members.get(*req.MemberID)
	}
	switch {
	case m == nil:
		return wire.UnknownMemberID
	case m.epoch == req.MemberEpoch: // protection: who fetches offsets is in its present epoch
		return wire.None
	case m.classic != nil:
		return wire.IllegalGeneration
	}
	return wire.StaleMemberEpoch
}

// OffsetDelete is answered by a *kmsg.OffsetDeleteResponse.
func (s *Shard) OffsetDelete(now shard.Time, t shard.Ticket, req *kmsg.OffsetDeleteRequest) shard.Effects {
	s.begin(now)
	resp := kmsg.NewPtrOffsetDeleteResponse()
	resp.Version = req.Version
	g := s.groups[req.Group]
	switch {
	case req.Group == "":
		resp.ErrorCode = int16(wire.InvalidGroupID)
	case g == nil:
		resp.ErrorCode = int16(wire.GroupIDNotFound)
	case !g.isEmpty() && g.consumer == nil && g.classic.protocolType != consumerType: // nobody knows what its members use
		resp.ErrorCode = int16(wire.NonEmptyGroup)
	default:
		resp.Topics = s.deleteOffsets(g, req.Topics)
	}
	s.reply(t, resp)
	return s.end()
}

func (s *Shard) deleteOffsets(g *group, topics []kmsg.OffsetDeleteRequestTopic) []kmsg.OffsetDeleteResponseTopic {
	answers := make([]kmsg.OffsetDeleteResponseTopic, len(topics))
	for i := range topics {
		topic := &topics[i]
		answers[i].Topic = topic.Topic
		answers[i].Partitions = make([]kmsg.OffsetDeleteResponseTopicPartition, len(topic.Partitions))
		inUse := g.subscribes(topic.Topic)
		known := g.offsets.of(topic.Topic)
		for j := range topic.Partitions {
			p := topic.Partitions[j].Partition
			answers[i].Partitions[j].Partition = p
			if inUse {
				answers[i].Partitions[j].ErrorCode = int16(wire.GroupSubscribedToTopic)
			} else if known.get(p) != nil {
				s.write(offsetTombstone(g.id, topic.Topic, p))
			}
		}
	}
	return answers
}

// subscribes reports whether live members use offsets of the topic.
func (g *group) subscribes(topic string) bool {
	if g.consumer != nil {
		return g.consumer.subscribes(topic)
	}
	return g.classic != nil && g.classic.subscribes(topic)
}
