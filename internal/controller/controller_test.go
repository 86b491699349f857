package controller

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// world is a store as a map with the image folded from its changes.
type world struct {
	t    *testing.T
	note string
	kv   map[string][]byte
	im   *metadata.Image
	ids  byte
}

func newWorld(t *testing.T, brokers ...int32) *world {
	w := &world{t: t, kv: map[string][]byte{}, im: metadata.Empty()}
	w.apply(InitCluster(w.im, "c", map[string]int16{"metadata.version": 1}))
	for _, id := range brokers {
		w.register(id)
	}
	return w
}

func (w *world) uuid() wire.UUID {
	w.ids++
	return wire.UUID{0: w.ids, 1: 7, 15: w.ids}
}

func (w *world) register(id int32) *metadata.Broker {
	w.t.Helper()
	p, b, why := RegisterBroker(w.im, Registration{ID: id, ClusterID: "c", Incarnation: w.uuid(), DirIDs: []wire.UUID{{1, byte(id)}, {2, byte(id)}}})
	if why != nil {
		w.t.Fatalf("%s: broker %d: %+v", w.note, id, why)
	}
	w.apply(p)
	return b
}

// apply folds a plan step by step and holds every image to the invariants.
func (w *world) apply(p Plan) {
	w.t.Helper()
	for _, s := range p.Steps {
		if len(s.Writes) == 0 {
			continue
		}
		batch := []metadata.Change{{Key: metadata.HeadKey, Value: metadata.EncodeHead(metadata.Head{Seq: w.im.Seq() + 1})}}
		for _, wr := range s.Writes {
			switch wr.Action {
			case Put:
				batch = append(batch, metadata.Change{Key: wr.Key, Value: wr.Value})
			case Delete:
				batch = append(batch, metadata.Change{Key: wr.Key, Deleted: true})
			default:
				for _, k := range sortedKeys(w.kv) {
					if strings.HasPrefix(k, wr.Key) {
						batch = append(batch, metadata.Change{Key: k, Deleted: true})
					}
				}
			}
		}
		next, err := w.im.Apply(batch)
		if err != nil {
			w.t.Fatalf("%s: %v", w.note, err)
		}
		for _, c := range batch {
			if c.Deleted {
				delete(w.kv, c.Key)
			} else {
				w.kv[c.Key] = c.Value
			}
		}
		w.check(w.im, next)
		w.im = next
	}
}

// check is invariants 1 to 3 of the package.
func (w *world) check(old, im *metadata.Image) {
	w.t.Helper()
	names, ids := map[string]bool{}, map[wire.UUID]bool{}
	for t := range im.Topics() {
		if names[t.Name] || ids[t.ID] {
			w.t.Fatalf("%s: topic %q twice", w.note, t.Name)
		}
		names[t.Name], ids[t.ID] = true, true
		before := old.TopicByID(t.ID)
		for i, p := range t.Partitions {
			subset := func(xs []int32) bool {
				return !slices.ContainsFunc(xs, func(x int32) bool { return !slices.Contains(p.Replicas, x) })
			}
			ok := subset(p.ISR) && subset(p.ELR) && (p.Leader == -1 || slices.Contains(p.ISR, p.Leader)) && (len(p.ISR) > 0 || p.Leader == -1) &&
				(len(p.ISR) < int(p.MinISR) || len(p.ELR) == 0) && p.MinISR >= 1 && int(p.MinISR) <= len(p.Replicas) && len(p.Dirs) == len(p.Replicas) &&
				!slices.ContainsFunc(p.ELR, func(x int32) bool { return slices.Contains(p.ISR, x) })
			if before != nil && i < len(before.Partitions) {
				q := before.Partitions[i]
				step := p.PartitionEpoch - q.PartitionEpoch
				same := reflect.DeepEqual(p, q)
				ok = ok && (same && step == 0 || !same && step == 1) && (p.LeaderEpoch == q.LeaderEpoch || p.LeaderEpoch == q.LeaderEpoch+1) &&
					(p.Leader == q.Leader || p.LeaderEpoch == q.LeaderEpoch+1)
			}
			if !ok {
				w.t.Fatalf("%s: %s-%d: %+v", w.note, t.Name, i, p)
			}
		}
	}
}

