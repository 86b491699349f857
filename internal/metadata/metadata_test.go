package metadata

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"moldau/internal/acl"
	"moldau/internal/quota"
	"moldau/internal/wire"
)

func someIDs(r *rand.Rand) []int32 {
	var ids []int32
	for range r.IntN(4) {
		ids = append(ids, r.Int32()-r.Int32())
	}
	return ids
}

func someUUID(r *rand.Rand) (u wire.UUID) {
	for i := range u {
		u[i] = byte(r.Uint32())
	}
	return u
}

func somePartition(r *rand.Rand) Partition {
	p := Partition{
		Replicas: someIDs(r), Adding: someIDs(r), Removing: someIDs(r), ISR: someIDs(r), ELR: someIDs(r), LastKnownELR: someIDs(r),
		Leader: r.Int32N(5) - 1, LeaderEpoch: r.Int32(), PartitionEpoch: r.Int32(), MinISR: r.Int32N(3),
		FlushMessages: r.Int64(), FlushMs: -r.Int64(), Recovering: r.IntN(2) == 0,
	}
	for range p.Replicas {
		p.Dirs = append(p.Dirs, someUUID(r))
	}
	return p
}

func someEntry(r *rand.Rand) acl.Entry {
	return acl.Entry{Principal: fmt.Sprint("User:", r.IntN(3)), Host: "*", Operation: acl.Operation(2 + r.IntN(14)), Permission: acl.Permission(2 + r.IntN(2))}
}

// somePart may be absent; its name holds what a key is cut by, and what is not text.
func somePart(r *rand.Rand) quota.Part {
	switch r.IntN(4) {
	case 0:
		return quota.Part{}
	case 1:
		return quota.Default
	}
	name := make([]byte, 1+r.IntN(3))
	for i := range name {
		if name[i] = byte(r.Uint32()); r.IntN(2) == 0 {
			name[i] = "/*=-%\x00"[r.IntN(6)]
		}
	}
	return quota.Named(string(name))
}

// someQuota is an entity and its limits.
func someQuota(r *rand.Rand) (e quota.Entity, l quota.Limits) {
	for e.Problem() != "" {
		e = quota.Entity{User: somePart(r), ClientID: somePart(r)}
		if r.IntN(3) == 0 {
			e = quota.Entity{IP: somePart(r)}
		}
	}
	for l.Empty() {
		for k := range quota.Keys {
			if e.Has(k) && r.IntN(2) == 0 {
				l = l.With(k, []float64{r.Float64() + 0.1, 1, math.Inf(1)}[r.IntN(3)])
			}
		}
	}
	return e, l
}

func someToken(r *rand.Rand) *DelegationToken {
	t := &DelegationToken{Owner: fmt.Sprint("User:", r.Int()), Requester: "User:r", IssuedMs: r.Int64(), ExpiresMs: r.Int64(), MaxMs: -r.Int64()}
	for range r.IntN(3) {
		t.Renewers = append(t.Renewers, fmt.Sprint("User:", r.Int()))
	}
	return t
}

