package group

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kbin"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// The records of consumer groups (KIP-848), in Kafka's formats. All values are of version 0, which is flexible; the
// keys are not. What one key says stands alone, so that a fold does not depend on the order of records with different keys.
const (
	keyConsumer        = 3 // the group's epoch, and a hash of the topics that it is subscribed to
	keyConsumerTopics  = 4 // those topics; written before Kafka 4.1, in place of the hash
	keyConsumerMember  = 5 // what a member said of itself
	keyTargetEpoch     = 6 // when the target assignment was made, and for which epoch
	keyTarget          = 7 // the target assignment of a member
	keyCurrent         = 8 // how far a member has come
	keyConsumerPattern = 16

	consumerVersion = 0

	hashTag         = 0
	classicTag      = 0
	assignedAtTag   = 0
	targetMadeAtTag = 0
)

// groupEpoch is the value of a consumer group.
type groupEpoch struct {
	epoch int32
	hash  int64 // of the topics that its members are subscribed to, see Metadata
}

// targetEpoch is the value of a target assignment as a whole.
type targetEpoch struct {
	epoch  int32
	madeMs int64 // wall clock, 0: not known
}

// memberMeta is what a member said of itself.
type memberMeta struct {
	instanceID, rack     *string
	clientID, clientHost string
	topics               []string // subscribed to, sorted
	pattern              string   // regular expression, "" for none
	rebalanceTimeoutMs   int32
	assignor             *string
	classic              *classicPart // nil: it speaks the consumer protocol
}

// classicPart is what only a member that speaks the classic protocol has.
type classicPart struct {
	sessionTimeoutMs int32
	protocols        []protocol
}

// current is how far a member has come towards its target.
type current struct {
	epoch, previous    int32
	state              memberState
	assigned, revoking shares
}

// resolved is what a regular expression stands for.
type resolved struct {
	topics     []string // sorted
	version    int64    // of the metadata
	resolvedMs int64    // wall clock
}

func stringKey(kind int16, names ...string) []byte {
	size := 2
	for _, n := range names {
		size += 2 + len(n)
	}
	dst := kbin.AppendInt16(make([]byte, 0, size), kind)
	for _, n := range names {
		dst = kbin.AppendString(dst, n)
	}
	return dst
}

// consumerTombstone ends what a key says.
func consumerTombstone(kind int16, names ...string) shard.Record {
	return shard.Record{Key: stringKey(kind, names...)}
}

func begunValue(size int) []byte { return kbin.AppendInt16(make([]byte, 0, size), consumerVersion) }

func (e groupEpoch) record(group string) shard.Record {
	dst := kbin.AppendInt32(begunValue(24), e.epoch)
	return shard.Record{Key: stringKey(keyConsumer, group), Value: appendInt64Tag(dst, hashTag, e.hash)}
}

func (e targetEpoch) record(group string) shard.Record {
	dst := kbin.AppendInt32(begunValue(24), e.epoch)
	return shard.Record{Key: stringKey(keyTargetEpoch, group), Value: appendInt64Tag(dst, targetMadeAtTag, e.madeMs)}
}

// appendInt64Tag appends the tagged fields of a structure whose only one is a number, left out when zero.
func appendInt64Tag(dst []byte, tag byte, n int64) []byte {
	if n == 0 {
		return append(dst, 0)
	}
	return kbin.AppendInt64(append(dst, 1, tag, 8), n)
}

func (m *memberMeta) record(group, id string) shard.Record {
	size := 64 + len(m.clientID) + len(m.clientHost) + len(m.pattern)
	for _, t := range m.topics {
		size += 2 + len(t)
	}
	dst := begunValue(size)
	dst = kbin.AppendCompactNullableString(dst, m.instanceID)
	dst = kbin.AppendCompactNullableString(dst, m.rack)
	dst = kbin.AppendCompactString(dst, m.clientID)
	dst = kbin.AppendCompactString(dst, m.clientHost)
	dst = kbin.AppendCompactArrayLen(dst, len(m.topics))
	for _, t := range m.topics {
		dst = kbin.AppendCompactString(dst, t)
	}
	dst = kbin.AppendCompactString(dst, m.pattern) // Kafka writes "" for none, too
	dst = kbin.AppendInt32(dst, m.rebalanceTimeoutMs)
	dst = kbin.AppendCompactNullableString(dst, m.assignor)
	if m.classic == nil {
		dst = append(dst, 0)
	} else {
		dst = append(dst, 1, classicTag)
		body := m.classic.append(nil)
		dst = append(kbin.AppendUvarint(dst, uint32(len(body))), body...)
	}
	return shard.Record{Key: stringKey(keyConsumerMember, group, id), Value: dst}
}

