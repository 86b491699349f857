// Metadata (3), versions 0 to 13 (KIP-4, KIP-78, KIP-430, KIP-516, KIP-700, KIP-1102).
//
//   - All topics are asked for with null, in version 0 with an empty list; they never create anything.
//   - A topic that is not there is created, where the client (from version 4 on) and auto.create.topics.enable allow
//     it. Its first answer is UNKNOWN_TOPIC_OR_PARTITION, as Kafka's, where the creation goes on in the background;
//     every client asks again after a moment. Here it has been created by then.
//   - Topics may be asked for by id from version 12 on; once one id is given, names are not looked at.
//   - Addresses are those of the listener on which the client came. A topic that the client may not describe
//     is left out of all topics, and TOPIC_AUTHORIZATION_FAILED when it is named, whether it is there or not.
//   - Version 0 leaves replicas out that are not reachable, and says REPLICA_NOT_AVAILABLE; up to version 5
//     LISTENER_NOT_FOUND is LEADER_NOT_AVAILABLE.

package handler

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

func metadataOf(ctx context.Context, rc *requestContext, req *kmsg.MetadataRequest) kmsg.Response {
	m := &metadataRequest{rc: rc, req: req, im: rc.table.o.Cluster.Image()}
	m.all = req.Topics == nil || req.Version == 0 && len(req.Topics) == 0
	resp := kmsg.NewPtrMetadataResponse()
	if code := m.check(); code != wire.None {
		resp.ErrorCode = int16(code)
		for _, t := range req.Topics {
			r := kmsg.NewMetadataResponseTopic()
			r.Topic, r.TopicID, r.ErrorCode = new(string), t.TopicID, int16(code)
			if t.Topic != nil {
				r.Topic = t.Topic
			}
			resp.Topics = append(resp.Topics, r)
		}
		return resp
	}
	if m.all && m.partitions() >= largeMetadata && rc.takeTurn(ctx) != nil {
		return resp // the client is gone
	}
	resp.Topics = m.topics(ctx)
	for i := range resp.Topics {
		rc.bytes += metadataBytes(&resp.Topics[i])
	}
	for _, b := range m.im.Brokers() {
		if host, port, ok := rc.endpoint(b); ok && !b.Fenced {
			r := kmsg.NewMetadataResponseBroker()
			r.NodeID, r.Host, r.Port, r.Rack = b.ID, host, port, rackOf(b)
			resp.Brokers = append(resp.Brokers, r)
		}
	}
	resp.ClusterID = text(m.im.ClusterID())
	resp.ControllerID = rc.controllerFor(m.im)
	if req.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = rc.operationsOnCluster()
	}
	return resp
}

// metadataRequest is one request at work.
type metadataRequest struct {
	rc  *requestContext
	req *kmsg.MetadataRequest
	im  *metadata.Image
	all bool
}

// largeMetadata is how many partitions make an answer for which clients take turns: when a broker comes up, or a leader moves, all of them ask at once.
const largeMetadata = 10_000

func (m *metadataRequest) partitions() (n int) {
	for t := range m.im.Topics() {
		n += len(t.Partitions)
	}
	return n
}

// metadataBytes is about what a topic takes in the answer.
func metadataBytes(t *kmsg.MetadataResponseTopic) int {
	const topicBytes, partitionBytes, replicaBytes = 32, 30, 2 * 4 // it is in sync, too
	n, name, replicas := len(t.Partitions), 0, 0
	if n > 0 {
		name, replicas = len(*t.Topic), len(t.Partitions[0].Replicas)
	}
	return topicBytes + name + n*(partitionBytes+replicas*replicaBytes)
}

// check finds what the whole request is refused for.
func (m *metadataRequest) check() wire.Code {
	ids := m.byID()
	for _, t := range m.req.Topics {
		if m.req.Version < 12 && (t.Topic == nil || t.TopicID != [16]byte{}) || t.Topic == nil && !ids {
			return wire.InvalidRequest
		}
	}
	return wire.None
}

func (m *metadataRequest) byID() bool {
	return slices.ContainsFunc(m.req.Topics, func(t kmsg.MetadataRequestTopic) bool { return t.TopicID != [16]byte{} })
}

func (m *metadataRequest) topics(ctx context.Context) []kmsg.MetadataResponseTopic {
	var out []kmsg.MetadataResponseTopic
	switch {
	case m.all:
		for t := range m.im.Topics() {
			if m.rc.permitted(m.rc.row.needs, t.Name) {
				out = append(out, m.topic(t))
			}
		}
	case m.byID():
		seen := map[wire.UUID]bool{{}: true}
		for _, t := range m.req.Topics {
			if !seen[t.TopicID] {
				seen[t.TopicID] = true
				out = append(out, m.topicByID(t.TopicID))
			}
		}
	default:
		return m.named(ctx)
	}
	return out
}

