package handler

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestLargeMetadata: answers with very many partitions are made a few at a time, one whose client goes away gives up its place, and nobody
// else waits for them. What they will have is reckoned, so that they are encoded without being copied again and again.
func TestLargeMetadata(t *testing.T) {
	b := newBroker(t)
	for name, partitions := range map[string]int32{"large": largeMetadata - 1, "small": 3} { // in two requests, because of Kafka's bound for one
		create := kmsg.NewPtrCreateTopicsRequest()
		create.TimeoutMillis = 60_000
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, 1
		create.Topics = append(create.Topics, topic)
		if r := ask[*kmsg.CreateTopicsResponse](t, b, create, 7).Topics[0]; r.ErrorCode != 0 {
			t.Fatal(r.Topic, r.ErrorCode)
		}
	}
	all := func(version int16) *kmsg.MetadataRequest {
		req := kmsg.NewPtrMetadataRequest()
		req.SetVersion(version)
		return req
	}
	for _, version := range []int16{1, 8, 9, 13} {
		body := b.exchange(t, frameOf(all(version)))
		reckoned := 0
		for _, topic := range parseResponse(t, all(version), version, body).(*kmsg.MetadataResponse).Topics {
			reckoned += metadataBytes(&topic)
		}
		if n := len(body); reckoned < n || reckoned > 2*n {
			t.Errorf("version %d: %d bytes are reckoned, it has %d", version, reckoned, n)
		}
	}

	for range cap(b.turns) {
		b.turns <- struct{}{}
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := b.serve(gone, frameOf(all(13))); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := b.serve(t.Context(), frameOf(all(13)))
		done <- err
	}()
	named := all(13)
	topic := kmsg.NewMetadataRequestTopic()
	name := "small"
	topic.Topic = &name
	named.Topics = []kmsg.MetadataRequestTopic{topic}
	if got := ask[*kmsg.MetadataResponse](t, b, named, 13).Topics; len(got) != 1 || len(got[0].Partitions) != 3 {
		t.Errorf("a small answer has %v", got)
	}
	select {
	case <-done:
		t.Error("a large answer did not wait for its turn")
	default:
	}
	<-b.turns
	if err := <-done; err != nil {
		t.Error(err)
	}
	for range cap(b.turns) - 1 {
		<-b.turns
	}
	rc := &requestContext{table: b.Table}
	begun := time.Now()
	if err := rc.takeTurn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if waited := -rc.worked; waited <= 0 || waited > time.Since(begun) {
		t.Errorf("%v of waiting for a turn are taken off the client's account", waited)
	}
	rc.endTurn()
	if n := len(b.turns); n != 0 {
		t.Errorf("%d turns have not ended", n)
	}
}
