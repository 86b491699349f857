package handler

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/metadata"
	"moldau/internal/network"
	"moldau/internal/wire"
)

func TestVersionsAreThoseOfTheTableAndItsFeatures(t *testing.T) {
	b := newBroker(t)
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "franz-go", strings.Repeat("1", 4000)
	for v := int16(0); v <= 4; v++ {
		resp := ask[*kmsg.ApiVersionsResponse](t, b, req, v)
		if len(resp.ApiKeys) != len(rows()) {
			t.Fatalf("v%d: %d APIs of %d", v, len(resp.ApiKeys), len(rows()))
		}
		for _, k := range resp.ApiKeys {
			r := b.rows[k.ApiKey]
			if k.MinVersion != r.min || k.MaxVersion != r.max {
				t.Errorf("v%d: %s is %d to %d", v, r.key.Name(), k.MinVersion, k.MaxVersion)
			}
		}
		if v < 3 {
			continue
		}
		f, s := resp.FinalizedFeatures, resp.SupportedFeatures
		if len(f) != 2 || f[0].Name != "group.version" || f[0].MaxVersionLevel != 1 || f[1].Name != "metadata.version" || f[1].MaxVersionLevel != 30 || f[1].MinVersionLevel != 30 || resp.FinalizedFeaturesEpoch < 0 {
			t.Errorf("v%d: finalized %+v, epoch %d", v, f, resp.FinalizedFeaturesEpoch)
		}
		if v >= 4 { // before, clients do not understand a lowest level of 0
			if len(s) != 2 || s[0].Name != "group.version" || s[0].MinVersion != 0 || s[0].MaxVersion != 1 {
				t.Fatalf("v%d: supported %+v", v, s)
			}
			s = s[1:]
		}
		if len(s) != 1 || s[0].Name != "metadata.version" || s[0].MinVersion != 7 || s[0].MaxVersion != 30 {
			t.Errorf("v%d: supported %+v", v, s)
		}
		if c := stateOf(b.conn); c.software != "franz-go" || len(c.softwareVersion) != maxSoftwareName {
			t.Errorf("v%d: %+v is remembered", v, c)
		}
	}
}

func TestOtherVersionsEndTheConnection(t *testing.T) {
	b := newBroker(t)
	for _, r := range rows() {
		for _, v := range []int16{math.MinInt16, r.served - 1, r.max + 1, math.MaxInt16} {
			if r.key == kmsg.ApiVersions {
				continue
			}
			req := kmsg.RequestForKey(r.key.Int16())
			req.SetVersion(v)
			if _, err := b.serve(t.Context(), frameOf(req)); err == nil {
				t.Errorf("%s v%d is served", r.key.Name(), v)
			}
		}
	}
}

func TestTopicsAreNotCreatedByTheWayUnlessAllowed(t *testing.T) {
	b := newBroker(t, "auto.create.topics.enable=false")
	req := metadataFor("new")
	req.AllowAutoTopicCreation = true
	for v := int16(1); v <= 13; v++ {
		resp := ask[*kmsg.MetadataResponse](t, b, req, v)
		if len(resp.Topics) != 1 || resp.Topics[0].ErrorCode != int16(wire.UnknownTopicOrPartition) {
			t.Fatalf("v%d: %+v", v, resp.Topics)
		}
	}
	if n := b.o.Cluster.Image().TopicCount(); n != 0 {
		t.Errorf("%d topics", n)
	}
}

