// Package controller decides about the cluster: which topics exist, where their
// replicas live, who leads, what is configured.
//
// It is a passive core: every decision is a function of a metadata.Image and a
// request, and returns a [Plan] of writes and results. It holds no state and
// uses no goroutine, clock, I/O, randomness or map order (a test of this package
// bans them); what is random or depends on the time comes with the request.
//
// Invariants, for every Image that the plans lead to (each step on its own):
//  1. ISR ⊆ replicas; the leader is in the ISR or -1; ISR and ELR are disjoint;
//     with at least the minimum ISR in sync the ELR is empty; an empty ISR has no leader.
//  2. partitionEpoch grows by one with each change of a partition, leaderEpoch by
//     zero or one; neither goes back.
//  3. A topic id or name is given to one topic at a time; a deleted topic leaves no key.
//
// Result messages are Kafka's own words, because tools print and tests compare them.
package controller

import (
	"maps"
	"slices"

	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// Write is one key that a plan writes.
type Write struct {
	Key    string // or the prefix of what is deleted
	Value  []byte
	Action Action
}

// Action is what a Write does with its key.
type Action uint8

// Actions of a Write.
const (
	Put Action = iota
	Delete
	DeletePrefix
)

// NoResult marks a step that completes no result.
const NoResult = -1

// Step is a part of a plan that must be applied atomically. Many consecutive
// steps may share a transaction. After each step the cluster is consistent.
type Step struct {
	Writes []Write
	// Result is the index of the result that is true once this step is applied
	// (and of its part of the results no later step changes), or NoResult.
	Result int
}

// Plan is what a decision writes, in this order. An empty plan changes nothing.
type Plan struct{ Steps []Step }

func (p *Plan) add(result int, ws ...Write) {
	p.Steps = append(p.Steps, Step{Writes: ws, Result: result})
}

func put(key string, value []byte) Write { return Write{Key: key, Value: value} }

// Policy is what the controller must know about configuration. Its functions
// are pure and may be called concurrently.
type Policy struct {
	// IsList reports whether a key of a kind of resource is of type LIST, which
	// alone can be appended to, and the value it has when it is not set.
	IsList func(kind metadata.ConfigKind, key string) (list bool, unset string)
	// Validate checks everything set on one resource together. None is valid.
	Validate func(kind metadata.ConfigKind, name string, set map[string]string) (wire.Code, string)
	// Effective resolves what partitions carry, from a topic's own settings and
	// the default of all brokers.
	Effective func(topic, brokers map[string]string) Effective
}

// Effective is the part of a topic's configuration that its partitions carry.
// MinISR is as configured; a partition holds it to its number of replicas.
type Effective struct {
	MinISR                 int32
	FlushMessages, FlushMs int64
}

func (pol Policy) effective(im *metadata.Image, topic map[string]string) Effective {
	return pol.Effective(topic, im.Config(metadata.BrokerConfig, ""))
}

// InitCluster names the cluster and finalizes its first feature levels.
func InitCluster(im *metadata.Image, clusterID string, features map[string]int16) Plan {
	if im.ClusterID() != "" {
		panic("BUG: the cluster has an id")
	}
	var p Plan
	p.add(NoResult, put(metadata.ClusterKey, metadata.EncodeCluster(clusterID, features, im.Seq()+1)))
	return p
}

// ProducerIDBlock is how many producer ids a broker gets at a time, as in Kafka.
const ProducerIDBlock = 1000

// AllocateProducerIDs takes the next block: the ids first to first+ProducerIDBlock-1.
func AllocateProducerIDs(im *metadata.Image) (p Plan, first int64, code wire.Code) {
	first = im.NextProducerID()
	if first+ProducerIDBlock < first {
		return Plan{}, 0, wire.UnknownServerError
	}
	p.add(NoResult, put(metadata.ProducerIDKey, metadata.EncodeProducerID(first+ProducerIDBlock)))
	return p, first, wire.None
}

// ReserveProducerIDs takes all ids below first out of use: logs that came from elsewhere know them.
func ReserveProducerIDs(im *metadata.Image, first int64) Plan {
	var p Plan
	if first > im.NextProducerID() {
		p.add(NoResult, put(metadata.ProducerIDKey, metadata.EncodeProducerID(first)))
	}
	return p
}

// Reconcile finishes what an earlier controller left undone, and brings the
// partitions in line with the configuration: it removes the chunks of topics
// without a record, and rewrites partitions whose minimum ISR or flush policy
// differs from what is effective (a broker may come back with other defaults).
func Reconcile(im *metadata.Image, pol Policy) Plan {
	var p Plan
	for _, id := range im.Drafts() {
		p.add(NoResult, deleteChunks(id)...)
	}
	for t := range im.Topics() {
		p.retune(t, pol.effective(im, im.Config(metadata.TopicConfig, t.Name)))
	}
	return p
}

func deleteChunks(id wire.UUID) []Write {
	return []Write{
		{Key: metadata.StaticPrefix(id), Action: DeletePrefix},
		{Key: metadata.DynamicPrefix(id), Action: DeletePrefix},
	}
}

// change rewrites the dynamic chunks of a topic in which edit changes a
// partition. edit works on a copy and must not write into shared slices.
func (p *Plan) change(t *metadata.Topic, edit func(q *metadata.Partition) bool) {
	for from := 0; from < len(t.Partitions); from += metadata.ChunkPartitions {
		chunk := slices.Clone(t.Partitions[from:min(from+metadata.ChunkPartitions, len(t.Partitions))])
		changed := false
		for i := range chunk {
			if edit(&chunk[i]) {
				chunk[i].PartitionEpoch++
				changed = true
			}
		}
		if changed {
			p.add(NoResult, put(metadata.DynamicKey(t.ID, from/metadata.ChunkPartitions), metadata.EncodeDynamic(chunk)))
		}
	}
}

// retune gives a topic's partitions another effective configuration. The ELR
// follows the minimum ISR in the same write, so that no leader ever counts with
// one and elects with the other.
func (p *Plan) retune(t *metadata.Topic, e Effective) {
	p.change(t, func(q *metadata.Partition) bool {
		minISR := boundMinISR(e.MinISR, len(q.Replicas))
		if q.MinISR == minISR && q.FlushMessages == e.FlushMessages && q.FlushMs == e.FlushMs {
			return false
		}
		q.MinISR, q.FlushMessages, q.FlushMs = minISR, e.FlushMessages, e.FlushMs
		if len(q.ISR) >= int(minISR) {
			q.ELR, q.LastKnownELR = nil, nil
		}
		return true
	})
}

func boundMinISR(minISR int32, replicas int) int32 {
	return max(1, min(minISR, int32(replicas)))
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
