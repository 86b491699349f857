package acl

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// someBinding is a rule of a small world, so that rules meet.
func someBinding(r *rand.Rand) Binding {
	return Binding{
		Pattern{pick(r, Topic, Group, Cluster, User), pick(r, Literal, Prefixed), pick(r, "a", "ab", "abc", "b", "*", "*a", "hard")},
		Entry{pick(r, "User:x", "User:y", "Group:x", Everyone), pick(r, Wildcard, "10.0.0.1", "10.0.0.2", "::1", "somewhere"),
			Operation(2 + r.IntN(operations-2)), pick(r, Allow, Allow, Deny)},
	}
}

func someQuery(r *rand.Rand) Query {
	return Query{
		Principal: pick(r, "User:x", "User:y", "User:z", "Group:x", "User:admin"),
		Host:      netip.MustParseAddr(pick(r, "10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "::1", "10.9.9.9")),
		Operation: Operation(3 + r.IntN(operations-3)),
		Type:      pick(r, Topic, Group, Cluster, User, DelegationToken), Name: pick(r, "a", "ab", "abc", "abcd", "b", "c", "*", "*a", "hardcode"),
	}
}

// slow answers a question as Kafka's documentation tells it, rule by rule.
func slow(r *Rules, rules []Binding, q Query) Decision {
	if r.SuperUsers[q.Principal] {
		return Decision{Allowed: true, Cause: BySuperUser}
	}
	implied := map[Operation][]Operation{Describe: {Read, Write, Delete, Alter}, DescribeConfigs: {AlterConfigs}}
	about, allowed := false, false
	for _, b := range rules {
		if b.Type != q.Type || !(b.Kind == Literal && (b.Name == q.Name || b.Name == "*") || b.Kind == Prefixed && strings.HasPrefix(q.Name, b.Name)) {
			continue
		}
		about = true
		if b.Principal != q.Principal && b.Principal != "User:*" || b.Host != "*" && b.Host != q.Host.Unmap().String() {
			continue
		}
		if b.Operation != All && b.Operation != q.Operation && !(b.Permission == Allow && slices.Contains(implied[q.Operation], b.Operation)) {
			continue
		}
		if b.Permission == Deny {
			return Decision{}
		}
		allowed = true
	}
	switch {
	case allowed:
		return Decision{Allowed: true}
	case about:
		return Decision{Cause: NoMatch}
	}
	return Decision{Allowed: r.AllowUnlisted, Cause: NoRules}
}

// TestSetIsItsRules folds random changes into a Set beside a plain list of rules.
func TestSetIsItsRules(t *testing.T) {
	for range 30 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		byRule := map[Binding]bool{}
		var s *Set
		rules := &Rules{SuperUsers: map[string]bool{"User:admin": true}, AllowUnlisted: r.IntN(2) == 0}
		for step := range 40 {
			var old []Binding
			if s != nil {
				old = s.Find(Filter{Type: AnyResource, Kind: AnyPattern, Operation: AnyOperation, Permission: AnyPermission})
			}
			before := s
			changes := map[Pattern][]Entry{}
			for range 1 + r.IntN(3) {
				b := someBinding(r)
				if byRule[b] = r.IntN(3) > 0; !byRule[b] {
					delete(byRule, b)
				}
				changes[b.Pattern] = nil
			}
			fresh := map[Pattern][]Entry{}
			for b := range byRule {
				if _, touched := changes[b.Pattern]; touched {
					changes[b.Pattern] = append(changes[b.Pattern], b.Entry)
				}
				fresh[b.Pattern] = append(fresh[b.Pattern], b.Entry)
			}
			s = s.With(changes)
			if !reflect.DeepEqual(s, (*Set)(nil).With(fresh)) {
				t.Fatalf("seed %d step %d: a Set depends on how it came to be", seed, step)
			}
			var want []Binding
			for b := range byRule {
				want = append(want, b)
			}
			slices.SortFunc(want, Binding.Compare)
			every := Filter{Type: AnyResource, Kind: AnyPattern, Operation: AnyOperation, Permission: AnyPermission}
			if got := s.Find(every); !slices.Equal(got, want) || s.Len() != len(want) {
				t.Fatalf("seed %d step %d: %v, expected %v", seed, step, got, want)
			}
			if before != nil && !slices.Equal(before.Find(every), old) {
				t.Fatalf("seed %d step %d: an older Set has changed", seed, step)
			}
			for range 60 {
				q := someQuery(r)
				got, model := rules.Decide(s, q), slow(rules, want, q)
				if got.Allowed != model.Allowed || got.Cause != model.Cause || (got.Rule == nil) != (got.Cause != ByRule) {
					t.Fatalf("seed %d: %+v is %+v, expected %+v", seed, q, got, model)
				}
				if got.Rule != nil && (!byRule[*got.Rule] || slow(&Rules{}, []Binding{*got.Rule}, q).Allowed != got.Allowed) {
					t.Fatalf("seed %d: %+v is %+v by %v", seed, q, got, got.Rule)
				}
			}
			f := Filter{pick(r, AnyResource, Topic, Group), PatternType(1 + r.IntN(4)), nil, nil, nil, pick(r, AnyOperation, All, Read), pick(r, AnyPermission, Allow)}
			if r.IntN(2) == 0 {
				f.Name = new(pick(r, "ab", "abc", "*", "x"))
			}
			if r.IntN(3) == 0 {
				f.Principal = new("User:x")
			}
			if got, model := s.Find(f), slices.DeleteFunc(want, func(b Binding) bool { return !f.Matches(b) }); !slices.Equal(got, model) {
				t.Fatalf("seed %d: %+v finds %v, expected %v", seed, f, got, model)
			}
		}
	}
}

func set(bindings ...Binding) *Set {
	m := map[Pattern][]Entry{}
	for _, b := range bindings {
		m[b.Pattern] = append(m[b.Pattern], b.Entry)
	}
	return (*Set)(nil).With(m)
}

func rule4(p Permission, who, host string, op Operation, kind PatternType, name string) Binding {
	return Binding{Pattern{Topic, kind, name}, Entry{who, host, op, p}}
}

func TestDecide(t *testing.T) {
	rules := &Rules{SuperUsers: map[string]bool{"User:root": true}}
	open := &Rules{AllowUnlisted: true}
	ask := func(who string, op Operation, name string) Query {
		return Query{who, netip.MustParseAddr("10.0.0.1"), op, Topic, name}
	}
	s := set(
		rule4(Allow, "User:bob", "*", Read, Literal, "orders"),
		rule4(Allow, Everyone, "*", Write, Prefixed, "pub-"),
		rule4(Deny, "User:eve", "*", All, Literal, "*"),
		rule4(Deny, "User:bob", "10.0.0.2", Read, Literal, "orders"),
		rule4(Deny, "User:bob", "*", Read, Prefixed, "pub-x"),
		rule4(Allow, "User:six", "0:0:0:0:0:0:0:1", Read, Literal, "*"),
		rule4(Allow, "User:host", "somewhere.example", Read, Literal, "*"),
	)
	for _, c := range []struct {
		q     Query
		want  bool
		cause Cause
		rules *Rules
	}{
		{ask("User:bob", Read, "orders"), true, ByRule, rules},
		{ask("User:bob", Describe, "orders"), true, ByRule, rules},
		{ask("User:bob", Write, "orders"), false, NoMatch, rules},
		{ask("User:bob", DescribeConfigs, "orders"), false, NoMatch, rules},
		{ask("User:root", Alter, "orders"), true, BySuperUser, rules},
		{ask("User:eve", Write, "pub-1"), false, ByRule, rules},
		{ask("User:bob", Write, "pub-1"), true, ByRule, rules},
		{ask("User:bob", Write, "pub"), false, NoMatch, rules},
		{ask("User:bob", Describe, "pub-xy"), true, ByRule, rules}, // READ that is denied does not deny DESCRIBE
		{ask("User:host", Read, "orders"), false, NoMatch, rules},
		{ask("User:bob", Write, "else"), false, NoMatch, open}, // "*" is about every topic
		{Query{"User:bob", netip.MustParseAddr("10.0.0.2"), Read, Topic, "orders"}, false, ByRule, rules},
		{Query{"User:bob", netip.MustParseAddr("::ffff:10.0.0.2"), Read, Topic, "orders"}, false, ByRule, rules},
		{Query{"User:six", netip.MustParseAddr("::1"), Read, Topic, "t"}, true, ByRule, rules},
		{Query{"User:bob", netip.MustParseAddr("10.0.0.1"), Read, Group, "g"}, true, NoRules, open},
		{Query{"User:bob", netip.MustParseAddr("10.0.0.1"), Read, Group, "g"}, false, NoRules, rules},
		{Query{"User:bob", netip.Addr{}, Read, Topic, "orders"}, true, ByRule, rules},
	} {
		if d := c.rules.Decide(s, c.q); d.Allowed != c.want || d.Cause != c.cause {
			t.Errorf("%+v: %+v", c.q, d)
		}
	}
}

func TestMayAny(t *testing.T) {
	q := Query{Principal: "User:p", Host: netip.MustParseAddr("10.0.0.1"), Operation: Write, Type: Topic}
	allow := func(kind PatternType, name string) Binding { return rule4(Allow, "User:p", "*", Write, kind, name) }
	deny := func(kind PatternType, name string) Binding { return rule4(Deny, "User:p", "*", Write, kind, name) }
	for i, c := range []struct {
		rules []Binding
		want  bool
	}{
		{nil, false},
		{[]Binding{allow(Literal, "t")}, true},
		{[]Binding{allow(Literal, "t"), deny(Literal, "t")}, false},
		{[]Binding{allow(Literal, "t"), deny(Literal, "u")}, true},
		{[]Binding{allow(Literal, "toto"), deny(Prefixed, "to")}, false},
		{[]Binding{allow(Prefixed, "t"), deny(Prefixed, "to")}, true},
		{[]Binding{allow(Prefixed, "to"), deny(Prefixed, "t")}, false},
		{[]Binding{allow(Literal, "*"), deny(Prefixed, "t")}, true},
		{[]Binding{allow(Literal, "t"), deny(Literal, "*")}, false},
		{[]Binding{rule4(Allow, "User:p", "*", Read, Literal, "t")}, false},
		{[]Binding{rule4(Allow, Everyone, "10.0.0.1", All, Literal, "t")}, true},
		{[]Binding{rule4(Allow, Everyone, "10.0.0.2", All, Literal, "t")}, false},
	} {
		if got := (&Rules{}).MayAny(set(c.rules...), q); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
	if !(&Rules{SuperUsers: map[string]bool{"User:p": true}}).MayAny(set(deny(Literal, "*")), q) || !(&Rules{AllowUnlisted: true}).MayAny(nil, q) {
		t.Error("super users, and everyone without rules")
	}
}

func TestProblems(t *testing.T) {
	good := rule4(Allow, "User:a", "*", Read, Literal, "t")
	if p := good.Problem(); p != "" {
		t.Error(p)
	}
	for _, change := range []func(*Binding){
		func(b *Binding) { b.Type = AnyResource }, func(b *Binding) { b.Type = 8 }, func(b *Binding) { b.Type = -1 },
		func(b *Binding) { b.Kind = Match }, func(b *Binding) { b.Operation = AnyOperation }, func(b *Binding) { b.Operation = 16 },
		func(b *Binding) { b.Permission = AnyPermission }, func(b *Binding) { b.Name = "" },
		func(b *Binding) { b.Principal = "alice" }, func(b *Binding) { b.Host = "" },
	} {
		b := good
		if change(&b); b.Problem() == "" {
			t.Errorf("%v", b)
		}
	}
	if o, ok := ParseOperation("describeConfigs"); !ok || o != DescribeConfigs {
		t.Error(o)
	}
	if o, ok := ParseOperation("idempotent-write"); !ok || o != IdempotentWrite {
		t.Error(o)
	}
	if _, ok := ParseResourceType("unknown"); ok {
		t.Error("unknown is no type")
	}
	if users, bad := ParseSuperUsers(" User:a;;User:CN=b,O=c; "); bad != "" || len(users) != 2 || !users["User:CN=b,O=c"] {
		t.Error(users, bad)
	}
	if _, bad := ParseSuperUsers("User:a;b"); bad != "b" {
		t.Error(bad)
	}
}

// manyRules are rules of a thousand users on ten thousand topics, and prefixes of six lengths.
func manyRules() *Set {
	m := map[Pattern][]Entry{}
	for i := range 10_000 {
		m[Pattern{Topic, Literal, fmt.Sprintf("orders-%d", i)}] = []Entry{{fmt.Sprintf("User:u%d", i%1000), "*", Write, Allow}, {fmt.Sprintf("User:v%d", i%1000), "10.0.0.1", Read, Allow}}
	}
	for i := range 6 {
		m[Pattern{Topic, Prefixed, "orders-12345"[:6+i]}] = []Entry{{"User:w", "*", All, Deny}, {Everyone, "10.1.1.1", Describe, Allow}}
	}
	return (*Set)(nil).With(m)
}

func TestDecisionAllocatesNothing(t *testing.T) {
	s, rules := manyRules(), &Rules{SuperUsers: map[string]bool{"User:root": true}}
	q := Query{"User:u42", netip.MustParseAddr("::ffff:10.0.0.1"), Write, Topic, "orders-1042"}
	if !rules.Decide(s, q).Allowed {
		t.Fatal("denied")
	}
	for _, op := range []Operation{Write, Read, Describe} {
		q.Operation = op
		if n := testing.AllocsPerRun(100, func() { rules.Decide(s, q) }); n != 0 {
			t.Errorf("%v: %v allocations", op, n)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	s, rules := manyRules(), &Rules{SuperUsers: map[string]bool{"User:root": true}}
	q := Query{"User:u42", netip.MustParseAddr("10.0.0.1"), Write, Topic, "orders-1042"}
	b.ReportAllocs()
	for b.Loop() {
		rules.Decide(s, q)
	}
}