func TestTopicsCreatedByTheWayHaveTheDefaultsAndAreThereAtOnce(t *testing.T) {
	b := newBroker(t, "num.partitions=7")
	req := metadataFor("new")
	req.AllowAutoTopicCreation = true
	var group sync.WaitGroup // clients start together
	for range 8 {
		group.Go(func() {
			req := metadataFor("new", "other")
			req.AllowAutoTopicCreation = true
			req.SetVersion(12)
			if _, err := b.serve(t.Context(), frameOf(req)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	resp := ask[*kmsg.MetadataResponse](t, b, req, 12)
	if r := resp.Topics[0]; r.ErrorCode != 0 || len(r.Partitions) != 7 || r.Partitions[6].Leader != 1 {
		t.Fatalf("%+v", r)
	}
	if n := b.o.Cluster.Image().TopicCount(); n != 2 {
		t.Errorf("%d topics", n)
	}
}

func TestDeletionCanBeDisabled(t *testing.T) {
	b := newBroker(t, "delete.topic.enable=false")
	ask[*kmsg.CreateTopicsResponse](t, b, creation(nil, topicOf("kept", 1, 1)), 7)
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis, req.TopicNames = 1000, []string{"kept"}
	req.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: ptr("kept")}}
	for v := int16(1); v <= 6; v++ {
		want := wire.TopicDeletionDisabled
		if v < 3 {
			want = wire.InvalidRequest
		}
		resp := ask[*kmsg.DeleteTopicsResponse](t, b, req, v)
		if len(resp.Topics) != 1 || resp.Topics[0].ErrorCode != int16(want) {
			t.Errorf("v%d: %+v", v, resp.Topics)
		}
	}
	if b.o.Cluster.Image().Topic("kept") == nil {
		t.Error("it is gone")
	}
}

func TestDeletionByIDNamesTheTopicAndARecreatedOneIsAnother(t *testing.T) {
	b := newBroker(t)
	create := func() [16]byte {
		return ask[*kmsg.CreateTopicsResponse](t, b, creation(nil, topicOf("t", 1, 1)), 7).Topics[0].TopicID
	}
	first := create()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis, req.Topics = 5000, []kmsg.DeleteTopicsRequestTopic{{TopicID: first}}
	resp := ask[*kmsg.DeleteTopicsResponse](t, b, req, 6)
	if r := resp.Topics[0]; r.ErrorCode != 0 || r.Topic == nil || *r.Topic != "t" || r.TopicID != first {
		t.Fatalf("%+v", r)
	}
	if second := create(); second == first {
		t.Error("the id was used again")
	}
	if r := ask[*kmsg.DeleteTopicsResponse](t, b, req, 6).Topics[0]; r.ErrorCode != int16(wire.UnknownTopicID) {
		t.Errorf("%+v", r)
	}
}

func TestCreationListsEveryConfigOfTheTopic(t *testing.T) {
	b := newBroker(t)
	req := creation(nil, topicOf("t", 1, 1, with("flush.ms", ptr("7")), with("flush.ms", ptr("8"))))
	created := ask[*kmsg.CreateTopicsResponse](t, b, req, 7).Topics[0]
	describe := kmsg.NewPtrDescribeConfigsRequest()
	describe.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: 2, ResourceName: "t"}}
	described := ask[*kmsg.DescribeConfigsResponse](t, b, describe, 4).Resources[0]
	if len(created.Configs) != len(described.Configs) || len(created.Configs) < 30 {
		t.Fatalf("%d configs, %d described", len(created.Configs), len(described.Configs))
	}
	for i, c := range created.Configs {
		d := described.Configs[i]
		if c.Name != d.Name || *c.Value != *d.Value || c.Source != int8(d.Source) {
			t.Errorf("created with %s=%s from %d, described as %s=%s from %d", c.Name, *c.Value, c.Source, d.Name, *d.Value, d.Source)
		}
		if c.Name == "flush.ms" && *c.Value != "8" {
			t.Errorf("flush.ms is %s", *c.Value)
		}
	}
}

func TestDescribedConfigsHaveDocumentationAndSynonymsOnlyWhenAsked(t *testing.T) {
	b := newBroker(t)
	for _, asked := range []bool{false, true} {
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.IncludeDocumentation, req.IncludeSynonyms = asked, asked
		for kind, name := range map[kmsg.ConfigResourceType]string{4: "1", 32: "g"} {
			req.Resources = append(req.Resources, kmsg.DescribeConfigsRequestResource{ResourceType: kind, ResourceName: name})
		}
		for _, r := range ask[*kmsg.DescribeConfigsResponse](t, b, req, 4).Resources {
			if r.ErrorCode != 0 || len(r.Configs) < 17 {
				t.Fatalf("%+v", r)
			}
			synonyms := 0
			for _, c := range r.Configs {
				synonyms += len(c.ConfigSynonyms)
				if (c.Documentation != nil) != asked {
					t.Errorf("%s %s %s: documentation is %v", r.ResourceType, r.ResourceName, c.Name, c.Documentation)
				}
			}
			if (synonyms > 0) != asked {
				t.Errorf("%d synonyms", synonyms)
			}
		}
	}
}

func TestEveryGroupKeyHasAValue(t *testing.T) {
	b := newBroker(t)
	for _, e := range describeGroup(b.o.Config.DescribeBroker(nil, nil)) {
		if e.Value == "" || e.Null || e.Doc == "" || e.Source == 0 || e.Type == 0 || e.ReadOnly || len(e.Synonyms) == 0 {
			t.Errorf("%+v", e)
		}
	}
}

func TestOneRequestDescribesABoundedNumberOfConfigs(t *testing.T) {
	b := newBroker(t)
	req := kmsg.NewPtrDescribeConfigsRequest()
	for i := range maxDescribed/len(groupKeys) + 2 {
		req.Resources = append(req.Resources, kmsg.DescribeConfigsRequestResource{ResourceType: 32, ResourceName: fmt.Sprint(i), ConfigNames: []string{"none"}})
	}
	resp := ask[*kmsg.DescribeConfigsResponse](t, b, req, 4)
	first, last := resp.Resources[0], resp.Resources[len(req.Resources)-1]
	if first.ErrorCode != 0 || last.ErrorCode != int16(wire.InvalidRequest) || *last.ErrorMessage == "" {
		t.Errorf("%+v %+v", first, last)
	}
}

