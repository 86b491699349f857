package controller

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"moldau/internal/acl"
	"moldau/internal/wire"
)

func allowRule(name, who string, op acl.Operation) acl.Binding {
	return acl.Binding{Pattern: acl.Pattern{Type: acl.Topic, Kind: acl.Literal, Name: name}, Entry: acl.Entry{Principal: who, Host: "*", Operation: op, Permission: acl.Allow}}
}

func everyRule() acl.Filter {
	return acl.Filter{Type: acl.AnyResource, Kind: acl.AnyPattern, Operation: acl.AnyOperation, Permission: acl.AnyPermission}
}

func TestACLsAnswerAsKafka(t *testing.T) {
	w := newWorld(t, 1)
	a, b := allowRule("t", "User:a", acl.Read), allowRule("t", "User:b", acl.Write)
	bad := allowRule("t", "nobody", acl.Read)
	cluster := acl.Binding{Pattern: acl.Pattern{Type: acl.Cluster, Kind: acl.Literal, Name: "x"}, Entry: a.Entry}
	p, rs := CreateACLs(w.im, []acl.Binding{a, bad, b, cluster, a})
	w.apply(p)
	for i, want := range []wire.Code{wire.None, wire.InvalidRequest, wire.None, wire.InvalidRequest, wire.None} {
		if rs[i].Code != want {
			t.Errorf("%d: %+v", i, rs[i])
		}
	}
	if got := w.im.ACLs().Find(everyRule()); !slices.Equal(got, []acl.Binding{a, b}) {
		t.Fatalf("%v", got)
	}
	if p, rs := CreateACLs(w.im, []acl.Binding{a}); len(p.Steps) != 0 || rs[0].Code != wire.None {
		t.Errorf("one that is there: %+v %+v", p, rs)
	}
	none := everyRule()
	none.Kind = 9
	onlyA := everyRule()
	onlyA.Principal = value("User:a")
	p, rs = DeleteACLs(w.im, []acl.Filter{none, onlyA, onlyA})
	if rs[0].Code != wire.InvalidRequest || rs[0].Message != "Unknown patternFilter." || !slices.Equal(rs[1].Deleted, []acl.Binding{a}) || !slices.Equal(rs[2].Deleted, rs[1].Deleted) {
		t.Errorf("%+v", rs)
	}
	w.apply(p)
	p, _ = DeleteACLs(w.im, []acl.Filter{everyRule()})
	w.apply(p)
	if w.im.ACLs() != nil {
		t.Errorf("%v stay", w.im.ACLs().Find(everyRule()))
	}
	w.folded()
}

func TestACLsAreBounded(t *testing.T) {
	w := newWorld(t, 1)
	var many []acl.Binding
	for i := range MaxACLChanges + 1 {
		many = append(many, allowRule(fmt.Sprint("t", i%7), fmt.Sprint("User:", i), acl.Read))
	}
	p, rs := CreateACLs(w.im, many)
	if n := len(many) - 1; rs[n-1].Code != wire.None || rs[n].Code != wire.PolicyViolation {
		t.Errorf("%+v %+v", rs[n-1], rs[n])
	}
	w.apply(p)
	p, _ = CreateACLs(w.im, many[MaxACLChanges:])
	w.apply(p)
	if _, rs := DeleteACLs(w.im, []acl.Filter{everyRule()}); rs[0].Code != wire.PolicyViolation {
		t.Errorf("%+v", rs)
	}
	long := allowRule("long", "User:"+strings.Repeat("x", 30_000), acl.Read)
	var fat []acl.Binding
	for i := range 40 {
		long.Principal = fmt.Sprint(long.Principal, i)
		fat = append(fat, long)
	}
	p, rs = CreateACLs(w.im, fat)
	w.apply(p)
	if rs[30].Code != wire.None || rs[39].Code != wire.PolicyViolation {
		t.Errorf("more than a value holds: %v %v", rs[30].Code, rs[39].Code)
	}
}

// TestACLsAreASet creates and deletes at random beside a set of rules.
func TestACLsAreASet(t *testing.T) {
	for range 10 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(t, 1)
		model := map[acl.Binding]bool{}
		some := func() acl.Binding {
			return allowRule(fmt.Sprint("t", r.IntN(3)), fmt.Sprint("User:", r.IntN(3)), acl.Operation(2+r.IntN(3)))
		}
		for step := range 60 {
			old := w.im.ACLs().Find(everyRule())
			before := w.im
			if r.IntN(3) > 0 {
				bs := []acl.Binding{some(), some(), some()}
				p, _ := CreateACLs(w.im, bs)
				for _, b := range bs {
					model[b] = true
				}
				w.apply(p)
			} else {
				f := everyRule()
				b := some()
				switch r.IntN(3) {
				case 0:
					f.Name = &b.Name
				case 1:
					f.Principal, f.Operation = &b.Principal, b.Operation
				default:
					f.Type, f.Kind, f.Name, f.Principal = b.Type, b.Kind, &b.Name, &b.Principal
				}
				p, rs := DeleteACLs(w.im, []acl.Filter{f})
				var want []acl.Binding
				for b := range model {
					if f.Matches(b) {
						want = append(want, b)
						delete(model, b)
					}
				}
				slices.SortFunc(want, acl.Binding.Compare)
				if !slices.Equal(rs[0].Deleted, want) {
					t.Fatalf("seed %d step %d: %v, expected %v", seed, step, rs[0].Deleted, want)
				}
				w.apply(p)
			}
			var want []acl.Binding
			for b := range model {
				want = append(want, b)
			}
			slices.SortFunc(want, acl.Binding.Compare)
			if got := w.im.ACLs().Find(everyRule()); !slices.Equal(got, want) {
				t.Fatalf("seed %d step %d: %v, expected %v", seed, step, got, want)
			}
			if !reflect.DeepEqual(before.ACLs().Find(everyRule()), old) {
				t.Fatalf("seed %d step %d: an older image has changed", seed, step)
			}
		}
		w.folded()
	}
}