func (c *classicPart) append(dst []byte) []byte {
	dst = append(dst, 1) // a nullable structure begins with whether it is there
	dst = kbin.AppendInt32(dst, c.sessionTimeoutMs)
	dst = kbin.AppendCompactArrayLen(dst, len(c.protocols))
	for i := range c.protocols {
		dst = kbin.AppendCompactString(dst, c.protocols[i].name)
		dst = kbin.AppendCompactBytes(dst, c.protocols[i].metadata)
		dst = append(dst, 0)
	}
	return append(dst, 0)
}

// targetRecord is the target assignment of one member.
func targetRecord(group, id string, target shares) shard.Record {
	dst := kbin.AppendCompactArrayLen(begunValue(16+target.encodedSize()), len(target))
	for i := range target {
		dst = target[i].appendPartitions(dst)
		dst = append(dst, 0)
	}
	return shard.Record{Key: stringKey(keyTarget, group, id), Value: append(dst, 0)}
}

func (c *current) record(group, id string) shard.Record {
	dst := begunValue(32 + c.assigned.encodedSize() + c.revoking.encodedSize())
	dst = kbin.AppendInt32(dst, c.epoch)
	dst = kbin.AppendInt32(dst, c.previous)
	dst = kbin.AppendInt8(dst, int8(c.state))
	dst = c.assigned.append(dst)
	dst = c.revoking.append(dst)
	return shard.Record{Key: stringKey(keyCurrent, group, id), Value: append(dst, 0)}
}

func (s shares) encodedSize() int {
	n := 0
	for i := range s {
		n += 32 + 8*len(s[i].parts)
	}
	return n
}

// append appends shares with the epochs at which each partition was assigned.
func (s shares) append(dst []byte) []byte {
	dst = kbin.AppendCompactArrayLen(dst, len(s))
	var body []byte
	for i := range s {
		dst = s[i].appendPartitions(dst)
		body = kbin.AppendCompactArrayLen(body[:0], len(s[i].epochs))
		for _, e := range s[i].epochs {
			body = kbin.AppendInt32(body, e)
		}
		dst = append(dst, 1, assignedAtTag)
		dst = append(kbin.AppendUvarint(dst, uint32(len(body))), body...)
	}
	return dst
}

func (s *share) appendPartitions(dst []byte) []byte {
	dst = append(dst, s.topic[:]...)
	dst = kbin.AppendCompactArrayLen(dst, len(s.parts))
	for _, p := range s.parts {
		dst = kbin.AppendInt32(dst, p)
	}
	return dst
}

func (r *resolved) record(group, pattern string) shard.Record {
	size := 32
	for _, t := range r.topics {
		size += 2 + len(t)
	}
	dst := kbin.AppendCompactArrayLen(begunValue(size), len(r.topics))
	for _, t := range r.topics {
		dst = kbin.AppendCompactString(dst, t)
	}
	dst = kbin.AppendInt64(dst, r.version)
	dst = kbin.AppendInt64(dst, r.resolvedMs)
	return shard.Record{Key: stringKey(keyConsumerPattern, group, pattern), Value: append(dst, 0)}
}

// valueReader begins a value of a consumer group.
func valueReader(value []byte, what string) (kbin.Reader, error) {
	r := kbin.Reader{Src: value}
	if version := r.Int16(); !r.Ok() || version != consumerVersion {
		return r, fmt.Errorf("%w: %s of version %d", errRecord, what, version)
	}
	return r, nil
}

func endOf(r *kbin.Reader, what string) error {
	if !r.Ok() {
		return fmt.Errorf("%w: %s ends early", errRecord, what)
	}
	return nil
}

// readInt64Tag reads the tagged fields of a structure whose only one is a number.
func readInt64Tag(r *kbin.Reader, wanted uint32) (n int64) {
	readTags(r, func(tag uint32, b []byte) {
		if tag == wanted && len(b) == 8 {
			v := kbin.Reader{Src: b}
			n = v.Int64()
		}
	})
	return n
}

func parseGroupEpoch(value []byte) (groupEpoch, error) {
	r, err := valueReader(value, "consumer group")
	if err != nil {
		return groupEpoch{}, err
	}
	e := groupEpoch{epoch: r.Int32()}
	e.hash = readInt64Tag(&r, hashTag)
	return e, endOf(&r, "consumer group")
}

func parseTargetEpoch(value []byte) (targetEpoch, error) {
	r, err := valueReader(value, "target assignment")
	if err != nil {
		return targetEpoch{}, err
	}
	e := targetEpoch{epoch: r.Int32()}
	e.madeMs = readInt64Tag(&r, targetMadeAtTag)
	return e, endOf(&r, "target assignment")
}

