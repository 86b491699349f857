package handler

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/quota"
	"moldau/internal/wire"
)

func newTopics(version int16, names ...string) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = version, 10_000
	for _, n := range names {
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = n, 10, 1
		req.Topics = append(req.Topics, t)
	}
	return req
}

// Eleven seconds at one mutation a second are in the bucket. A strict request may overdraw it, and the next is refused; one of before KIP-599 waits.
func TestMutationsAreThrottled(t *testing.T) {
	b := newBroker(t)
	b.limit(t, quota.ControllerMutationRate, 1)
	throttled := int16(wire.ThrottlingQuotaExceeded)
	created := ask[*kmsg.CreateTopicsResponse](t, b, newTopics(7, "a", "b", "c", "a/b"), 7)
	var got []int16
	for _, r := range created.Topics {
		got = append(got, r.ErrorCode)
	}
	if want := []int16{0, 0, throttled, int16(wire.InvalidTopicException)}; !slices.Equal(got, want) || created.ThrottleMillis < 1000 || created.ThrottleMillis > 9000 {
		t.Errorf("%v, want %v; throttled for %d ms", got, want, created.ThrottleMillis)
	}
	if im := b.o.Cluster.Image(); im.Topic("b") == nil || im.Topic("c") != nil {
		t.Error("the refused topic is there, or an accepted one is not")
	}
	more := kmsg.NewPtrCreatePartitionsRequest()
	more.TimeoutMillis = 10_000
	more.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: "a", Count: 11}, {Topic: "b", Count: 3}}
	if r := ask[*kmsg.CreatePartitionsResponse](t, b, more, 3); r.Topics[0].ErrorCode != throttled || r.Topics[1].ErrorCode != int16(wire.InvalidPartitions) || r.ThrottleMillis == 0 {
		t.Errorf("%+v", r)
	}
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.TimeoutMillis = 10_000
	a := "a"
	del.Topics, del.TopicNames = []kmsg.DeleteTopicsRequestTopic{{Topic: &a}}, []string{"a"}
	if r := ask[*kmsg.DeleteTopicsResponse](t, b, del, 6); r.Topics[0].ErrorCode != throttled || r.ThrottleMillis == 0 || b.o.Cluster.Image().Topic("a") == nil {
		t.Errorf("%+v", r)
	}
	meta := kmsg.NewPtrMetadataRequest()
	auto := kmsg.NewMetadataRequestTopic()
	name := "by-the-way"
	auto.Topic, meta.AllowAutoTopicCreation = &name, true
	meta.Topics = append(meta.Topics, auto)
	if r := ask[*kmsg.MetadataResponse](t, b, meta, 9); r.ThrottleMillis != 0 || b.o.Cluster.Image().Topic(name) != nil {
		t.Errorf("%+v", r)
	}

	before := created.ThrottleMillis
	for _, c := range []struct {
		req     kmsg.Request
		version int16
	}{{newTopics(5, "d"), 5}, {more, 2}, {del, 4}} {
		c.req.SetVersion(c.version)
		out, reply := b.reply(t, frameOf(c.req))
		ms, _ := parseResponse(t, c.req, c.version, out[4:]).(kmsg.ThrottleResponse).Throttle()
		if ms <= before-1000 || reply.Throttle != time.Duration(ms)*time.Millisecond {
			t.Errorf("%s v%d: the answer says %d ms, muted for %v", kmsg.NameForKey(c.req.Key()), c.version, ms, reply.Throttle)
		}
		before = ms
	}
	if im := b.o.Cluster.Image(); im.Topic("d") == nil || im.Topic("a") != nil {
		t.Error("a request of an old version was refused")
	}
}