func (m *metadataRequest) topicByID(id wire.UUID) kmsg.MetadataResponseTopic {
	t := m.im.TopicByID(id)
	if t != nil && m.rc.allowed(t.Name) {
		return m.topic(t)
	}
	r := kmsg.NewMetadataResponseTopic()
	r.TopicID, r.ErrorCode = id, int16(wire.UnknownTopicID)
	if t != nil {
		r.ErrorCode = int16(wire.TopicAuthorizationFailed)
	}
	return r
}

// named answers for topics by name, each once, and creates those that are to be created.
func (m *metadataRequest) named(ctx context.Context) []kmsg.MetadataResponseTopic {
	var out []kmsg.MetadataResponseTopic
	var missing []string
	seen := make(map[string]bool, len(m.req.Topics))
	create := m.mayCreate()
	for _, asked := range m.req.Topics {
		name := *asked.Topic
		if seen[name] {
			continue
		}
		seen[name] = true
		if t := m.im.Topic(name); t != nil && m.rc.allowed(name) {
			out = append(out, m.topic(t))
			continue
		}
		r := kmsg.NewMetadataResponseTopic()
		r.Topic = &name
		invalid := controller.InvalidName(name)
		switch {
		case !m.rc.allowed(name):
			r.ErrorCode = int16(wire.TopicAuthorizationFailed)
		case create && !m.rc.mayCreate(name):
			r.ErrorCode, r.IsInternal = int16(wire.TopicAuthorizationFailed), isInternal(name)
		default:
			r.ErrorCode, r.IsInternal = int16(unknownTopic(invalid)), isInternal(name)
			if m.req.IncludeTopicAuthorizedOperations {
				r.AuthorizedOperations = m.rc.operationsOnTopic(name)
			}
			if create && invalid == "" {
				missing = append(missing, name)
			}
		}
		out = append(out, r)
	}
	if m.rc.limitsMutations() { // who has none left is not muted for it: the topics are unknown, and he asks again
		each := int(m.rc.table.config(m.im).Int("num.partitions"))
		missing = slices.DeleteFunc(missing, func(string) bool { return m.rc.take(each, true) })
		m.rc.owedUntilMs = 0
	}
	if len(missing) > 0 {
		m.rc.waits()
		m.rc.table.autoCreate(ctx, m.im, missing)
	}
	return out
}

// mayCreate tells whether request and configuration let topics be created. Before version 4 clients
// have no say.
func (m *metadataRequest) mayCreate() bool {
	return (m.req.Version < 4 || m.req.AllowAutoTopicCreation) && m.rc.table.config(m.im).Bool("auto.create.topics.enable")
}

func (m *metadataRequest) topic(t *metadata.Topic) kmsg.MetadataResponseTopic {
	r := kmsg.NewMetadataResponseTopic()
	r.Topic, r.TopicID, r.IsInternal = &t.Name, t.ID, isInternal(t.Name)
	r.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i := range t.Partitions {
		r.Partitions[i] = m.partition(int32(i), &t.Partitions[i])
	}
	if m.req.IncludeTopicAuthorizedOperations {
		r.AuthorizedOperations = m.rc.operationsOnTopic(t.Name)
	}
	return r
}

func (m *metadataRequest) partition(index int32, p *metadata.Partition) kmsg.MetadataResponseTopicPartition {
	v := m.rc.view(m.im, p)
	if m.req.Version == 0 {
		v.replicas, v.isr = m.reachable(p.Replicas), m.reachable(p.ISR)
		if v.code == wire.None && (len(v.replicas) < len(p.Replicas) || len(v.isr) < len(p.ISR)) {
			v.code = wire.ReplicaNotAvailable
		}
	}
	if v.code == wire.ListenerNotFound && m.req.Version < 6 {
		v.code = wire.LeaderNotAvailable
	}
	r := kmsg.NewMetadataResponseTopicPartition()
	r.ErrorCode, r.Partition, r.Leader, r.LeaderEpoch = int16(v.code), index, v.leader, p.LeaderEpoch
	r.Replicas, r.ISR, r.OfflineReplicas = v.replicas, v.isr, v.offline
	return r
}

func (m *metadataRequest) reachable(ids []int32) []int32 {
	return slices.DeleteFunc(slices.Clone(ids), func(id int32) bool {
		b := m.im.Broker(id)
		return b == nil || !m.rc.reachable(b)
	})
}