// folded compares the image with one made from all keys.
func (w *world) folded() {
	w.t.Helper()
	var kvs []metadata.Change
	for _, k := range sortedKeys(w.kv) {
		kvs = append(kvs, metadata.Change{Key: k, Value: w.kv[k]})
	}
	fresh, err := metadata.FromSnapshot(kvs)
	if err != nil || !reflect.DeepEqual(fresh, w.im) {
		w.t.Fatalf("%s: fold and snapshot differ: %v", w.note, err)
	}
}

func testPolicy() Policy {
	number := func(topic, brokers map[string]string, key string, unset int64) int64 {
		for _, m := range []map[string]string{topic, brokers} {
			if n, err := strconv.ParseInt(m[key], 10, 64); err == nil {
				return n
			}
		}
		return unset
	}
	return Policy{
		IsList: func(_ metadata.ConfigKind, key string) (bool, string) { return key == "cleanup.policy", "delete" },
		Validate: func(_ metadata.ConfigKind, _ string, set map[string]string) (wire.Code, string) {
			for k := range set {
				if strings.HasPrefix(k, "bad") {
					return wire.InvalidConfig, "Unknown topic config name: " + k
				}
			}
			return wire.None, ""
		},
		Effective: func(topic, brokers map[string]string) Effective {
			return Effective{MinISR: int32(number(topic, brokers, "min.insync.replicas", 1)), FlushMessages: number(topic, brokers, "flush.messages", 1), FlushMs: -1}
		},
	}
}

func (w *world) create(ts ...NewTopic) []TopicResult {
	w.t.Helper()
	for i := range ts {
		ts[i].ID = w.uuid()
	}
	p, rs := CreateTopics(w.im, testPolicy(), ts, false)
	w.apply(p)
	return rs
}

func topic(name string, partitions int32, rf int16) NewTopic {
	return NewTopic{Name: name, Partitions: partitions, ReplicationFactor: rf, DefaultPartitions: 3, DefaultReplicationFactor: 1}
}

