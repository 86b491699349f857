package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/metastore"
	"moldau/internal/wire"
	"moldau/test/leak"
)

func testPolicy() controller.Policy {
	return controller.Policy{
		IsList:   func(metadata.ConfigKind, string) (bool, string) { return false, "" },
		Validate: func(metadata.ConfigKind, string, map[string]string) (wire.Code, string) { return wire.None, "" },
		Effective: func(topic, _ map[string]string) controller.Effective {
			return controller.Effective{MinISR: 1, FlushMessages: int64(len(topic["flush"]) + 1), FlushMs: -1}
		},
	}
}

func options(s metastore.Store) Options {
	return Options{
		Store: s, NodeID: 1, DirIDs: []wire.UUID{{0: 1, 15: 9}}, Policy: testPolicy(), Exclusive: true,
		Listeners:  []metadata.Endpoint{{Name: "PLAINTEXT", Host: "localhost", Port: 9092, Protocol: "PLAINTEXT"}},
		SessionTTL: time.Second, TryTimeout: 50 * time.Millisecond, DecisionTimeout: 20 * time.Second,
	}
}

func open(t *testing.T, o Options) *Cluster {
	t.Helper()
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newTopic(name string, partitions int32) controller.NewTopic {
	return controller.NewTopic{Name: name, Partitions: partitions, ReplicationFactor: 1}
}

func (c *Cluster) mustCreate(t *testing.T, topics ...controller.NewTopic) {
	t.Helper()
	for _, r := range c.CreateTopics(t.Context(), topics, false) {
		if r.Code != wire.None {
			t.Fatalf("%+v", r)
		}
		if c.Image().TopicByID(r.ID) == nil {
			t.Fatalf("%q is acknowledged but not in the image", r.Name)
		}
	}
}

// restarts is the life of a broker over two restarts on any store.
func restarts(t *testing.T, start func() (metastore.Store, func())) {
	var id string
	var epoch, lastProducer int64 = 0, -1
	for n := range int32(3) {
		s, stop := start()
		o := options(s)
		// A real store may be slow: no lease ends and no call is given up because the machine is busy.
		o.SessionTTL, o.TryTimeout, o.DecisionTimeout = time.Minute, 10*time.Second, 2*time.Minute
		c, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			id = c.ClusterID()
			c.mustCreate(t, newTopic("big", 9_000), newTopic("small", 1))
			value := "xx"
			r := c.IncrementalAlterConfigs(t.Context(), []controller.ConfigAlteration{{Kind: metadata.TopicConfig, Name: "small", Ops: []controller.ConfigOp{{Key: "flush", Value: &value}}}}, false)
			if r[0].Code != wire.None || c.Image().Topic("small").Partitions[0].FlushMessages != 3 {
				t.Fatalf("%+v", r)
			}
		}
		if c.ClusterID() != id || id == "" {
			t.Fatalf("cluster id %q became %q", id, c.ClusterID())
		}
		if c.BrokerEpoch() <= epoch || c.Image().Broker(1).Epoch != c.BrokerEpoch() {
			t.Fatalf("broker epoch %d after %d", c.BrokerEpoch(), epoch)
		}
		epoch = c.BrokerEpoch()
		for _, name := range []string{"big", "small"} {
			for _, p := range c.Image().Topic(name).Partitions {
				if p.LeaderEpoch != n || p.Leader != 1 {
					t.Fatalf("start %d: %+v", n, p)
				}
			}
		}
		for range 1700 {
			pid, err := c.NextProducerID(t.Context())
			if err != nil || pid <= lastProducer {
				t.Fatalf("producer id %d after %d: %v", pid, lastProducer, err)
			}
			lastProducer = pid
		}
		if n == 1 { // as after kill -9: nothing is given back
			stop()
			c.Close()
		} else {
			c.Close()
			stop()
		}
	}
}

func TestRestartsOnSim(t *testing.T) {
	defer leak.Check(t)()
	sim := metastore.NewSim()
	restarts(t, func() (metastore.Store, func()) {
		s := sim.Open()
		return s, func() { s.Close() }
	})
}

