package handler

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/config"
	"moldau/internal/wire"
)

func newGroupBroker(t *testing.T, sets ...string) *broker {
	t.Helper()
	b := newBroker(t, sets...)
	b.withTopic(t, "t", 2)
	b.withGroups(t)
	return b
}

// joinConsumer joins group g with the consumer protocol.
func joinConsumer(t *testing.T, b *broker, id string) *kmsg.ConsumerGroupHeartbeatResponse {
	t.Helper()
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.RebalanceTimeoutMillis = "g", id, 60_000
	req.SubscribedTopicNames, req.Topics = []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	return ask[*kmsg.ConsumerGroupHeartbeatResponse](t, b, req, 1)
}

func describeConsumers(t *testing.T, b *broker, groups ...string) []kmsg.ConsumerGroupDescribeResponseGroup {
	t.Helper()
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups, req.IncludeAuthorizedOperations = groups, true
	return ask[*kmsg.ConsumerGroupDescribeResponse](t, b, req, 1).Groups
}

// changeGroup sets configurations of a group, in pairs; null deletes.
func changeGroup(t *testing.T, b *broker, group string, pairs ...string) kmsg.IncrementalAlterConfigsResponseResource {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	for i := 0; i < len(pairs); i += 2 {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = pairs[i], &pairs[i+1]
		if pairs[i+1] == "" {
			c.Op, c.Value = kmsg.IncrementalAlterConfigOpDelete, nil
		}
		r.Configs = append(r.Configs, c)
	}
	req.Resources = append(req.Resources, r)
	return ask[*kmsg.IncrementalAlterConfigsResponse](t, b, req, 1).Resources[0]
}

func TestConsumerGroupAPIs(t *testing.T) {
	b := newGroupBroker(t)
	resp := joinConsumer(t, b, "m")
	if resp.ErrorCode != 0 || resp.MemberEpoch != 2 || resp.HeartbeatIntervalMillis != 5000 || resp.Assignment == nil || len(resp.Assignment.Topics) != 1 {
		t.Fatalf("%+v", resp)
	}
	gs := describeConsumers(t, b, "g", "nobody", "", "g")
	if len(gs) != 3 || gs[0].State != "Stable" || len(gs[0].Members) != 1 || gs[0].Members[0].ClientID != "test" || gs[0].AuthorizedOperations == -2147483648 {
		t.Fatalf("%+v", gs)
	}
	if wire.Code(gs[1].ErrorCode) != wire.GroupIDNotFound || gs[1].ErrorMessage == nil || wire.Code(gs[2].ErrorCode) != wire.InvalidGroupID {
		t.Errorf("%+v", gs[1:])
	}

	// What is set for a group counts for it, and for no other.
	for _, x := range []struct {
		want  wire.Code
		name  string
		pairs []string
	}{
		{wire.None, "g", []string{"consumer.heartbeat.interval.ms", "7000"}},
		{wire.None, "g", []string{"consumer.session.timeout.ms", "50000"}},
		{wire.InvalidRequest, "", []string{"consumer.session.timeout.ms", "50000"}},
		{wire.InvalidConfig, "g", []string{"consumer.session.timeout.ms", "1"}},
		{wire.InvalidConfig, "g", []string{"consumer.session.timeout.ms", "60001"}},
		{wire.InvalidConfig, "g", []string{"consumer.session.timeout.ms", "long"}},
		{wire.InvalidConfig, "g", []string{"share.session.timeout.ms", "50000"}},
		{wire.InvalidConfig, "g", []string{"retention.ms", "50000"}},
	} {
		if r := changeGroup(t, b, x.name, x.pairs...); wire.Code(r.ErrorCode) != x.want || (x.want != wire.None) != (r.ErrorMessage != nil && *r.ErrorMessage != "") {
			t.Errorf("%v: %v, want %v", x.pairs, wire.Code(r.ErrorCode), x.want)
		}
	}
	b.publish()
	describe := func(group string) map[string]kmsg.DescribeConfigsResponseResourceConfig {
		req := kmsg.NewPtrDescribeConfigsRequest()
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
		req.Resources = append(req.Resources, r)
		out := map[string]kmsg.DescribeConfigsResponseResourceConfig{}
		for _, c := range ask[*kmsg.DescribeConfigsResponse](t, b, req, 4).Resources[0].Configs {
			out[c.Name] = c
		}
		return out
	}
	if c := describe("g")["consumer.heartbeat.interval.ms"]; *c.Value != "7000" || c.Source != 8 {
		t.Errorf("%+v", c)
	}
	if c := describe("h")["consumer.heartbeat.interval.ms"]; *c.Value != "5000" || c.Source != 5 {
		t.Errorf("%+v", c)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if resp := joinConsumer(t, b, "m"); resp.HeartbeatIntervalMillis == 7000 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%+v", resp)
		}
	}
	if r := changeGroup(t, b, "g", "consumer.heartbeat.interval.ms", ""); r.ErrorCode != 0 {
		t.Errorf("%+v", r)
	}
}

func TestConsumerProtocolIsSwitchedOff(t *testing.T) {
	b := newGroupBroker(t, "group.coordinator.rebalance.protocols=classic")
	if resp := joinConsumer(t, b, "m"); wire.Code(resp.ErrorCode) != wire.UnsupportedVersion {
		t.Errorf("%+v", resp)
	}
	if gs := describeConsumers(t, b, "g"); wire.Code(gs[0].ErrorCode) != wire.UnsupportedVersion {
		t.Errorf("%+v", gs)
	}
}

func TestAssignorsAreKnown(t *testing.T) {
	for _, list := range []string{"sticky", "uniform,sticky"} {
		c, _, err := config.Load(config.Sources{Sets: []string{"node.id=1", "group.consumer.assignors=" + list}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := GroupOptions(c, nil); err == nil {
			t.Errorf("%s is taken", list)
		}
	}
}