func TestCreateTopicsAnswersAsKafka(t *testing.T) {
	w := newWorld(t, 1, 2)
	if rs := w.create(topic("a.b", -1, -1)); rs[0].Code != wire.None || rs[0].Partitions != 3 || rs[0].ReplicationFactor != 1 {
		t.Fatalf("%+v", rs)
	}
	manual := func(as ...Assignment) NewTopic { q := topic("m", -1, -1); q.Assignments = as; return q }
	both := manual(Assignment{0, []int32{1}})
	both.ReplicationFactor = 1
	both2 := manual(Assignment{0, []int32{1}})
	both2.Partitions = 1
	bad := topic("b", 1, 1)
	bad.Configs = map[string]string{"bad": ""}
	long := strings.Repeat("x", 250)
	for _, c := range []struct {
		topic   NewTopic
		code    wire.Code
		message string
	}{
		{topic("a.b", 1, 1), wire.TopicAlreadyExists, "Topic 'a.b' already exists."},
		{topic("a_b", 1, 1), wire.InvalidTopicException, "Topic 'a_b' collides with existing topic: a.b"},
		{topic("", 1, 1), wire.InvalidTopicException, "Topic name is invalid: the empty string is not allowed"},
		{topic("..", 1, 1), wire.InvalidTopicException, "Topic name is invalid: '..' is not allowed"},
		{topic("ä", 1, 1), wire.InvalidTopicException, "Topic name is invalid: 'ä' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"},
		{topic(long, 1, 1), wire.InvalidTopicException, "Topic name is invalid: the length of '" + long + "' is longer than the max allowed length 249"},
		{topic("__cluster_metadata", 1, 1), wire.InvalidRequest, "Creation of internal topic __cluster_metadata is prohibited."},
		{topic("x", 0, 1), wire.InvalidPartitions, "Number of partitions was set to an invalid non-positive value."},
		{topic("x", 1, 0), wire.InvalidReplicationFactor, "Replication factor must be larger than 0, or -1 to use the default value."},
		{topic("x", 1, 3), wire.InvalidReplicationFactor, "Unable to replicate the partition 3 time(s): The target replication factor of 3 cannot be reached because only 2 broker(s) are registered or some brokers have all their log directories cordoned."},
		{topic("x", 10_001, 1), wire.PolicyViolation, "Excessively large number of partitions per request."},
		{bad, wire.InvalidConfig, "Unknown topic config name: bad"},
		{both, wire.InvalidRequest, "A manual partition assignment was specified, but replication factor was not set to -1."},
		{both2, wire.InvalidRequest, "A manual partition assignment was specified, but numPartitions was not set to -1."},
		{manual(Assignment{0, []int32{1}}, Assignment{0, []int32{2}}), wire.InvalidReplicaAssignment, "Found multiple manual partition assignments for partition 0"},
		{manual(Assignment{0, nil}), wire.InvalidReplicaAssignment, "The manual partition assignment includes an empty replica list."},
		{manual(Assignment{0, []int32{3}}), wire.InvalidReplicaAssignment, "The manual partition assignment includes broker 3, but no such broker is registered."},
		{manual(Assignment{0, []int32{2, 2}}), wire.InvalidReplicaAssignment, "The manual partition assignment includes the broker 2 more than once."},
		{manual(Assignment{0, []int32{2}}, Assignment{1, []int32{2, 1}}), wire.InvalidReplicaAssignment, "The manual partition assignment includes a partition with 2 replica(s), but this is not consistent with previous partitions, which have 1 replica(s)."},
		{manual(Assignment{1, []int32{2}}), wire.InvalidReplicaAssignment, "partitions should be a consecutive 0-based integer sequence"},
	} {
		if rs := w.create(c.topic); rs[0].Code != c.code || rs[0].Message != c.message || !rs[0].ID.IsZero() {
			t.Errorf("%q: %+v, want %d %q", c.topic.Name, rs[0], c.code, c.message)
		}
	}
	rs := w.create(topic("d", 1, 1), topic("ok", 65, 2), topic("d", 1, 1))
	if rs[0].Code != wire.InvalidRequest || rs[0].Message != "Duplicate topic name." || rs[2].Code != wire.InvalidRequest || rs[1].Code != wire.None {
		t.Errorf("%+v", rs)
	}
	if rs := w.create(manual(Assignment{1, []int32{1, 2}}, Assignment{0, []int32{2, 1}})); rs[0].Code != wire.None || w.im.Topic("m").Partitions[0].Leader != 2 {
		t.Errorf("%+v", rs)
	}
	seq := w.im.Seq()
	p, rs := CreateTopics(w.im, testPolicy(), []NewTopic{topic("v", 2, 2)}, true)
	if len(p.Steps) > 0 || rs[0].Code != wire.None || rs[0].Partitions != 2 || w.im.Seq() != seq {
		t.Errorf("validateOnly: %+v %+v", p, rs)
	}
	if got := w.im.Topic("ok"); len(got.Partitions) != 65 || len(got.Partitions[64].ISR) != 2 {
		t.Errorf("%+v", got)
	}
}

