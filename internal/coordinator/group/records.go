package group

import (
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kbin"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// The records of __consumer_offsets in Kafka's formats. Every key and value begins with an int16; of a key it tells the
// type. kmsg knows these messages too, but allocates arrays by a claimed length, and a string for every field.
const (
	keyOffsetV0 = 0
	keyOffset   = 1
	keyGroup    = 2 // classic groups; above: consumer (see consumerrecords.go), share and streams groups

	// What Kafka 4.3 writes.
	offsetVersion        = 4
	offsetExpiresVersion = 1 // the only one that has an expire timestamp
	groupVersion         = 3

	offsetVersionMax = 4
	groupVersionMax  = 4

	topicIDTag = 0
)

// errRecord is wrapped by every error about a record that cannot be read.
var errRecord = errors.New("record of __consumer_offsets cannot be read")

// committed is one committed offset.
type committed struct {
	partition   int32
	leaderEpoch int32
	offset      int64
	commitMs    int64
	expireMs    int64 // -1: by the retention of groups
	topicID     wire.UUID
	metadata    string
}

// groupRecord is the value of a classic group's record.
type groupRecord struct {
	protocolType string
	protocol     string // "": null
	leader       string // "": null
	generation   int32
	stateSinceMs int64 // -1: not known
	members      []memberRecord
}

type memberRecord struct {
	id, clientID, clientHost             string
	instanceID                           *string
	rebalanceTimeoutMs, sessionTimeoutMs int32
	subscription, assignment             []byte
}

func appendOffsetKey(dst []byte, group, topic string, partition int32) []byte {
	dst = kbin.AppendInt16(dst, keyOffset)
	dst = kbin.AppendString(dst, group)
	dst = kbin.AppendString(dst, topic)
	return kbin.AppendInt32(dst, partition)
}

// offsetRecordSize bounds the bytes of an offset's key and value.
func offsetRecordSize(group, topic, metadata string) int {
	return 80 + len(group) + len(topic) + len(metadata)
}

func appendOffsetValue(dst []byte, c *committed) []byte {
	if c.expireMs >= 0 {
		dst = kbin.AppendInt16(dst, offsetExpiresVersion)
		dst = kbin.AppendInt64(dst, c.offset)
		dst = kbin.AppendString(dst, c.metadata)
		dst = kbin.AppendInt64(dst, c.commitMs)
		return kbin.AppendInt64(dst, c.expireMs)
	}
	dst = kbin.AppendInt16(dst, offsetVersion)
	dst = kbin.AppendInt64(dst, c.offset)
	dst = kbin.AppendInt32(dst, c.leaderEpoch)
	dst = kbin.AppendCompactString(dst, c.metadata)
	dst = kbin.AppendInt64(dst, c.commitMs)
	if c.topicID.IsZero() {
		return append(dst, 0)
	}
	dst = append(dst, 1, topicIDTag, byte(len(c.topicID)))
	return append(dst, c.topicID[:]...)
}

func offsetTombstone(group, topic string, partition int32) shard.Record {
	return shard.Record{Key: appendOffsetKey(make([]byte, 0, 10+len(group)+len(topic)), group, topic, partition)}
}

func groupKey(group string) []byte {
	return kbin.AppendString(kbin.AppendInt16(make([]byte, 0, 4+len(group)), keyGroup), group)
}

func appendNullable(dst []byte, s string) []byte {
	if s == "" {
		return kbin.AppendNullableString(dst, nil)
	}
	return kbin.AppendString(dst, s)
}

func (r *groupRecord) encode() []byte {
	size := 64 + len(r.protocolType) + len(r.protocol) + len(r.leader)
	for i := range r.members {
		m := &r.members[i]
		size += 32 + len(m.id) + len(m.clientID) + len(m.clientHost) + len(m.subscription) + len(m.assignment)
		if m.instanceID != nil {
			size += len(*m.instanceID)
		}
	}
	dst := kbin.AppendInt16(make([]byte, 0, size), groupVersion)
	dst = kbin.AppendString(dst, r.protocolType)
	dst = kbin.AppendInt32(dst, r.generation)
	dst = appendNullable(dst, r.protocol)
	dst = appendNullable(dst, r.leader)
	dst = kbin.AppendInt64(dst, r.stateSinceMs)
	dst = kbin.AppendArrayLen(dst, len(r.members))
	for i := range r.members {
		m := &r.members[i]
		dst = kbin.AppendString(dst, m.id)
		dst = kbin.AppendNullableString(dst, m.instanceID)
		dst = kbin.AppendString(dst, m.clientID)
		dst = kbin.AppendString(dst, m.clientHost)
		dst = kbin.AppendInt32(dst, m.rebalanceTimeoutMs)
		dst = kbin.AppendInt32(dst, m.sessionTimeoutMs)
		dst = kbin.AppendBytes(dst, m.subscription)
		dst = kbin.AppendBytes(dst, m.assignment)
	}
	return dst
}

// recordKey is a parsed key. The names are views of the key's bytes.
type recordKey struct {
	kind         int16
	group, topic []byte
	second       []byte // a member's id, or a pattern
	partition    int32
}

// parseKey reads a key. Of unknown types it tells the type only.
func parseKey(key []byte) (recordKey, error) {
	r := kbin.Reader{Src: key}
	k := recordKey{kind: r.Int16()}
	switch k.kind {
	case keyOffsetV0, keyOffset:
		k.group = readView(&r, false)
		k.topic = readView(&r, false)
		k.partition = r.Int32()
	case keyGroup, keyConsumer, keyConsumerTopics, keyTargetEpoch:
		k.group = readView(&r, false)
	case keyConsumerMember, keyTarget, keyCurrent, keyConsumerPattern:
		k.group = readView(&r, false)
		k.second = readView(&r, false)
	}
	if !r.Ok() {
		return recordKey{}, fmt.Errorf("%w: key % x ends early", errRecord, key[:min(len(key), 64)])
	}
	return k, nil
}

// readView reads a string, null counting as empty, without copying it.
func readView(r *kbin.Reader, compact bool) []byte {
	n := 0
	if compact {
		n = int(r.Uvarint()) - 1
	} else {
		n = int(r.Int16())
	}
	if n <= 0 {
		return nil
	}
	return r.Span(n)
}

// parseOffset reads the value of a committed offset. The metadata is a view of value's bytes.
func parseOffset(value []byte) (c committed, metadata []byte, err error) {
	r := kbin.Reader{Src: value}
	version := r.Int16()
	if version < 0 || version > offsetVersionMax {
		return c, nil, fmt.Errorf("%w: offset value of version %d", errRecord, version)
	}
	flexible := version >= 4
	c.offset = r.Int64()
	c.leaderEpoch, c.expireMs = -1, -1
	if version >= 3 {
		c.leaderEpoch = r.Int32()
	}
	metadata = readView(&r, flexible)
	c.commitMs = r.Int64()
	if version == 1 {
		c.expireMs = max(r.Int64(), -1)
	}
	if flexible {
		readTags(&r, func(tag uint32, b []byte) {
			if tag == topicIDTag && len(b) == len(c.topicID) {
				c.topicID = wire.UUID(b)
			}
		})
	}
	if !r.Ok() {
		return c, nil, fmt.Errorf("%w: offset value of version %d ends early", errRecord, version)
	}
	return c, metadata, nil
}

// readTags reads tagged fields; each takes at least two bytes, so the loop ends with the bytes.
func readTags(r *kbin.Reader, field func(tag uint32, b []byte)) {
	for n := r.Uvarint(); n > 0 && r.Ok(); n-- {
		tag, size := r.Uvarint(), r.Uvarint()
		if b := r.Span(int(size)); r.Ok() {
			field(tag, b)
		}
	}
}

// parseGroup reads the value of a classic group. It keeps nothing of value.
func parseGroup(value []byte) (groupRecord, error) {
	r := kbin.Reader{Src: value}
	version := r.Int16()
	if version < 0 || version > groupVersionMax {
		return groupRecord{}, fmt.Errorf("%w: group value of version %d", errRecord, version)
	}
	flexible := version >= 4
	text := func() string { return string(readView(&r, flexible)) }
	bytes := func() []byte {
		n := 0
		if flexible {
			n = int(r.Uvarint()) - 1
		} else {
			n = int(r.Int32())
		}
		if n <= 0 {
			return nil
		}
		return slices.Clone(r.Span(n))
	}
	ignore := func(uint32, []byte) {}

	g := groupRecord{stateSinceMs: -1}
	g.protocolType = text()
	g.generation = r.Int32()
	g.protocol = text()
	g.leader = text()
	if version >= 2 {
		g.stateSinceMs = r.Int64()
	}
	count := 0
	if flexible {
		count = int(r.Uvarint()) - 1
	} else {
		count = int(r.Int32())
	}
	for ; count > 0 && r.Ok(); count-- { // append grows by what is really there
		var m memberRecord
		m.id = text()
		if version >= 3 {
			m.instanceID = readNullable(&r, flexible)
		}
		m.clientID = text()
		m.clientHost = text()
		m.rebalanceTimeoutMs = -1
		if version >= 1 {
			m.rebalanceTimeoutMs = r.Int32()
		}
		m.sessionTimeoutMs = r.Int32()
		if m.rebalanceTimeoutMs == -1 {
			m.rebalanceTimeoutMs = m.sessionTimeoutMs
		}
		m.subscription = bytes()
		m.assignment = bytes()
		if flexible {
			readTags(&r, ignore)
		}
		g.members = append(g.members, m)
	}
	if flexible {
		readTags(&r, ignore)
	}
	if !r.Ok() {
		return groupRecord{}, fmt.Errorf("%w: group value of version %d ends early", errRecord, version)
	}
	return g, nil
}

func readNullable(r *kbin.Reader, compact bool) *string {
	n := 0
	if compact {
		n = int(r.Uvarint()) - 1
	} else {
		n = int(r.Int16())
	}
	if n < 0 {
		return nil
	}
	s := string(r.Span(n))
	return &s
}

// subscribedTopics reads the topics of a consumer's subscription, in the layout of version 0, with which all
// versions begin.
func subscribedTopics(subscription []byte, visit func(topic string)) bool {
	r := kbin.Reader{Src: subscription}
	if version := r.Int16(); version < 0 {
		return false
	}
	for n := r.Int32(); n > 0 && r.Ok(); n-- {
		if topic := readView(&r, false); r.Ok() {
			visit(string(topic))
		}
	}
	return r.Ok()
}