func TestValuesReadBackAsTheyWereWritten(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	same := func(want, got any, err error) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(want, got) {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
	}
	for range 300 {
		n := 1 + r.IntN(ChunkPartitions)
		ps := make([]Partition, n)
		for i := range ps {
			ps[i] = somePartition(r)
		}
		var got [ChunkPartitions]Partition
		a, errA := decodeStatic(EncodeStatic(ps), &got)
		b, errB := decodeDynamic(EncodeDynamic(ps), &got)
		same(n, a, errA)
		same(n, b, errB)
		same(ps, got[:n], nil)
		broker := &Broker{ID: r.Int32(), Epoch: r.Int64(), Incarnation: someUUID(r), Rack: fmt.Sprint(r.Int()), Fenced: r.IntN(2) == 0, ShuttingDown: r.IntN(2) == 0}
		for range r.IntN(3) {
			broker.Listeners = append(broker.Listeners, Endpoint{"PLAINTEXT", "host", uint16(r.Uint32()), "SASL_SSL"})
			broker.DirIDs = append(broker.DirIDs, someUUID(r))
		}
		gotBroker, err := decodeBroker(EncodeBroker(broker))
		same(broker, gotBroker, err)
		conf := map[string]string{}
		levels := map[string]int16{}
		for range r.IntN(4) {
			conf[fmt.Sprint(r.Int())] = fmt.Sprint(r.Int())
			levels[fmt.Sprint(r.Int())] = int16(r.Uint32())
		}
		gotConf, err := decodeConfig(EncodeConfig(conf))
		same(conf, gotConf, err)
		gotCluster, err := decodeCluster(EncodeCluster("id", levels, 7))
		same(clusterRecord{"id", levels, 7}, gotCluster, err)
		gotTopic, err := decodeTopic(EncodeTopic("t", n))
		same(topicRecord{"t", n}, gotTopic, err)
		head := Head{Seq: 1 + r.Int64(), Batch: []byte{1, 2}}
		gotHead, err := DecodeHead(EncodeHead(head))
		same(head, gotHead, err)
		ctl := ControllerRecord{r.Int32(), someUUID(r)}
		gotCtl, err := DecodeController(EncodeController(ctl))
		same(ctl, gotCtl, err)
		pattern := acl.Pattern{Type: acl.ResourceType(2 + r.IntN(6)), Kind: acl.PatternType(3 + r.IntN(2)), Name: fmt.Sprint("a/", r.Int(), "/\x00")}
		gotPattern, err := aclPatternOf(strings.TrimPrefix(ACLKey(pattern), aclPrefix))
		same(pattern, gotPattern, err)
		entries := []acl.Entry{someEntry(r), someEntry(r)}
		gotEntries, err := decodeACL(pattern, EncodeACL(entries))
		same(entries, gotEntries, err)
		entity, limits := someQuota(r)
		gotEntity, err := quotaEntityOf(strings.TrimPrefix(QuotaKey(entity), quotaPrefix))
		same(entity, gotEntity, err)
		gotLimits, err := decodeQuota(entity, EncodeQuota(limits))
		same(limits, gotLimits, err)
		token := someToken(r)
		gotToken, err := decodeToken(EncodeToken(token))
		same(token, gotToken, err)
		next := r.Int64()
		gotNext, err := decodeProducerID(EncodeProducerID(next))
		same(next, gotNext, err)
	}
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	id := someUUID(r)
	p := []Partition{somePartition(r), somePartition(r)}
	for k, v := range map[string][]byte{
		StaticKey(id, 3): EncodeStatic(p), DynamicKey(id, 0): EncodeDynamic(p), TopicKey(id): EncodeTopic("t", 2),
		BrokerKey(1): EncodeBroker(&Broker{ID: 1, Listeners: []Endpoint{{}}, DirIDs: []wire.UUID{id}}), HeadKey: EncodeHead(Head{Seq: 1, Batch: []byte("b")}),
		ConfigKey(TopicConfig, "t"): EncodeConfig(map[string]string{"a": "b"}), ClusterKey: EncodeCluster("c", map[string]int16{"f": 1}, 1),
		ACLKey(acl.Pattern{Type: acl.Group, Kind: acl.Prefixed, Name: "a/b"}):     EncodeACL([]acl.Entry{someEntry(r)}),
		QuotaKey(quota.Entity{User: quota.Named("a/b"), ClientID: quota.Default}): EncodeQuota(quota.Limits{}.With(quota.ProducerByteRate, 1024)),
		TokenKey("id"): EncodeToken(someToken(r)),
		ProducerIDKey:  EncodeProducerID(1000), ControllerKey: EncodeController(ControllerRecord{Broker: 1}),
	} {
		f.Add(k, v)
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		if _, err := FromSnapshot([]Change{{Key: key, Value: value}}); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrSequence) {
			t.Fatal(err)
		}
		if _, err := Empty().Apply([]Change{{Key: key, Value: value}, {Key: HeadKey, Value: EncodeHead(Head{Seq: 1})}}); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrSequence) {
			t.Fatal(err)
		}
	})
}

// model is the store as a map, with random batches that keep it well-formed.
type model struct {
	r     *rand.Rand
	kv    map[string][]byte
	seq   int64
	parts map[wire.UUID]int // published partitions, 0 for a draft
	ids   []wire.UUID
	names int

	limited []quota.Entity
}