func TestPlacementSpreadsLeadersAndReplicas(t *testing.T) {
	w := newWorld(t, 1, 2, 3, 4, 5)
	w.create(topic("t", 100, 3))
	leads, holds, pairs := map[int32]int{}, map[int32]int{}, map[[2]int32]int{}
	for _, p := range w.im.Topic("t").Partitions {
		leads[p.Leader]++
		seen := map[int32]bool{}
		for _, r := range p.Replicas {
			if seen[r] {
				t.Fatalf("%v", p.Replicas)
			}
			seen[r] = true
			holds[r]++
			pairs[[2]int32{p.Leader, r}]++
		}
	}
	for id := int32(1); id <= 5; id++ {
		if leads[id] != 20 || holds[id] != 60 {
			t.Errorf("broker %d leads %d and holds %d", id, leads[id], holds[id])
		}
		for other := int32(1); other <= 5; other++ {
			if pairs[[2]int32{id, other}] == 0 {
				t.Errorf("broker %d never follows %d", other, id)
			}
		}
	}
}

func TestDeleteTopicsLeavesNothing(t *testing.T) {
	w := newWorld(t, 1)
	before := sortedKeys(w.kv)
	a := topic("a", 130, 1)
	a.Configs = map[string]string{"k": "v"}
	rs := w.create(a, topic("b", 1, 1))
	name, gone := "a", "gone"
	refs := []TopicRef{{Name: &name}, {ID: rs[1].ID}, {Name: &gone}, {ID: wire.UUID{9}}, {}, {Name: &name, ID: wire.UUID{1}}}
	p, del := DeleteTopics(w.im, refs)
	w.apply(p)
	for i, want := range []wire.Code{wire.None, wire.None, wire.UnknownTopicOrPartition, wire.UnknownTopicID, wire.InvalidRequest, wire.InvalidRequest} {
		if del[i].Code != want {
			t.Errorf("%d: %+v", i, del[i])
		}
	}
	if after := sortedKeys(w.kv); !slices.Equal(before, after) {
		t.Errorf("left behind: %v", after)
	}
	if del[1].Name != "b" || del[0].ID != rs[0].ID {
		t.Errorf("%+v", del)
	}
}

func TestCreatePartitionsAnswersAsKafka(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.create(topic("t", 63, 1))
	for _, c := range []struct {
		q       NewPartitions
		code    wire.Code
		message string
	}{
		{NewPartitions{Name: "t", Count: 63}, wire.InvalidPartitions, "Topic already has 63 partition(s)."},
		{NewPartitions{Name: "t", Count: 3}, wire.InvalidPartitions, "The topic t currently has 63 partition(s); 3 would not be an increase."},
		{NewPartitions{Name: "u", Count: 3}, wire.UnknownTopicOrPartition, ""},
		{NewPartitions{Name: "t", Count: 65, Assignments: [][]int32{{1}}}, wire.InvalidReplicaAssignment, "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified."},
		{NewPartitions{Name: "t", Count: 64, Assignments: [][]int32{{1, 2}}}, wire.InvalidReplicaAssignment, "The manual partition assignment includes a partition with 2 replica(s), but this is not consistent with previous partitions, which have 1 replica(s)."},
		{NewPartitions{Name: "t", Count: 66, Assignments: [][]int32{{1}, {2}, {1}}}, wire.None, ""},
		{NewPartitions{Name: "t", Count: 200}, wire.None, ""},
	} {
		p, rs := CreatePartitions(w.im, testPolicy(), []NewPartitions{c.q}, false)
		w.apply(p)
		if rs[0].Code != c.code || rs[0].Message != c.message {
			t.Errorf("%+v: %+v", c.q, rs[0])
		}
	}
	ps := w.im.Topic("t").Partitions
	if len(ps) != 200 || ps[64].Leader != 2 || ps[0].PartitionEpoch != 0 {
		t.Errorf("%d %+v", len(ps), ps[64])
	}
	w.folded()
}

func value(s string) *string { return &s }