func TestABrokerHasOneName(t *testing.T) {
	b := newBroker(t)
	for _, name := range []string{"01", "+1", " 1", "-1", "2", "4294967297"} {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: 4, ResourceName: name, Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "log.retention.ms", Value: ptr("1")}}}}
		if r := ask[*kmsg.IncrementalAlterConfigsResponse](t, b, req, 1).Resources[0]; r.ErrorCode != int16(wire.InvalidRequest) {
			t.Errorf("%q: %+v", name, r)
		}
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	b := newBroker(t)
	set := kmsg.NewPtrIncrementalAlterConfigsRequest()
	set.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: 4, ResourceName: "1", Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{
		{Name: "listener.name.x.ssl.key.password", Value: ptr("geheim")}}}}
	changed := ask[*kmsg.IncrementalAlterConfigsResponse](t, b, set, 1).Resources[0]
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.IncludeSynonyms = true
	req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: 4, ResourceName: "1"}}
	for _, c := range ask[*kmsg.DescribeConfigsResponse](t, b, req, 4).Resources[0].Configs {
		if c.IsSensitive && c.Value != nil || c.Value != nil && *c.Value == "geheim" {
			t.Errorf("%s=%s", c.Name, *c.Value)
		}
		for _, s := range c.ConfigSynonyms {
			if s.Value != nil && *s.Value == "geheim" {
				t.Errorf("%s has %s=%s behind it", c.Name, s.Name, *s.Value)
			}
		}
	}
	if changed.ErrorMessage != nil && strings.Contains(*changed.ErrorMessage, "geheim") {
		t.Error(*changed.ErrorMessage)
	}
}

func TestDynamicDefaultsReachTheNextTopic(t *testing.T) {
	b := newBroker(t)
	set := kmsg.NewPtrIncrementalAlterConfigsRequest()
	set.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: 4, Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{
		{Name: "log.flush.interval.messages", Value: ptr("5")}}}}
	if r := ask[*kmsg.IncrementalAlterConfigsResponse](t, b, set, 1).Resources[0]; r.ErrorCode != 0 {
		t.Fatalf("%d %s", r.ErrorCode, *r.ErrorMessage)
	}
	ask[*kmsg.CreateTopicsResponse](t, b, creation(nil, topicOf("t", 1, 1), topicOf("own", 1, 1, with("flush.messages", ptr("6")), with("flush.ms", ptr("70")))), 7)
	im := b.o.Cluster.Image()
	if p := im.Topic("t").Partitions[0]; p.FlushMessages != 5 || p.FlushMs != math.MaxInt64 || p.MinISR != 1 {
		t.Errorf("%+v", p)
	}
	if p := im.Topic("own").Partitions[0]; p.FlushMessages != 6 || p.FlushMs != 70 {
		t.Errorf("%+v", p)
	}
}

func TestLoggersGroupsAndClientMetricsAreRefusedHonestly(t *testing.T) {
	b := newBroker(t)
	codes := map[kmsg.ConfigResourceType]wire.Code{8: wire.InvalidConfig, 16: wire.InvalidRequest, 32: wire.InvalidConfig}
	for kind, want := range codes {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kind, ResourceName: "1", Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "x", Value: ptr("1")}}}}
		r := ask[*kmsg.IncrementalAlterConfigsResponse](t, b, req, 1).Resources[0]
		if r.ErrorCode != int16(want) || r.ErrorMessage == nil {
			t.Errorf("%s: %+v", kind, r)
		}
	}
}