func (m *model) chunks(id wire.UUID, n int, put func(string, []byte)) {
	for from := 0; from < n; from += ChunkPartitions {
		ps := make([]Partition, min(n-from, ChunkPartitions))
		for i := range ps {
			ps[i] = somePartition(m.r)
		}
		put(StaticKey(id, from/ChunkPartitions), EncodeStatic(ps))
		put(DynamicKey(id, from/ChunkPartitions), EncodeDynamic(ps))
	}
}

func (m *model) batch() []Change {
	changes := map[string]Change{}
	put := func(k string, v []byte) { changes[k] = Change{Key: k, Value: v} }
	del := func(k string) {
		if _, ok := m.kv[k]; ok {
			changes[k] = Change{Key: k, Deleted: true}
		}
	}
	if m.r.IntN(10) == 0 {
		if m.r.IntN(2) == 0 {
			put(ControllerKey, EncodeController(ControllerRecord{Broker: m.r.Int32N(9)}))
		} else {
			del(ControllerKey)
		}
		return m.commit(changes)
	}
	m.seq++
	put(HeadKey, EncodeHead(Head{Seq: m.seq, Batch: []byte{byte(m.seq)}}))
	switch m.r.IntN(12) {
	case 10:
		e, l := someQuota(m.r)
		if len(m.limited) > 3 { // again, or no more
			e = m.limited[m.r.IntN(len(m.limited))]
			l = quota.Limits{}.With(quota.ConnectionCreationRate, float64(m.seq))
			if !e.Has(quota.ConnectionCreationRate) {
				l = quota.Limits{}.With(quota.RequestPercentage, float64(m.seq))
			}
		}
		m.limited = append(m.limited, e)
		if m.r.IntN(3) > 0 {
			put(QuotaKey(e), EncodeQuota(l))
		} else {
			del(QuotaKey(e))
		}
	case 11:
		k := TokenKey(fmt.Sprint("token", m.r.IntN(4)))
		if m.r.IntN(3) > 0 {
			put(k, EncodeToken(someToken(m.r)))
		} else {
			del(k)
		}
	case 9:
		k := ACLKey(acl.Pattern{Type: acl.Topic, Kind: acl.Literal, Name: fmt.Sprint("t", m.r.IntN(3))})
		if m.r.IntN(3) > 0 {
			put(k, EncodeACL([]acl.Entry{someEntry(m.r), someEntry(m.r)}))
		} else {
			del(k)
		}
	case 0, 1: // a topic in one batch, with some unpublished partitions
		id, n := someUUID(m.r), 1+m.r.IntN(200)
		m.chunks(id, n+m.r.IntN(80), put)
		m.names++
		put(TopicKey(id), EncodeTopic(fmt.Sprintf("t%d", m.names), n))
		m.parts[id], m.ids = n, append(m.ids, id)
	case 2: // a draft
		id := someUUID(m.r)
		m.chunks(id, 1+m.r.IntN(100), put)
		m.parts[id], m.ids = 0, append(m.ids, id)
	case 3:
		put(BrokerKey(m.r.Int32N(3)), nil)
		for k := range maps.Keys(changes) {
			if k != HeadKey {
				id := m.r.Int32N(3)
				delete(changes, k)
				put(BrokerKey(id), EncodeBroker(&Broker{ID: id, Epoch: m.seq}))
			}
		}
	case 4:
		del(BrokerKey(m.r.Int32N(3)))
	case 5:
		k := ConfigKey(TopicConfig, fmt.Sprint("t", m.r.IntN(3)))
		if m.r.IntN(2) == 0 {
			put(k, EncodeConfig(map[string]string{"a": fmt.Sprint(m.seq)}))
		} else {
			del(k)
		}
	case 6:
		put(ProducerIDKey, EncodeProducerID(m.seq*1000))
		put(ClusterKey, EncodeCluster("c", map[string]int16{"f": int16(m.seq)}, m.seq))
	default:
		m.changeTopic(put, del)
	}
	return m.commit(changes)
}