func TestConfigsAnswerAsKafka(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.create(topic("t", 1, 2))
	alter := func(kind metadata.ConfigKind, name string, ops ...ConfigOp) ConfigResult {
		p, rs := IncrementalAlterConfigs(w.im, testPolicy(), []ConfigAlteration{{kind, name, ops}}, false)
		w.apply(p)
		return rs[0]
	}
	topicKind := metadata.TopicConfig
	for _, c := range []struct {
		got     ConfigResult
		code    wire.Code
		message string
	}{
		{alter(topicKind, "t", ConfigOp{"cleanup.policy", ConfigAppend, value("compact,delete")}), wire.None, ""},
		{alter(topicKind, "t", ConfigOp{"cleanup.policy", ConfigSubtract, value("delete")}, ConfigOp{"min.insync.replicas", ConfigSet, value("2")}), wire.None, ""},
		{alter(topicKind, "t", ConfigOp{"x", ConfigAppend, value("1")}), wire.InvalidConfig, "Can't APPEND to key x because its type is not LIST."},
		{alter(topicKind, "t", ConfigOp{"x", ConfigSet, nil}), wire.InvalidRequest, "Null value not supported for : x"},
		{alter(topicKind, "t", ConfigOp{"x", ConfigSet, value("1")}, ConfigOp{"x", ConfigDelete, nil}), wire.InvalidRequest, "Error due to duplicate config keys"},
		{alter(topicKind, "t", ConfigOp{"y", ConfigSet, value("1")}, ConfigOp{"bad", ConfigSet, value("1")}), wire.InvalidConfig, "Unknown topic config name: bad"},
		{alter(topicKind, "u", ConfigOp{"x", ConfigSet, value("1")}), wire.UnknownTopicOrPartition, "The topic 'u' does not exist."},
		{alter(metadata.BrokerConfig, "", ConfigOp{"flush.messages", ConfigSet, value("9")}), wire.None, ""},
		{alter(metadata.BrokerConfig, "1", ConfigOp{"a", ConfigSet, value("9")}), wire.None, ""},
		{alter(metadata.BrokerConfig, "x", ConfigOp{"a", ConfigSet, value("9")}), wire.InvalidRequest, "Unable to parse broker name as a base 10 number."},
	} {
		if c.got.Code != c.code || c.got.Message != c.message {
			t.Errorf("%+v, want %d %q", c.got, c.code, c.message)
		}
	}
	if got, want := w.im.Config(topicKind, "t"), map[string]string{"cleanup.policy": "compact", "min.insync.replicas": "2"}; !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if p := w.im.Topic("t").Partitions[0]; p.MinISR != 2 || p.FlushMessages != 9 || p.PartitionEpoch != 2 || p.LeaderEpoch != 0 {
		t.Errorf("%+v", p)
	}
	p, rs := AlterConfigs(w.im, testPolicy(), []ConfigAlteration{{topicKind, "t", []ConfigOp{{Key: "flush.messages", Value: value("5")}}}}, false)
	w.apply(p)
	if got := w.im.Config(topicKind, "t"); rs[0].Code != wire.None || !maps.Equal(got, map[string]string{"flush.messages": "5"}) {
		t.Errorf("%+v %v", rs, got)
	}
	if p := w.im.Topic("t").Partitions[0]; p.MinISR != 1 || p.FlushMessages != 5 {
		t.Errorf("%+v", p)
	}
	w.folded()
}

func TestRegistrationRefusesAStranger(t *testing.T) {
	w := newWorld(t, 1)
	old := w.im.Broker(1)
	for name, c := range map[string]struct {
		r    Registration
		code wire.Code
	}{
		"other cluster":            {Registration{ID: 1, ClusterID: "d", DirIDs: old.DirIDs}, wire.InconsistentClusterID},
		"other node, same disks":   {Registration{ID: 2, ClusterID: "c", DirIDs: old.DirIDs[1:]}, wire.InvalidRegistration},
		"same node, other disks":   {Registration{ID: 1, ClusterID: "c", DirIDs: []wire.UUID{{99}}}, wire.DuplicateBrokerRegistration},
		"proof instead of disks":   {Registration{ID: 1, DirIDs: []wire.UUID{{99}}, PreviousIsDead: true}, wire.None},
		"same disks and a new one": {Registration{ID: 1, DirIDs: []wire.UUID{old.DirIDs[0], {99}}}, wire.None},
	} {
		_, b, why := RegisterBroker(w.im, c.r)
		if c.code == wire.None && (why != nil || b.Epoch <= old.Epoch) || c.code != wire.None && (why == nil || why.Code != c.code || why.Message == "") {
			t.Errorf("%s: %+v %+v", name, b, why)
		}
	}
}