// threeBrokers is an image with a topic that is led by broker 1, by a broker on another listener, by one that
// is fenced, and by nobody.
func threeBrokers(t *testing.T) *metadata.Image {
	t.Helper()
	dir := wire.UUID{1}
	broker := func(id int32, listener string, fenced bool) metadata.Change {
		return metadata.Change{Key: metadata.BrokerKey(id), Value: metadata.EncodeBroker(&metadata.Broker{ID: id, Epoch: 1, Fenced: fenced, DirIDs: []wire.UUID{dir},
			Rack: fmt.Sprint("rack", id), Listeners: []metadata.Endpoint{{Name: listener, Host: fmt.Sprint("host", id), Port: uint16(id), Protocol: "PLAINTEXT"}}})}
	}
	partition := func(leader int32, dirs ...wire.UUID) metadata.Partition {
		return metadata.Partition{Replicas: []int32{1, 2, 3, 4}, ISR: []int32{1, 2, 3}, Dirs: dirs, Leader: leader, LeaderEpoch: 5, MinISR: 1, ELR: []int32{4}}
	}
	lost := wire.UUID{9}
	ps := []metadata.Partition{partition(1, dir, dir, dir, dir), partition(2, lost, wire.UUID{}, dir, dir), partition(3, dir, dir, dir, dir), partition(-1, dir, dir, dir, dir)}
	id := wire.UUID{7}
	im, err := metadata.FromSnapshot([]metadata.Change{
		broker(1, "", false), broker(2, "OTHER", false), broker(3, "", true),
		{Key: metadata.StaticKey(id, 0), Value: metadata.EncodeStatic(ps)}, {Key: metadata.DynamicKey(id, 0), Value: metadata.EncodeDynamic(ps)},
		{Key: metadata.TopicKey(id), Value: metadata.EncodeTopic("t", len(ps))},
	})
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func TestPartitionsAreSeenThroughTheListenerOfTheClient(t *testing.T) {
	im := threeBrokers(t)
	b := newBroker(t)
	rc := &requestContext{conn: b.conn, table: b.Table, row: b.rows[kmsg.Metadata.Int16()]}
	topic := im.Topic("t")
	for _, c := range []struct {
		partition int
		version   int16
		code      wire.Code
		leader    int32
		replicas  []int32
		offline   []int32
	}{
		{0, 13, wire.None, 1, []int32{1, 2, 3, 4}, []int32{2, 3, 4}},
		{0, 0, wire.ReplicaNotAvailable, 1, []int32{1}, []int32{2, 3, 4}},
		{1, 13, wire.ListenerNotFound, -1, []int32{1, 2, 3, 4}, []int32{1, 2, 3, 4}},
		{1, 6, wire.ListenerNotFound, -1, []int32{1, 2, 3, 4}, []int32{1, 2, 3, 4}},
		{1, 5, wire.LeaderNotAvailable, -1, []int32{1, 2, 3, 4}, []int32{1, 2, 3, 4}},
		{2, 13, wire.None, 3, []int32{1, 2, 3, 4}, []int32{2, 3, 4}},
		{3, 13, wire.LeaderNotAvailable, -1, []int32{1, 2, 3, 4}, []int32{2, 3, 4}},
	} {
		m := &metadataRequest{rc: rc, req: &kmsg.MetadataRequest{Version: c.version}, im: im}
		got := m.partition(int32(c.partition), &topic.Partitions[c.partition])
		if got.ErrorCode != int16(c.code) || got.Leader != c.leader || !slices.Equal(got.Replicas, c.replicas) || !slices.Equal(got.OfflineReplicas, c.offline) || got.LeaderEpoch != 5 {
			t.Errorf("partition %d v%d: %+v", c.partition, c.version, got)
		}
	}
	described := describedTopic(rc, im, topic, 1, 3)
	if len(described.Partitions) != 2 || !slices.Equal(described.Partitions[0].EligibleLeaderReplicas, []int32{4}) || described.Partitions[0].LeaderID != -1 {
		t.Errorf("%+v", described)
	}
	if rc.controllerFor(im) != 1 {
		t.Errorf("controller %d", rc.controllerFor(im))
	}
}

// serveNetwork puts a broker behind a real socket.
func serveNetwork(t *testing.T) string {
	t.Helper()
	b := newBroker(t)
	s, err := network.Listen(network.Options{Listeners: []network.Listener{{Name: "", Addr: "127.0.0.1:0"}}, Service: b.Table, Log: b.o.Log})
	if err != nil {
		t.Fatal(err)
	}
	s.Serve()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.Close(ctx)
	})
	return s.Addrs()[0].Addr.String()
}

func TestAnAdminClientDoesItsWork(t *testing.T) {
	addr := serveNetwork(t)
	// The metadata names port 9092, where nobody is; a seed does not follow it.
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	seed := client.SeedBrokers()[0]
	ctx := t.Context()
	request := func(req kmsg.Request) kmsg.Response {
		t.Helper()
		resp, err := seed.Request(ctx, req)
		if err != nil {
			t.Fatalf("%s: %v", kmsg.NameForKey(req.Key()), err)
		}
		return resp
	}
	if r := request(creation(nil, topicOf("t", 3, 1))).(*kmsg.CreateTopicsResponse); r.Topics[0].ErrorCode != 0 {
		t.Fatalf("%+v", r.Topics)
	}
	m := request(metadataFor("t")).(*kmsg.MetadataResponse)
	if len(m.Topics) != 1 || len(m.Topics[0].Partitions) != 3 || m.Brokers[0].NodeID != 1 {
		t.Fatalf("%+v", m)
	}
	if r := request(kmsg.NewPtrDescribeClusterRequest()).(*kmsg.DescribeClusterResponse); len(r.Brokers) != 1 || r.ControllerID != 1 {
		t.Fatalf("%+v", r)
	}
}