func (m *model) changeTopic(put func(string, []byte), del func(string)) {
	if len(m.ids) == 0 {
		return
	}
	i := m.r.IntN(len(m.ids))
	id := m.ids[i]
	published := m.parts[id]
	switch m.r.IntN(3) {
	case 0: // the record goes, the chunks stay or go
		del(TopicKey(id))
		m.parts[id] = 0
		if m.r.IntN(2) == 0 {
			for chunk := range 6 {
				del(StaticKey(id, chunk))
				del(DynamicKey(id, chunk))
			}
			m.ids = slices.Delete(m.ids, i, i+1)
		}
	case 1: // all chunks are rewritten
		m.chunks(id, published+1, put)
	default: // more partitions
		if published > 0 {
			m.parts[id] = published + 1 + m.r.IntN(70)
			m.chunks(id, m.parts[id], put)
			put(TopicKey(id), EncodeTopic(m.nameOf(id), m.parts[id]))
		}
	}
}

func (m *model) nameOf(id wire.UUID) string {
	r, err := decodeTopic(m.kv[TopicKey(id)])
	if err != nil {
		panic(err)
	}
	return r.name
}

func (m *model) commit(changes map[string]Change) []Change {
	var batch []Change
	for _, c := range changes {
		batch = append(batch, c)
		if c.Deleted {
			delete(m.kv, c.Key)
		} else {
			m.kv[c.Key] = c.Value
		}
	}
	return batch
}

func (m *model) snapshot() []Change {
	var all []Change
	for k, v := range m.kv {
		all = append(all, Change{Key: k, Value: v})
	}
	return all
}

func TestSnapshotEqualsFoldOfBatches(t *testing.T) {
	for range 5 {
		seed := rand.Uint64()
		m := &model{r: rand.New(rand.NewPCG(seed, 0)), kv: map[string][]byte{}, parts: map[wire.UUID]int{}}
		folded := Empty()
		type past struct{ image, want *Image }
		var history []past
		for step := range 50 {
			next, err := folded.Apply(m.batch())
			if err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			folded = next
			fresh, err := FromSnapshot(m.snapshot())
			if err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			if !reflect.DeepEqual(folded, fresh) {
				t.Fatalf("seed %d step %d: fold and snapshot differ\n%+v\n%+v", seed, step, folded, fresh)
			}
			for topic := range folded.Topics() {
				if folded.Topic(topic.Name) != topic || folded.TopicByID(topic.ID) != topic {
					t.Fatalf("seed %d: topic %q is not found", seed, topic.Name)
				}
			}
			for token := range folded.DelegationTokens() {
				if folded.DelegationToken(token.ID) != token {
					t.Fatalf("seed %d: token %q is not found", seed, token.ID)
				}
			}
			history = append(history, past{folded, fresh})
		}
		for i, h := range history { // nothing later has changed an older image
			if !reflect.DeepEqual(h.image, h.want) {
				t.Fatalf("seed %d: image %d has changed", seed, i)
			}
		}
	}
}