func TestEachStartRaisesTheLeaderEpoch(t *testing.T) {
	w := newWorld(t, 1)
	w.create(topic("t", 70, 1))
	for n := int32(1); n < 4; n++ {
		epoch := w.im.Broker(1).Epoch
		if b := w.register(1); b.Epoch <= epoch || w.im.Broker(1).Epoch != b.Epoch {
			t.Fatal("the broker epoch must grow")
		}
		for _, p := range w.im.Topic("t").Partitions {
			if p.Leader != 1 || p.LeaderEpoch != n || p.PartitionEpoch != n || !slices.Equal(p.ISR, []int32{1}) {
				t.Fatalf("%+v", p)
			}
		}
	}
}

func TestRestartedReplicaLeavesTheISRUnlessItIsTheLast(t *testing.T) {
	w := newWorld(t, 1, 2, 3)
	q := topic("t", -1, -1)
	q.Assignments = []Assignment{{0, []int32{1, 2, 3}}}
	q.Configs = map[string]string{"min.insync.replicas": "2"}
	w.create(q)
	w.register(1)
	p := w.im.Topic("t").Partitions[0]
	if p.Leader != 2 || !slices.Equal(p.ISR, []int32{2, 3}) || p.LeaderEpoch != 1 || len(p.ELR) > 0 {
		t.Fatalf("%+v", p)
	}
	w.register(2)
	p = w.im.Topic("t").Partitions[0]
	if p.Leader != 3 || !slices.Equal(p.ISR, []int32{3}) || !slices.Equal(p.LastKnownELR, []int32{2}) {
		t.Fatalf("%+v", p)
	}
	w.register(3)
	p = w.im.Topic("t").Partitions[0]
	if p.Leader != 3 || !slices.Equal(p.ISR, []int32{3}) || p.LeaderEpoch != 3 {
		t.Fatalf("%+v", p)
	}
}

func TestReconcileFinishesWhatWasLeft(t *testing.T) {
	w := newWorld(t, 1)
	w.create(topic("t", 1, 1))
	p, _ := CreateTopics(w.im, testPolicy(), []NewTopic{{Name: "half", ID: wire.UUID{5}, Partitions: 100, ReplicationFactor: 1}}, false)
	p.Steps = p.Steps[:len(p.Steps)-1]
	before := sortedKeys(w.kv)
	w.apply(p)
	if len(w.im.Drafts()) != 1 {
		t.Fatal("no draft")
	}
	other := testPolicy()
	other.Effective = func(_, _ map[string]string) Effective { return Effective{MinISR: 1, FlushMessages: 77} }
	w.apply(Reconcile(w.im, other))
	if after := sortedKeys(w.kv); !slices.Equal(before, after) || w.im.Topic("t").Partitions[0].FlushMessages != 77 {
		t.Fatalf("%v", after)
	}
	if p := Reconcile(w.im, other); len(p.Steps) > 0 {
		t.Fatalf("a second pass changes %+v", p)
	}
}

