package metastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

// patience bounds what may hang. It is no measure of speed.
const patience = time.Minute

// stores runs one test on both implementations, each on an empty store.
func stores(t *testing.T, f func(t *testing.T, s Store)) {
	t.Run("sim", func(t *testing.T) {
		s := NewSim().Open()
		defer s.Close()
		f(t, s)
	})
	t.Run("embedded", func(t *testing.T) {
		s := openTemp(t, t.TempDir())
		defer s.Close()
		f(t, s)
	})
}

func openTemp(t *testing.T, dir string) Store {
	t.Helper()
	s, err := OpenEmbedded(EmbeddedOptions{Dir: dir, Tick: 10 * time.Millisecond, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func mustTxn(t *testing.T, s Store, conds []Cond, ops ...Op) Result {
	t.Helper()
	r, err := s.Txn(ctxOf(t), conds, ops)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func next(t *testing.T, c <-chan Event) Event {
	t.Helper()
	select {
	case ev, ok := <-c:
		if !ok {
			t.Fatal("watch closed without a reason")
		}
		return ev
	case <-time.After(patience):
		t.Fatal("no event")
		return Event{}
	}
}

func dump(t *testing.T, s Store, prefix string) ([]KV, int64) {
	t.Helper()
	kvs, rev, err := s.Snapshot(ctxOf(t), prefix)
	if err != nil {
		t.Fatal(err)
	}
	for i := range kvs {
		if len(kvs[i].Value) == 0 {
			kvs[i].Value = nil
		}
	}
	return kvs, rev
}

func TestTxnAppliesAllOrNothing(t *testing.T) {
	stores(t, func(t *testing.T, s Store) {
		r1 := mustTxn(t, s, []Cond{IfAbsent("a")}, Put("a", []byte("1")), Put("b", []byte("2")))
		if !r1.Succeeded || r1.Revision != 2 {
			t.Fatalf("first txn: %+v", r1)
		}
		if r := mustTxn(t, s, []Cond{IfAbsent("a")}, Put("c", nil)); r.Succeeded || r.Revision != 2 {
			t.Fatalf("txn on a present key: %+v", r)
		}
		for _, c := range []struct {
			cond Cond
			want bool
		}{
			{IfCreatedAt("a", 2), true}, {IfCreatedAt("a", 1), false}, {IfModifiedAt("b", 2), true}, {IfModifiedAt("x", 0), true},
			{IfValue("b", []byte("2")), true}, {IfValue("b", []byte("3")), false}, {IfValue("x", nil), false}, {IfAbsent("x"), true},
		} {
			if r := mustTxn(t, s, []Cond{c.cond}); r.Succeeded != c.want {
				t.Errorf("%+v: %v", c.cond, r.Succeeded)
			}
		}
		r := mustTxn(t, s, nil, DeletePrefix("a"), Put("b", []byte("3")))
		kvs, rev := dump(t, s, "")
		if rev != r.Revision || len(kvs) != 1 || kvs[0].CreateRevision != 2 || kvs[0].ModRevision != rev {
			t.Fatalf("%+v at %d", kvs, rev)
		}
	})
}

func TestTxnRefusesWhatEtcdWouldRefuse(t *testing.T) {
	stores(t, func(t *testing.T, s Store) {
		many := make([]Op, MaxTxnOps+1)
		for i := range many {
			many[i] = Put(fmt.Sprint("k", i), nil)
		}
		for name, ops := range map[string][]Op{
			"too many": many, "too large": {Put("a", make([]byte, MaxTxnBytes))}, "empty key": {Put("", nil)},
			"twice": {Put("a", nil), Put("a", nil)}, "put and delete": {Put("a", nil), Delete("a")},
			"put and prefix": {DeletePrefix("a"), Put("ab", nil)}, "empty prefix": {DeletePrefix("")},
		} {
			if _, err := s.Txn(ctxOf(t), nil, ops); !errors.Is(err, ErrInvalid) || !Definite(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := s.Txn(ctxOf(t), nil, []Op{PutWithLease("a", nil, 12345)}); !errors.Is(err, ErrLeaseNotFound) {
			t.Errorf("unknown lease: %v", err)
		}
		mustTxn(t, s, nil, many[:MaxTxnOps]...)
		mustTxn(t, s, nil, Put("big", make([]byte, MaxTxnBytes-3)))
	})
}

func TestWatchDeliversEveryRevisionOnceInOrder(t *testing.T) {
	stores(t, func(t *testing.T, s Store) {
		ctx := ctxOf(t)
		mustTxn(t, s, nil, Put("p/a", []byte("1")), Put("q", nil))
		old := s.Watch(ctx, "p/", 2)
		live := s.Watch(ctx, "p/", 3)
		mustTxn(t, s, nil, Put("q", []byte("outside")))
		mustTxn(t, s, nil, Put("p/b", []byte("2")), Delete("p/a"))
		if ev := next(t, old); ev.Revision != 2 || len(ev.Changes) != 1 || ev.Changes[0].Key != "p/a" {
			t.Fatalf("%+v", ev)
		}
		for _, w := range []<-chan Event{old, live} {
			ev := next(t, w)
			if ev.Revision != 4 || len(ev.Changes) != 2 || ev.Err != nil {
				t.Fatalf("%+v", ev)
			}
			if c := ev.Changes[0]; c.Key != "p/b" || c.Deleted || string(c.Value) != "2" || c.CreateRevision != 4 {
				t.Fatalf("%+v", c)
			}
			if c := ev.Changes[1]; c.Key != "p/a" || !c.Deleted || c.Value != nil {
				t.Fatalf("%+v", c)
			}
		}
	})
}

func TestWatchEndsWithItsContextOrItsStore(t *testing.T) {
	stores(t, func(t *testing.T, s Store) {
		ctx, cancel := context.WithCancel(ctxOf(t))
		w := s.Watch(ctx, "p/", 1)
		cancel()
		for ev := range w {
			if ev.Err == nil {
				t.Fatalf("%+v", ev)
			}
		}
		w = s.Watch(ctxOf(t), "p/", 1)
		go s.Close()
		if ev := next(t, w); !errors.Is(ev.Err, ErrClosed) {
			t.Fatalf("%+v", ev)
		}
		if ev := next(t, s.Watch(ctxOf(t), "p/", 1)); !errors.Is(ev.Err, ErrClosed) {
			t.Fatalf("%+v", ev)
		}
		if _, err := s.Txn(ctxOf(t), nil, nil); !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
	})
}

func TestLeaseTakesItsKeysWithIt(t *testing.T) {
	stores(t, func(t *testing.T, s Store) {
		ctx := ctxOf(t)
		l, err := s.Grant(ctx, time.Hour) // it must not expire by itself
		if err != nil {
			t.Fatal(err)
		}
		mustTxn(t, s, nil, PutWithLease("a", []byte("1"), l), PutWithLease("b", nil, l), Put("c", nil))
		if kvs, _ := dump(t, s, "a"); kvs[0].Lease != l {
			t.Fatalf("%+v", kvs)
		}
		if err := s.KeepAlive(ctx, l); err != nil {
			t.Fatal(err)
		}
		w := s.Watch(ctx, "", 3)
		if err := s.Revoke(ctx, l); err != nil {
			t.Fatal(err)
		}
		if ev := next(t, w); ev.Revision != 3 || len(ev.Changes) != 2 || !ev.Changes[0].Deleted {
			t.Fatalf("%+v", ev)
		}
		if err := s.KeepAlive(ctx, l); !errors.Is(err, ErrLeaseNotFound) {
			t.Fatal(err)
		}
		if err := s.Revoke(ctx, l); !errors.Is(err, ErrLeaseNotFound) {
			t.Fatal(err)
		}
		if kvs, _ := dump(t, s, ""); len(kvs) != 1 || kvs[0].Key != "c" {
			t.Fatalf("%+v", kvs)
		}
	})
}

func TestEndedContextAnswersAtOnce(t *testing.T) {
	stores(t, func(t *testing.T, s Store) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Txn(ctx, nil, []Op{Put("a", nil)}); !errors.Is(err, ErrUnavailable) || Definite(err) {
			t.Fatal(err)
		}
	})
}

// TestSimEqualsEtcd sends the same random transactions to both.
func TestSimEqualsEtcd(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	sim, etcd := NewSim().Open(), openTemp(t, t.TempDir())
	defer sim.Close()
	defer etcd.Close()
	ctx := ctxOf(t)
	simWatch, etcdWatch := sim.Watch(ctx, "k", 2), etcd.Watch(ctx, "k", 2)
	key := func() string { return fmt.Sprintf("k%d/%d", rnd.IntN(3), rnd.IntN(4)) }
	var events int
	last := int64(1)
	for range 600 {
		var conds []Cond
		for range rnd.IntN(2) {
			conds = append(conds, []Cond{IfAbsent(key()), IfCreatedAt(key(), last), IfModifiedAt(key(), last), IfValue(key(), []byte{byte(rnd.IntN(3))})}[rnd.IntN(4)])
		}
		var ops []Op
		for range rnd.IntN(5) {
			switch rnd.IntN(6) {
			case 0:
				ops = append(ops, Delete(key()))
			case 1:
				ops = append(ops, DeletePrefix(key()[:2]))
			default:
				ops = append(ops, Put(key(), []byte{byte(rnd.IntN(3))}))
			}
		}
		a, errA := sim.Txn(ctx, conds, ops)
		b, errB := etcd.Txn(ctx, conds, ops)
		if a != b || (errA == nil) != (errB == nil) || errors.Is(errA, ErrInvalid) != errors.Is(errB, ErrInvalid) {
			t.Fatalf("%+v %+v: sim %+v %v, etcd %+v %v", conds, ops, a, errA, b, errB)
		}
		if errA == nil && a.Revision > last {
			events++
			last = a.Revision
		}
	}
	kvA, revA := dump(t, sim, "k")
	kvB, revB := dump(t, etcd, "k")
	if revA != revB || !reflect.DeepEqual(kvA, kvB) {
		t.Fatalf("sim %d %+v\netcd %d %+v", revA, kvA, revB, kvB)
	}
	for range events {
		a, b := next(t, simWatch), next(t, etcdWatch)
		if a.Revision != b.Revision || len(a.Changes) != len(b.Changes) {
			t.Fatalf("sim %+v\netcd %+v", a, b)
		}
		for i, c := range a.Changes {
			d := b.Changes[i]
			if c.Key != d.Key || c.Deleted != d.Deleted || !bytes.Equal(c.Value, d.Value) || c.CreateRevision != d.CreateRevision || c.ModRevision != d.ModRevision {
				t.Fatalf("sim %+v\netcd %+v", a, b)
			}
		}
	}
}

func TestSimFaults(t *testing.T) {
	sim := NewSim()
	s := sim.Open()
	defer s.Close()
	ctx := ctxOf(t)
	broken := errors.New("no answer")
	sim.SetFaults(func(c SimCall) SimFault { return SimFault{Broken: broken} })
	if _, err := s.Txn(ctx, nil, []Op{Put("a", nil)}); err != broken {
		t.Fatal(err)
	}
	sim.SetFaults(func(c SimCall) SimFault { return SimFault{Lost: broken} })
	if _, err := s.Txn(ctx, nil, []Op{Put("b", nil)}); err != broken {
		t.Fatal(err)
	}
	sim.SetFaults(func(c SimCall) SimFault {
		if c.Name == "txn" {
			return SimFault{Late: 2}
		}
		return SimFault{}
	})
	if _, err := s.Txn(ctx, nil, []Op{Put("late", nil)}); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	sim.SetFaults(nil)
	if kvs, _ := dump(t, s, "late"); len(kvs) != 0 {
		t.Fatal("the late call has arrived too early")
	}
	if kvs, _ := dump(t, s, "late"); len(kvs) != 1 {
		t.Fatal("the late call has not arrived")
	}
	mustTxn(t, s, nil, Delete("late"))
	if kvs, _ := dump(t, s, ""); len(kvs) != 1 || kvs[0].Key != "a" {
		t.Fatalf("%+v", kvs)
	}
	l, _ := s.Grant(ctx, time.Second)
	mustTxn(t, s, nil, PutWithLease("c", nil, l))
	w := s.Watch(ctx, "", sim.Revision()+1)
	sim.Advance(999 * time.Millisecond)
	sim.Advance(time.Millisecond)
	if ev := next(t, w); len(ev.Changes) != 1 || !ev.Changes[0].Deleted {
		t.Fatalf("%+v", ev)
	}
	sim.LoseWatches()
	if ev := next(t, w); !errors.Is(ev.Err, ErrWatchLost) {
		t.Fatalf("%+v", ev)
	}
	sim.Compact(4)
	if ev := next(t, s.Watch(ctx, "", 2)); !errors.Is(ev.Err, ErrCompacted) {
		t.Fatalf("%+v", ev)
	}
	other := sim.Open()
	defer other.Close()
	if kvs, _ := dump(t, other, ""); len(kvs) != 1 || !strings.HasPrefix(kvs[0].Key, "a") {
		t.Fatalf("state is not shared: %+v", kvs)
	}
}