func TestApplyRefusesAGap(t *testing.T) {
	head := func(n int64) Change { return Change{Key: HeadKey, Value: EncodeHead(Head{Seq: n})} }
	im, err := Empty().Apply([]Change{head(1)})
	if err != nil {
		t.Fatal(err)
	}
	for name, batch := range map[string][]Change{
		"gap": {head(3)}, "repeat": {head(1)}, "no sequence": {{Key: ProducerIDKey, Value: EncodeProducerID(1)}}, "head deleted": {{Key: HeadKey, Deleted: true}},
	} {
		if _, err := im.Apply(batch); !errors.Is(err, ErrSequence) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if next, err := im.Apply([]Change{{Key: ControllerKey, Value: EncodeController(ControllerRecord{Broker: 7})}}); err != nil || next.Controller() != 7 || next.Seq() != 1 {
		t.Errorf("the controller's key: %v", err)
	}
}

func TestRecordWithoutItsChunksIsCorrupt(t *testing.T) {
	id, other := wire.UUID{1}, wire.UUID{2}
	p := []Partition{{Replicas: []int32{1}}}
	static, dynamic := Change{Key: StaticKey(id, 0), Value: EncodeStatic(p)}, Change{Key: DynamicKey(id, 0), Value: EncodeDynamic(p)}
	record := Change{Key: TopicKey(id), Value: EncodeTopic("t", 1)}
	for name, kvs := range map[string][]Change{
		"no dynamic chunk": {record, static}, "no static chunk": {record, dynamic},
		"too few partitions":    {static, dynamic, {Key: TopicKey(id), Value: EncodeTopic("t", 2)}},
		"one name, two ids":     {static, dynamic, record, {Key: StaticKey(other, 0), Value: static.Value}, {Key: DynamicKey(other, 0), Value: dynamic.Value}, {Key: TopicKey(other), Value: record.Value}},
		"unknown key":           {{Key: Prefix + "zz", Value: []byte{1}}},
		"a token without an id": {{Key: TokenKey(""), Value: EncodeToken(&DelegationToken{})}},
		"newer value":           {{Key: ProducerIDKey, Value: []byte{2, 0}}},
	} {
		if _, err := FromSnapshot(kvs); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A quota that cannot be is not taken for another one, and the error names its key.
func TestCorruptQuotaIsNamed(t *testing.T) {
	user, ip := quota.Entity{User: quota.Named("u")}, quota.Entity{IP: quota.Named("::1")}
	one := func(k quota.Key, v float64) []byte { return EncodeQuota(quota.Limits{}.With(k, v)) }
	good := one(quota.ProducerByteRate, 1)
	twice := append(append(encoder{valueVersion, 2}, good[2:]...), good[2:]...)
	other := append(encoder{valueVersion, 1, 1, 'x'}, good[len(good)-8:]...)
	for name, c := range map[string]Change{
		"no limits":           {Key: QuotaKey(user), Value: EncodeQuota(quota.Limits{})},
		"zero":                {Key: QuotaKey(user), Value: one(quota.ProducerByteRate, 0)},
		"negative":            {Key: QuotaKey(user), Value: one(quota.ProducerByteRate, -1)},
		"not a number":        {Key: QuotaKey(user), Value: one(quota.ProducerByteRate, math.NaN())},
		"twice":               {Key: QuotaKey(user), Value: twice},
		"unknown key":         {Key: QuotaKey(user), Value: other},
		"short":               {Key: QuotaKey(user), Value: good[:len(good)-1]},
		"connections of user": {Key: QuotaKey(user), Value: one(quota.ConnectionCreationRate, 1)},
		"bytes of an ip":      {Key: QuotaKey(ip), Value: good},
		"nobody":              {Key: quotaPrefix + "-/-/-", Value: good},
		"user and ip":         {Key: quotaPrefix + "=u/-/=::1", Value: good},
		"empty name":          {Key: quotaPrefix + "=/-/-", Value: good},
		"other spelling":      {Key: quotaPrefix + "=%75/-/-", Value: good},
		"bad escape":          {Key: quotaPrefix + "=%7/-/-", Value: good},
		"two parts":           {Key: quotaPrefix + "=u/-", Value: good},
		"four parts":          {Key: quotaPrefix + "=u/-/-/-", Value: good},
		"long name":           {Key: QuotaKey(quota.Entity{User: quota.Named(strings.Repeat("u", quota.MaxNameBytes+1))}), Value: good},
	} {
		if _, err := FromSnapshot([]Change{c}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), fmt.Sprintf("%q", c.Key)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if im, err := FromSnapshot([]Change{{Key: QuotaKey(user), Value: good}}); err != nil || im.Quotas().Of(user) != (quota.Limits{}).With(quota.ProducerByteRate, 1) {
		t.Errorf("a good one: %v", err)
	}
	if !Empty().Quotas().Of(user).Empty() {
		t.Error("an empty image has quotas")
	}
}

func BenchmarkApplyToTenThousandTopics(b *testing.B) {
	var kvs []Change
	var id wire.UUID
	p := []Partition{{Replicas: []int32{1}, ISR: []int32{1}}}
	for i := range 10_000 {
		id[0], id[1] = byte(i), byte(i>>8)
		kvs = append(kvs, Change{Key: StaticKey(id, 0), Value: EncodeStatic(p)}, Change{Key: DynamicKey(id, 0), Value: EncodeDynamic(p)}, Change{Key: TopicKey(id), Value: EncodeTopic(fmt.Sprint("t", i), 1)})
	}
	im, err := FromSnapshot(append(kvs, Change{Key: HeadKey, Value: EncodeHead(Head{Seq: 1})}))
	if err != nil {
		b.Fatal(err)
	}
	batch := []Change{{Key: DynamicKey(id, 0), Value: EncodeDynamic(p)}, {Key: HeadKey, Value: EncodeHead(Head{Seq: 2})}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := im.Apply(batch); err != nil {
			b.Fatal(err)
		}
	}
}