func TestRandomRequestsKeepTheInvariants(t *testing.T) {
	for range 15 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(t, 1, 2, 3)
		w.note = fmt.Sprintf("seed %d", seed)
		name := func() string { return fmt.Sprint("t", r.IntN(6)) }
		var nextID int64
		for range 60 {
			switch r.IntN(8) {
			case 0, 1:
				q := topic(name(), r.Int32N(140)-1, int16(r.IntN(5)-1))
				if r.IntN(3) == 0 {
					q.Configs = map[string]string{"min.insync.replicas": fmt.Sprint(r.IntN(4))}
				}
				exists := w.im.Topic(q.Name) != nil
				rs := w.create(q, topic(name(), 1, 2))
				if exists && rs[0].Code == wire.None || !exists && rs[0].Code == wire.None && w.im.Topic(q.Name) == nil {
					t.Fatalf("%s: %+v", w.note, rs)
				}
			case 2:
				n := name()
				p, _ := DeleteTopics(w.im, []TopicRef{{Name: &n}})
				w.apply(p)
				if w.im.Topic(n) != nil || w.im.Config(metadata.TopicConfig, n) != nil {
					t.Fatalf("%s: %q stays", w.note, n)
				}
			case 3:
				p, _ := CreatePartitions(w.im, testPolicy(), []NewPartitions{{Name: name(), Count: r.Int32N(300)}}, false)
				w.apply(p)
			case 4:
				w.register(1 + r.Int32N(4))
			case 5:
				p, first, code := AllocateProducerIDs(w.im)
				if code != wire.None || first != nextID {
					t.Fatalf("%s: %d %v", w.note, first, code)
				}
				nextID += ProducerIDBlock
				w.apply(p)
			default:
				a := ConfigAlteration{metadata.TopicConfig, name(), []ConfigOp{{"min.insync.replicas", ConfigOpType(r.IntN(2)), value(fmt.Sprint(r.IntN(4)))}, {"flush.messages", ConfigSet, value(fmt.Sprint(r.IntN(3)))}}}
				if r.IntN(4) == 0 {
					a.Kind, a.Name = metadata.BrokerConfig, ""
				}
				p, _ := IncrementalAlterConfigs(w.im, testPolicy(), []ConfigAlteration{a}, false)
				w.apply(p)
			}
			if p := Reconcile(w.im, testPolicy()); len(p.Steps) > 0 {
				t.Fatalf("%s: something is left to reconcile: %+v", w.note, p)
			}
		}
		w.folded()
	}
}

// TestCoreIsPassive bans what would make a decision depend on anything but its inputs.
func TestCoreIsPassive(t *testing.T) {
	banned := []string{"time", "sync", "os", "net", "math/rand", "math/rand/v2", "crypto/rand", "io", "context", "log/slog", "runtime", "unsafe", "sync/atomic"}
	fset := token.NewFileSet()
	names, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, n := range names {
		if strings.HasSuffix(n.Name(), ".go") && !strings.HasSuffix(n.Name(), "_test.go") {
			f, err := parser.ParseFile(fset, n.Name(), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	conf := types.Config{Importer: emptyImporter{}, Error: func(error) {}}
	conf.Check("controller", fset, files, info) // types of other packages stay unknown; those of maps here do not
	for _, f := range files {
		for _, imp := range f.Imports {
			if path, _ := strconv.Unquote(imp.Path.Value); slices.Contains(banned, path) {
				t.Errorf("%s imports %s", fset.Position(imp.Pos()), path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt:
				t.Errorf("%s: goroutines and channels", fset.Position(n.Pos()))
			case *ast.RangeStmt:
				if tv, ok := info.Types[n.X]; ok && tv.Type != nil {
					if _, isMap := tv.Type.Underlying().(*types.Map); isMap {
						t.Errorf("%s ranges over a map: use sortedKeys", fset.Position(n.Pos()))
					}
				}
			}
			return true
		})
	}
}

// emptyImporter gives every import as an empty package.
type emptyImporter struct{}

func (emptyImporter) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, path[strings.LastIndex(path, "/")+1:])
	p.MarkComplete()
	return p, nil
}