func TestRestartsOnEtcd(t *testing.T) {
	defer leak.Check(t)()
	dir := t.TempDir()
	restarts(t, func() (metastore.Store, func()) {
		s, err := metastore.OpenEmbedded(metastore.EmbeddedOptions{Dir: dir, Tick: 10 * time.Millisecond, NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		return s, func() { s.Close() }
	})
}

func TestOpenRefusesAnotherIdentity(t *testing.T) {
	sim := metastore.NewSim()
	s := sim.Open()
	o := options(s)
	o.ClusterID = "first"
	c, err := Open(t.Context(), o)
	if err != nil || c.ClusterID() != "first" {
		t.Fatal(err)
	}
	c.Close()
	rev := sim.Revision()
	for name, f := range map[string]struct {
		change func(*Options)
		want   []string
		code   wire.Code
	}{
		"cluster id":                {func(o *Options) { o.ClusterID = "second" }, []string{"first", "second"}, wire.InconsistentClusterID},
		"node id":                   {func(o *Options) { o.NodeID = 7 }, []string{"7", "node 1"}, wire.InvalidRegistration},
		"node id of a shared store": {func(o *Options) { o.NodeID, o.Exclusive = 7, false }, []string{"7", "broker 1"}, wire.InvalidRegistration},
	} {
		o := options(s)
		f.change(&o)
		c, err := Open(t.Context(), o)
		if err == nil {
			c.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		for _, want := range f.want {
			if !strings.Contains(err.Error(), want) || !errors.Is(err, f.code) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	kvs, _, err := s.Snapshot(t.Context(), metadata.Prefix+"b/")
	if err != nil || len(kvs) != 1 || sim.Revision() < rev {
		t.Errorf("%+v %v", kvs, err)
	}
	s.Close()
}

func TestUnavailableStoreGivesRetriableErrorsInTime(t *testing.T) {
	sim := metastore.NewSim()
	s := sim.Open()
	defer s.Close()
	o := options(s)
	o.DecisionTimeout = 300 * time.Millisecond
	c := openPatiently(t, o)
	for {
		if _, err := c.NextProducerID(t.Context()); err == nil {
			break
		}
	}
	never := make(chan struct{})
	sim.SetFaults(func(metastore.SimCall) metastore.SimFault { return metastore.SimFault{Before: never} })
	r := c.CreateTopics(t.Context(), []controller.NewTopic{newTopic("a", 1), newTopic("b", 1)}, false)
	for i, name := range []string{"a", "b"} {
		if r[i].Name != name || !r[i].Code.Retriable() || r[i].Message == "" {
			t.Errorf("%+v", r[i])
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := c.DeleteTopics(ctx, []controller.TopicRef{{ID: wire.UUID{1}}}); !r[0].Code.Retriable() {
		t.Errorf("%+v", r)
	}
	var err error
	for n := 0; err == nil; n++ {
		if n > 3*controller.ProducerIDBlock {
			t.Fatal("producer ids without end")
		}
		_, err = c.NextProducerID(t.Context())
	}
	if !codeOf(err).Retriable() {
		t.Error(err)
	}
	sim.SetFaults(nil)
	// What was given up may have been applied or not; now everything works again, on a busy machine after some tries.
	for {
		r := c.CreateTopics(t.Context(), []controller.NewTopic{newTopic("a", 1)}, false)[0]
		if r.Code == wire.None || r.Code == wire.TopicAlreadyExists {
			break
		}
		if !r.Code.Retriable() {
			t.Fatalf("%+v", r)
		}
	}
	for {
		if _, err := c.NextProducerID(t.Context()); err == nil {
			break
		}
	}
}

// openPatiently opens a cluster whose decisions have little time, which on a busy machine takes some tries.
func openPatiently(t *testing.T, o Options) *Cluster {
	t.Helper()
	for {
		c, err := Open(t.Context(), o)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			return c
		}
		if !codeOf(err).Retriable() {
			t.Fatal(err)
		}
	}
}

// failing is a store that is gone for good once it is told so.
type failing struct {
	metastore.Store
	failed atomic.Bool
}

func (f *failing) Txn(ctx context.Context, conds []metastore.Cond, ops []metastore.Op) (metastore.Result, error) {
	if f.failed.Load() {
		return metastore.Result{}, fmt.Errorf("%w: the disk is full", metastore.ErrFailed)
	}
	return f.Store.Txn(ctx, conds, ops)
}

func (f *failing) Snapshot(ctx context.Context, prefix string) ([]metastore.KV, int64, error) {
	if f.failed.Load() {
		return nil, 0, fmt.Errorf("%w: the disk is full", metastore.ErrFailed)
	}
	return f.Store.Snapshot(ctx, prefix)
}

// TestFailedStoreIsTold: nobody waits for a store that cannot come back, and who changes topics reads why. A producer that
// wants an id tries again: the restart is to come.
func TestFailedStoreIsTold(t *testing.T) {
	s := &failing{Store: metastore.NewSim().Open()}
	defer s.Close()
	o := options(s)
	o.DecisionTimeout = time.Hour
	c := open(t, o)
	s.failed.Store(true)
	for range 2 {
		r := c.CreateTopics(t.Context(), []controller.NewTopic{newTopic("a", 1)}, false)
		if r[0].Code != wire.UnknownServerError || !strings.Contains(r[0].Message, "until the process is restarted: the disk is full") {
			t.Errorf("%+v", r[0])
		}
	}
	var code wire.Code
	if _, err := c.NextProducerID(t.Context()); !errors.As(err, &code) || !code.Retriable() {
		t.Error(err)
	}
}

// TestDeposedControllerWritesNothing gives the controller's key to another
// broker behind the controller's back.
func TestDeposedControllerWritesNothing(t *testing.T) {
	sim := metastore.NewSim()
	s, other := sim.Open(), sim.Open()
	defer s.Close()
	defer other.Close()
	o := options(s)
	o.DecisionTimeout = 400 * time.Millisecond
	c := openPatiently(t, o)
	foreign, err := other.Grant(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	kvs, _, err := other.Snapshot(t.Context(), metadata.ControllerKey)
	if err != nil || len(kvs) != 1 {
		t.Fatalf("%+v %v", kvs, err)
	}
	sim.SetFaults(func(call metastore.SimCall) metastore.SimFault {
		if call.Name == "grant" { // the old controller cannot campaign
			return metastore.SimFault{Lost: metastore.ErrUnavailable}
		}
		return metastore.SimFault{}
	})
	if err := other.Revoke(t.Context(), kvs[0].Lease); err != nil {
		t.Fatal(err)
	}
	value := metadata.EncodeController(metadata.ControllerRecord{Broker: 2, Incarnation: wire.UUID{2}})
	if r, err := other.Txn(t.Context(), []metastore.Cond{metastore.IfAbsent(metadata.ControllerKey)}, []metastore.Op{metastore.PutWithLease(metadata.ControllerKey, value, foreign)}); err != nil || !r.Succeeded {
		t.Fatal(err)
	}
	rev := sim.Revision()
	if r := c.CreateTopics(t.Context(), []controller.NewTopic{newTopic("a", 1)}, false); !r[0].Code.Retriable() {
		t.Fatalf("%+v", r)
	}
	if sim.Revision() != rev || c.IsController() {
		t.Fatal("a deposed controller has written")
	}
	sim.SetFaults(nil)
	if err := other.Revoke(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	for { // it campaigns again, which on a busy machine takes more than one decision has
		r := c.CreateTopics(t.Context(), []controller.NewTopic{newTopic("a", 1)}, false)[0]
		if r.Code == wire.None || r.Code == wire.TopicAlreadyExists {
			break
		}
		if !r.Code.Retriable() {
			t.Fatalf("%+v", r)
		}
	}
}

func TestStandbyTakesOverWhenTheControllerLeaves(t *testing.T) {
	defer leak.Check(t)()
	sim := metastore.NewSim()
	s1, s2 := sim.Open(), sim.Open()
	defer s1.Close()
	defer s2.Close()
	o := options(s1)
	o.Exclusive = false
	first := open(t, o)
	first.mustCreate(t, newTopic("a", 1))
	o2 := options(s2)
	o2.Exclusive, o2.NodeID, o2.DirIDs, o2.ClusterID = false, 2, []wire.UUID{{2}}, first.ClusterID()
	opened := make(chan *Cluster)
	go func() {
		second, err := Open(t.Context(), o2)
		if err != nil {
			t.Error(err)
		}
		opened <- second
	}()
	first.Close()
	second := <-opened
	if second == nil {
		return
	}
	defer second.Close()
	if im := second.Image(); im.Controller() != 2 || len(im.Brokers()) != 2 || im.Topic("a") == nil || im.ClusterID() != first.ClusterID() {
		t.Errorf("controller %d, %d brokers", im.Controller(), len(im.Brokers()))
	}
	second.mustCreate(t, controller.NewTopic{Name: "b", Partitions: 2, ReplicationFactor: 2})
}

// recorder reads every revision of a Sim, and checks the sequence.
type recorder struct {
	sync.Mutex
	rev int64
	seq int64
	bad error
}

func (r *recorder) run(ctx context.Context, s metastore.Store) {
	for ctx.Err() == nil {
		r.Lock()
		from := r.rev + 1
		r.Unlock()
		for ev := range s.Watch(ctx, metadata.Prefix, from) {
			if ev.Err != nil {
				if !errors.Is(ev.Err, metastore.ErrWatchLost) && ctx.Err() == nil {
					r.Lock()
					r.bad = ev.Err
					r.Unlock()
					return
				}
				break
			}
			r.Lock()
			r.rev = ev.Revision
			for _, ch := range ev.Changes {
				if ch.Key == metadata.HeadKey {
					h, err := metadata.DecodeHead(ch.Value)
					if err != nil || h.Seq != r.seq+1 {
						r.bad = fmt.Errorf("sequence %d after %d: %v", h.Seq, r.seq, err)
					}
					r.seq = h.Seq
				}
			}
			r.Unlock()
		}
	}
}

// TestAcknowledgedIsKeptUnderFaults is the promise of the package: whatever the
// store loses, delays or doubles, exactly what was acknowledged is in the image.
func TestAcknowledgedIsKeptUnderFaults(t *testing.T) {
	defer leak.Check(t)()
	seeds := 8
	if testing.Short() {
		seeds = 5
	}
	base := rand.Uint64()
	for n := range seeds {
		seed := base + uint64(n)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { chaos(t, seed) })
	}
}

func chaos(t *testing.T, seed uint64) {
	sim := metastore.NewSim()
	watcher := sim.Open()
	defer watcher.Close()
	ctx, stop := context.WithCancel(t.Context())
	rec := &recorder{rev: 1}
	var watching sync.WaitGroup
	watching.Go(func() { rec.run(ctx, watcher) })
	defer watching.Wait()
	defer stop()

	s := sim.Open()
	defer s.Close()
	o := options(s)
	o.SessionTTL = 2 * time.Second
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { c.Close() }()
	var mu sync.Mutex // guards faults, and below the acknowledged topics
	faults := rand.New(rand.NewPCG(seed, 1))
	sim.SetFaults(func(call metastore.SimCall) metastore.SimFault {
		mu.Lock()
		defer mu.Unlock()
		switch faults.IntN(12) {
		case 0:
			return metastore.SimFault{Lost: metastore.ErrUnavailable}
		case 1, 2:
			return metastore.SimFault{Broken: metastore.ErrUnavailable}
		case 3:
			if call.Name == "txn" {
				return metastore.SimFault{Late: 1 + faults.IntN(4)}
			}
		}
		return metastore.SimFault{}
	})
	present, unsure := map[string]bool{}, map[string]bool{}
	ids := map[int64]bool{}
	var clients sync.WaitGroup
	for k := range 3 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(10+k)))
			for i := range 8 {
				name := fmt.Sprintf("t%d-%d", k, i)
				got := c.CreateTopics(t.Context(), []controller.NewTopic{newTopic(name, 1+r.Int32N(300))}, false)[0]
				seen := c.Image().Topic(name) != nil
				mu.Lock()
				present[name], unsure[name] = got.Code == wire.None, got.Code != wire.None
				if got.Code == wire.None && !seen {
					t.Errorf("%s is acknowledged but not in the image", name)
				}
				mu.Unlock()
				if pid, err := c.NextProducerID(t.Context()); err == nil {
					mu.Lock()
					if ids[pid] {
						t.Errorf("producer id %d twice", pid)
					}
					ids[pid] = true
					mu.Unlock()
				}
				if r.IntN(3) == 0 {
					del := c.DeleteTopics(t.Context(), []controller.TopicRef{{Name: &name}})[0]
					mu.Lock()
					switch del.Code {
					case wire.None, wire.UnknownTopicOrPartition:
						present[name] = false
						unsure[name] = unsure[name] && del.Code != wire.None
					default:
						unsure[name] = true
					}
					mu.Unlock()
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	trouble(sim, s, rec, rand.New(rand.NewPCG(seed, 2)), done)
	sim.SetFaults(nil)
	c.mustCreate(t, newTopic("last", 1))

	fresh, _, err := c.snapshot(t.Context())
	if err != nil || fresh.Seq() != c.Image().Seq() || !reflect.DeepEqual(topicsOf(fresh), topicsOf(c.Image())) {
		t.Fatalf("the image differs from the store: %v", err)
	}
	for name, want := range present {
		if !unsure[name] && want != (fresh.Topic(name) != nil) {
			t.Errorf("%s: acknowledged %v, present %v", name, want, !want)
		}
	}
	rec.Lock()
	defer rec.Unlock()
	if rec.bad != nil {
		t.Error(rec.bad)
	}
	c.Close()
}

// trouble does to the store what happens to stores, until done.
func trouble(sim *metastore.Sim, s metastore.Store, rec *recorder, r *rand.Rand, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(1+r.IntN(20)) * time.Millisecond):
		}
		switch r.IntN(5) {
		case 0:
			sim.LoseWatches()
		case 1:
			sim.DropEvent(s)
		case 2:
			sim.Advance(3 * time.Second) // all leases expire
		case 3:
			rec.Lock()
			seen := rec.rev
			rec.Unlock()
			sim.Compact(seen)
		}
	}
}

func topicsOf(im *metadata.Image) []*metadata.Topic { return slices.Collect(im.Topics()) }

// TestExpiredTokensAreSweptAway: by the controller, while those that live stay.
func TestExpiredTokensAreSweptAway(t *testing.T) {
	leak.Check(t)
	sim := metastore.NewSim()
	s := sim.Open()
	t.Cleanup(func() { s.Close() })
	o := options(s)
	o.TokenSweep = time.Millisecond
	c := open(t, o)
	create := func(lifeMs int64) *metadata.DelegationToken {
		t.Helper()
		token, err := c.CreateToken(t.Context(), controller.TokenLife{RenewMs: lifeMs, MaxMs: lifeMs}, controller.NewToken{Owner: "User:a", Requester: "User:a"})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	stays := create(time.Hour.Milliseconds())
	if c.Image().DelegationToken(stays.ID) == nil {
		t.Fatal("a token is acknowledged but not in the image")
	}
	ended := create(time.Hour.Milliseconds())
	if r := c.RenewToken(t.Context(), controller.TokenLife{RenewMs: 1, MaxMs: 1}, ended.ID, "User:b", -1); r.Code != wire.DelegationTokenOwnerMismatch {
		t.Fatalf("%+v", r)
	}
	if r := c.ExpireToken(t.Context(), ended.ID, "User:a", 0); r.Code != wire.None {
		t.Fatalf("%+v", r)
	}
	soon := create(1)
	for changed := c.Changed(); c.Image().DelegationToken(soon.ID) != nil || c.Image().DelegationToken(ended.ID) != nil; changed = c.Changed() {
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Fatal("nobody sweeps")
		}
	}
	if r := c.RenewToken(t.Context(), controller.TokenLife{RenewMs: 1 << 20, MaxMs: 1 << 20}, stays.ID, "User:a", -1); r.Code != wire.None {
		t.Errorf("%+v", r)
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	defer leak.Check(t)()
	sim := metastore.NewSim()
	s := sim.Open()
	defer s.Close()
	c := open(t, options(s))
	changed := c.Changed()
	never := make(chan struct{})
	sim.SetFaults(func(call metastore.SimCall) metastore.SimFault { return metastore.SimFault{Before: never} })
	got := make(chan []controller.TopicResult)
	for range 5 {
		go func() { got <- c.CreateTopics(context.Background(), []controller.NewTopic{newTopic("a", 1)}, false) }()
	}
	go c.Close()
	for range 5 {
		if r := <-got; !r[0].Code.Retriable() {
			t.Errorf("%+v", r)
		}
	}
	c.Close()
	if r := c.CreateTopics(context.Background(), []controller.NewTopic{newTopic("a", 1)}, false); !r[0].Code.Retriable() {
		t.Errorf("%+v", r)
	}
	select {
	case <-changed:
		t.Error("the image changed")
	default:
	}
}

func TestNewUUIDIsOneThatKafkaCouldMake(t *testing.T) {
	seen := map[wire.UUID]bool{}
	for range 2000 {
		u := NewUUID()
		if seen[u] || !acceptable(u) {
			t.Fatal(u)
		}
		seen[u] = true
	}
	for _, u := range []wire.UUID{{}, {15: 1}, {15: 99}, {0xf8}, {0xfb}} {
		if acceptable(u) {
			t.Errorf("%v is acceptable", u)
		}
	}
}
