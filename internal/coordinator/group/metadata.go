package group

import (
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf16"

	"moldau/internal/wire"
)

// Metadata is what consumer groups know of the cluster: its topics, and what is set for single groups. It never changes; a
// shard is told of a new one. The zero value is a cluster without topics.
type Metadata struct {
	Version   int64 // of the cluster's metadata
	NewTopics int64 // version that had the last topics created
	Settings  GroupSettings
	PerGroup  map[string]GroupSettings // of groups that have some of their own; complete

	byName, byID []*TopicMetadata
}

// GroupSettings can be set at run time, for single groups too.
type GroupSettings struct {
	SessionTimeoutMs     int64 // consumer.session.timeout.ms
	HeartbeatIntervalMs  int32 // consumer.heartbeat.interval.ms
	AssignmentIntervalMs int64 // consumer.assignment.interval.ms
}

// TopicMetadata is one topic. It never changes.
type TopicMetadata struct {
	Name  string
	ID    wire.UUID
	Racks [][]string // of the replicas of each partition; those without a rack are left out

	hash int64
}

// NewTopicMetadata completes a topic; racks are sorted in place.
func NewTopicMetadata(name string, id wire.UUID, racks [][]string) *TopicMetadata {
	t := &TopicMetadata{Name: name, ID: id, Racks: racks}
	for _, r := range racks {
		slices.Sort(r)
	}
	t.hash = topicHash(t)
	return t
}

// Equal compares what groups depend on.
func (t *TopicMetadata) Equal(o *TopicMetadata) bool {
	return t.Name == o.Name && t.ID == o.ID && slices.EqualFunc(t.Racks, o.Racks, slices.Equal[[]string])
}

func (t *TopicMetadata) partitions() int32 { return int32(len(t.Racks)) }

// WithTopics is m with other topics, which are sorted by name.
func (m Metadata) WithTopics(topics []*TopicMetadata) *Metadata {
	m.byName = topics
	m.byID = slices.Clone(topics)
	slices.SortFunc(m.byID, func(a, b *TopicMetadata) int { return compareIDs(a.ID, b.ID) })
	return &m
}

// Topics are all topics by name, not to be changed.
func (m *Metadata) Topics() []*TopicMetadata { return m.byName }

func (m *Metadata) topic(name string) *TopicMetadata {
	i, ok := slices.BinarySearchFunc(m.byName, name, func(t *TopicMetadata, name string) int { return strings.Compare(t.Name, name) })
	if !ok {
		return nil
	}
	return m.byName[i]
}

func (m *Metadata) topicByID(id wire.UUID) *TopicMetadata {
	i, ok := slices.BinarySearchFunc(m.byID, id, func(t *TopicMetadata, id wire.UUID) int { return compareIDs(t.ID, id) })
	if !ok {
		return nil
	}
	return m.byID[i]
}

// settings are those of a group.
func (m *Metadata) settings(group string) GroupSettings {
	if s, ok := m.PerGroup[group]; ok {
		return s
	}
	return m.Settings
}

// hash is Kafka's hash of the topics of those names (sorted) that exist. When it changes a group needs a new assignment.
func (m *Metadata) hash(names []string) int64 {
	var b []byte
	for _, name := range names {
		if t := m.topic(name); t != nil {
			b = binary.LittleEndian.AppendUint64(b, uint64(t.hash))
		}
	}
	if b == nil {
		return 0
	}
	return int64(xxh3(b))
}

// topicHash is Kafka's hash of a topic: of what is put into bytes as its hash library does it. It is in records, so it must
// not become another.
func topicHash(t *TopicMetadata) int64 {
	b := []byte{0} // a magic byte
	b = binary.LittleEndian.AppendUint64(b, binary.BigEndian.Uint64(t.ID[:8]))
	b = binary.LittleEndian.AppendUint64(b, binary.BigEndian.Uint64(t.ID[8:]))
	b = appendJavaString(b, t.Name)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t.Racks)))
	for i, racks := range t.Racks {
		b = binary.LittleEndian.AppendUint32(b, uint32(i))
		for _, r := range racks {
			b = binary.LittleEndian.AppendUint32(b, uint32(javaLength(r)))
			b = appendJavaString(b, r)
		}
	}
	return int64(xxh3(b))
}

func javaLength(s string) (n int) {
	for _, c := range s {
		n += utf16.RuneLen(c)
	}
	return n
}

func appendJavaString(b []byte, s string) []byte {
	n := uint32(0)
	for _, c := range s {
		for _, u := range utf16.AppendRune(nil, c) {
			b = binary.LittleEndian.AppendUint16(b, u)
			n++
		}
	}
	return binary.LittleEndian.AppendUint32(b, n)
}
