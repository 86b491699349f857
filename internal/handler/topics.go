package handler

import (
	"errors"
	"fmt"
	"slices"

	"moldau/internal/metadata"
	"moldau/internal/partition"
	"moldau/internal/wire"
)

// internalTopics are those that only the broker itself writes.
var internalTopics = []string{offsetsTopic, transactionTopic, shareTopic}

const (
	offsetsTopic     = "__consumer_offsets"
	transactionTopic = "__transaction_state"
	shareTopic       = "__share_group_state"
)

func isInternal(topic string) bool { return slices.Contains(internalTopics, topic) }

// controllerFor is the node that a client is told to send its admin requests to. Every broker takes
// them; one that decides is nearest. Between two controllers it is this one, which waits for the next.
func (rc *requestContext) controllerFor(im *metadata.Image) int32 {
	if b := im.Broker(im.Controller()); b != nil && rc.reachable(b) {
		return b.ID
	}
	if b := im.Broker(rc.table.o.NodeID); b != nil && rc.reachable(b) {
		return b.ID
	}
	return -1
}

// reachable tells whether a broker is alive and has the listener on which the client came.
func (rc *requestContext) reachable(b *metadata.Broker) bool {
	return rc.listens(b) && !b.Fenced
}

// listens tells whether a broker has the listener on which the client came.
func (rc *requestContext) listens(b *metadata.Broker) bool {
	return slices.ContainsFunc(b.Listeners, func(e metadata.Endpoint) bool { return e.Name == rc.listener })
}

// partitionView is a partition as the client of one listener sees it.
type partitionView struct {
	code     wire.Code // LEADER_NOT_AVAILABLE or LISTENER_NOT_FOUND where leader is -1
	leader   int32
	replicas []int32
	isr      []int32
	offline  []int32
}

// view is how the client sees a partition. Listeners and brokers come and go, so a replica that
// is registered may still be out of its reach.
func (rc *requestContext) view(im *metadata.Image, p *metadata.Partition) partitionView {
	v := partitionView{leader: -1, replicas: p.Replicas, isr: p.ISR}
	if leader := im.Broker(p.Leader); leader == nil {
		v.code = wire.LeaderNotAvailable
	} else if !rc.listens(leader) {
		v.code = wire.ListenerNotFound
	} else {
		v.leader = p.Leader
	}
	for i, id := range p.Replicas {
		if b := im.Broker(id); b == nil || !rc.reachable(b) || !hasDir(b, p, i) {
			v.offline = append(v.offline, id)
		}
	}
	return v
}

// hasDir tells whether the log dir of a replica is one that its broker has. No id, on either
// side, means that it is not known.
func hasDir(b *metadata.Broker, p *metadata.Partition, replica int) bool {
	if replica >= len(p.Dirs) || p.Dirs[replica].IsZero() || len(b.DirIDs) == 0 {
		return true
	}
	return slices.Contains(b.DirIDs, p.Dirs[replica])
}

// unknownTopic is the error for a topic that is not there.
func unknownTopic(invalidName string) wire.Code {
	if invalidName != "" {
		return wire.InvalidTopicException
	}
	return wire.UnknownTopicOrPartition
}

// rackOf is the rack in a response, null where there is none.
func rackOf(b *metadata.Broker) *string {
	if b.Rack == "" {
		return nil
	}
	return &b.Rack
}

// text is a message in a response, null where there is none.
func text(message string) *string {
	if message == "" {
		return nil
	}
	return &message
}

// distinct returns the names in their order, each once, in the place of names.
func distinct(names []string) []string {
	seen := make(map[string]struct{})
	once := names[:0]
	for _, n := range names {
		if _, again := seen[n]; !again {
			seen[n] = struct{}{}
			once = append(once, n)
		}
	}
	return once
}

// split sorts items out whose key occurs more often than once: of these it returns the first.
func split[T any, K comparable](items []T, key func(*T) K) (once, twice []T) {
	count := make(map[K]int, len(items))
	for i := range items {
		count[key(&items[i])]++
	}
	for i := range items {
		switch k := key(&items[i]); {
		case count[k] == 1:
			once = append(once, items[i])
		case count[k] > 1:
			twice = append(twice, items[i])
			count[k] = 0
		}
	}
	return once, twice
}

// lookup is Manager.Lookup. Of a partition that the metadata has and that is not served here yet it says ErrNotLeader: a topic that was
// created a moment ago. Clients look for its leader again then, and give up less soon than where a topic is unknown.
func (t *Table) lookup(topic string, id wire.UUID, index int32) (*partition.Partition, error) {
	p, err := t.o.Partitions.Lookup(topic, id, index)
	if !errors.Is(err, partition.ErrUnknown) && !errors.Is(err, partition.ErrUnknownID) {
		return p, err
	}
	im := t.o.Cluster.Image()
	known := im.Topic(topic)
	if !id.IsZero() {
		known = im.TopicByID(id)
	}
	if known == nil || index < 0 || int(index) >= len(known.Partitions) {
		return nil, err
	}
	return nil, fmt.Errorf("%s-%d is not served yet: %w", known.Name, index, partition.ErrNotLeader)
}
