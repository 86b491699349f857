package handler

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/wire"
)

// TestTopicThatIsNotServedYet: between the answer that a topic was created and the moment when its partitions are served, a client is told to
// look for the leader again, not that there is no such topic.
func TestTopicThatIsNotServedYet(t *testing.T) {
	b := newBroker(t)
	results := b.o.Cluster.CreateTopics(t.Context(), []controller.NewTopic{{Name: "t", Partitions: 2, ReplicationFactor: 1}}, false)
	if results[0].Code != wire.None {
		t.Fatal(results[0])
	}
	// Nobody has published the new image.
	code := func(version, acks int16, topic string, id wire.UUID) wire.Code {
		t.Helper()
		req := produceRequest(version, topic, id, acks, batchOf(t, "v"))
		resp := parseResponse(t, req, version, b.exchange(t, frameOf(req))).(*kmsg.ProduceResponse)
		return wire.Code(resp.Topics[0].Partitions[0].ErrorCode)
	}
	if got := code(9, -1, "t", wire.UUID{}); got != wire.NotLeaderOrFollower {
		t.Errorf("by name: %v", got)
	}
	if got := code(13, -1, "", results[0].ID); got != wire.NotLeaderOrFollower {
		t.Errorf("by id: %v", got)
	}
	if got := code(9, -1, "none", wire.UUID{}); got != wire.UnknownTopicOrPartition {
		t.Errorf("unknown: %v", got)
	}
	if got := code(13, -1, "", wire.UUID{9}); got != wire.UnknownTopicID {
		t.Errorf("unknown id: %v", got)
	}
	b.publish()
	if got := code(9, -1, "t", wire.UUID{}); got != wire.None {
		t.Errorf("served: %v", got)
	}
}