// readStrings reads a compact array of strings; it grows by what is really there.
func readStrings(r *kbin.Reader) []string {
	var out []string
	for n := int(r.Uvarint()) - 1; n > 0 && r.Ok(); n-- {
		if s := readView(r, true); r.Ok() {
			out = append(out, string(s))
		}
	}
	return out
}

// sortedSet sorts names in place and drops what is there twice.
func sortedSet(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

func parseMemberMeta(value []byte) (*memberMeta, error) {
	r, err := valueReader(value, "member")
	if err != nil {
		return nil, err
	}
	m := &memberMeta{}
	m.instanceID = readNullable(&r, true)
	m.rack = readNullable(&r, true)
	m.clientID = string(readView(&r, true))
	m.clientHost = string(readView(&r, true))
	m.topics = sortedSet(readStrings(&r))
	m.pattern = string(readView(&r, true))
	m.rebalanceTimeoutMs = r.Int32()
	m.assignor = readNullable(&r, true)
	good := true
	readTags(&r, func(tag uint32, b []byte) {
		if tag == classicTag {
			m.classic, good = parseClassicPart(b)
		}
	})
	if !good {
		return nil, fmt.Errorf("%w: the classic part of a member ends early", errRecord)
	}
	return m, endOf(&r, "member")
}

func parseClassicPart(b []byte) (*classicPart, bool) {
	r := kbin.Reader{Src: b}
	if r.Int8() < 0 { // null
		return nil, r.Ok()
	}
	c := &classicPart{sessionTimeoutMs: r.Int32()}
	ignore := func(uint32, []byte) {}
	for n := int(r.Uvarint()) - 1; n > 0 && r.Ok(); n-- {
		p := protocol{name: string(readView(&r, true))}
		if size := int(r.Uvarint()) - 1; size > 0 {
			p.metadata = slices.Clone(r.Span(size))
		}
		readTags(&r, ignore)
		if r.Ok() {
			c.protocols = append(c.protocols, p)
		}
	}
	readTags(&r, ignore)
	return c, r.Ok()
}

// readPartitions reads a topic's id and partitions.
func readPartitions(r *kbin.Reader) (s share) {
	if b := r.Span(len(s.topic)); len(b) == len(s.topic) {
		s.topic = wire.UUID(b)
	}
	s.parts = readInt32s(r)
	return s
}

func readInt32s(r *kbin.Reader) []int32 {
	var out []int32
	for n := int(r.Uvarint()) - 1; n > 0 && r.Ok(); n-- {
		if v := r.Int32(); r.Ok() {
			out = append(out, v)
		}
	}
	return out
}

func parseTarget(value []byte) (shares, error) {
	r, err := valueReader(value, "target assignment of a member")
	if err != nil {
		return nil, err
	}
	ignore := func(uint32, []byte) {}
	var out shares
	for n := int(r.Uvarint()) - 1; n > 0 && r.Ok(); n-- {
		s := readPartitions(&r)
		readTags(&r, ignore)
		if r.Ok() {
			out = append(out, s)
		}
	}
	readTags(&r, ignore)
	return out.normal(), endOf(&r, "target assignment of a member")
}

func parseCurrent(value []byte) (*current, error) {
	r, err := valueReader(value, "assignment of a member")
	if err != nil {
		return nil, err
	}
	c := &current{epoch: r.Int32(), previous: r.Int32()}
	c.state = memberState(r.Int8())
	c.assigned = readShares(&r, c.epoch)
	c.revoking = readShares(&r, c.epoch)
	readTags(&r, func(uint32, []byte) {})
	return c, endOf(&r, "assignment of a member")
}

// readShares reads shares with epochs. Kafka before 4.3 wrote none: then a partition counts as assigned in the
// member's epoch.
func readShares(r *kbin.Reader, epoch int32) shares {
	var out shares
	for n := int(r.Uvarint()) - 1; n > 0 && r.Ok(); n-- {
		s := readPartitions(r)
		readTags(r, func(tag uint32, b []byte) {
			if tag == assignedAtTag {
				v := kbin.Reader{Src: b}
				s.epochs = readInt32s(&v)
			}
		})
		if len(s.epochs) != len(s.parts) {
			s.epochs = slices.Repeat([]int32{max(epoch, 0)}, len(s.parts))
		}
		if r.Ok() {
			out = append(out, s)
		}
	}
	return out.normal()
}

func parseResolved(value []byte) (*resolved, error) {
	r, err := valueReader(value, "regular expression")
	if err != nil {
		return nil, err
	}
	p := &resolved{topics: sortedSet(readStrings(&r)), version: r.Int64(), resolvedMs: r.Int64()}
	readTags(&r, func(uint32, []byte) {})
	return p, endOf(&r, "regular expression")
}
