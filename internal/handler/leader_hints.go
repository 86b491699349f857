package handler

import (
	"moldau/internal/wire"
)

// leaderHints collects the leaders, and their addresses, of partitions that a client
// looked for in the wrong place (KIP-951).
type leaderHints struct{ brokers []wire.FetchBroker }

// find returns the current leader of a partition as the metadata has it.
func (h *leaderHints) find(rc *requestContext, topic string, id wire.UUID, index int32) (leader, epoch int32, ok bool) {
	im := rc.table.o.Cluster.Image()
	t := im.Topic(topic)
	if !id.IsZero() {
		t = im.TopicByID(id)
	}
	if t == nil || index < 0 || int(index) >= len(t.Partitions) {
		return -1, -1, false
	}
	p := &t.Partitions[index]
	b := im.Broker(p.Leader)
	if b == nil {
		return p.Leader, p.LeaderEpoch, true
	}
	for _, known := range h.brokers {
		if known.NodeID == b.ID {
			return p.Leader, p.LeaderEpoch, true
		}
	}
	if host, port, ok := rc.endpoint(b); ok {
		n := wire.FetchBroker{NodeID: b.ID, Host: host, Port: port}
		if b.Rack != "" {
			n.Rack = &b.Rack
		}
		h.brokers = append(h.brokers, n)
	}
	return p.Leader, p.LeaderEpoch, true
}
