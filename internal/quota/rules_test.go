package quota

import (
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Each rule that is more specific than those before it takes over, and only for its key.
func TestMostSpecificRuleWins(t *testing.T) {
	u, c := Named("u"), Named("c")
	var r *Rules
	for i, e := range []Entity{
		{ClientID: Default}, {ClientID: c},
		{User: Default}, {User: Default, ClientID: Default}, {User: Default, ClientID: c},
		{User: u}, {User: u, ClientID: Default}, {User: u, ClientID: c},
	} {
		before := r
		r = r.With(map[Entity]Limits{e: Limits{}.With(ProducerByteRate, float64(i+1))})
		if v, by, ok := r.Client(ProducerByteRate, "u", "c"); !ok || v != float64(i+1) || by != e {
			t.Errorf("rule %d: %v by %+v, %v", i, v, by, ok)
		}
		if v, _, _ := before.Client(ProducerByteRate, "u", "c"); v != float64(i) {
			t.Errorf("rules from before rule %d changed: %v", i, v)
		}
		if _, _, ok := r.Client(ConsumerByteRate, "u", "c"); ok {
			t.Errorf("rule %d limits another key", i)
		}
	}
	if v, _, _ := r.Client(ProducerByteRate, "v", "d"); v != 4 {
		t.Errorf("a stranger has %v, not that of both defaults", v)
	}
	if _, _, ok := r.Address("10.0.0.1"); ok {
		t.Error("an address is limited by a rule about clients")
	}
	r = r.With(map[Entity]Limits{{IP: Default}: Limits{}.With(ConnectionCreationRate, 2)})
	r = r.With(map[Entity]Limits{{IP: Named("10.0.0.1")}: Limits{}.With(ConnectionCreationRate, 1)})
	for ip, want := range map[string]float64{"10.0.0.1": 1, "10.0.0.2": 2} {
		if v, _, ok := r.Address(ip); !ok || v != want {
			t.Errorf("%s: %v, want %v", ip, v, want)
		}
	}
	for e := range r.All {
		r = r.With(map[Entity]Limits{e: r.Of(e).Without(ProducerByteRate).Without(ConnectionCreationRate)})
	}
	if r != nil {
		t.Errorf("rules are left: %+v", r)
	}
}

// Which entities there can be, and which key limits which.
func TestEntities(t *testing.T) {
	long := strings.Repeat("x", MaxNameBytes)
	for e, good := range map[Entity]bool{
		{}:                                    false,
		{User: Default}:                       true,
		{User: Named("u")}:                    true,
		{ClientID: Named("c")}:                true,
		{User: Default, ClientID: Named("c")}: true,
		{IP: Default}:                         true,
		{IP: Named("::1")}:                    true,
		{IP: Default, User: Default}:          false,
		{IP: Default, ClientID: Default}:      false,
		{User: Named("")}:                     false,
		{User: Default, ClientID: Named("")}:  false,
		{User: Named(long)}:                   true,
		{User: Named(long + "x")}:             false,
	} {
		if why := e.Problem(); (why == "") != good {
			t.Errorf("%+v: %q", e, why)
		}
	}
	n := 0
	for k := range Keys {
		n++
		if again, ok := KeyOf(k.String()); !ok || again != k {
			t.Errorf("%s is read back as %s, %v", k, again, ok)
		}
		of := k == ConnectionCreationRate
		if (Entity{IP: Default}).Has(k) != of || (Entity{User: Default}).Has(k) == of || (Entity{ClientID: Default, User: Default}).Has(k) == of {
			t.Errorf("%s is of other entities", k)
		}
	}
	if _, ok := KeyOf("producer_byte"); ok || n != 5 {
		t.Errorf("%d keys; an unknown one is known: %v", n, ok)
	}
	for v, good := range map[float64]bool{0: false, -1: false, 0.001: true, math.Inf(1): true, math.Inf(-1): false, math.NaN(): false} {
		if Valid(v) != good {
			t.Errorf("%v: %v", v, !good)
		}
	}
}

// Find says the same by its short way as by the long one, and every part of a filter counts.
func TestFind(t *testing.T) {
	parts := []Part{{}, Default, Named("a"), Named("b")}
	var r *Rules
	for _, p := range parts {
		for _, q := range parts {
			for _, e := range []Entity{{User: p, ClientID: q}, {IP: p}} {
				if e.Problem() == "" {
					r = r.With(map[Entity]Limits{e: Limits{}.With(RequestPercentage, 1)})
				}
			}
		}
	}
	asks := []Match{{}, Specified(), Exactly(Default), Exactly(Named("a")), Exactly(Named("c"))}
	fits := func(m Match, p Part, strict bool) bool {
		switch {
		case !m.Asked():
			return !strict || p == Part{}
		case m == Specified():
			return p != Part{}
		}
		return m == Exactly(p)
	}
	for _, user := range asks {
		for _, client := range asks {
			for _, ip := range asks {
				for _, strict := range []bool{false, true} {
					f := Filter{user, client, ip, strict}
					found := map[Entity]bool{}
					for e, l := range r.Find(f) {
						if found[e] || l != r.Of(e) {
							t.Errorf("%+v: %+v twice, or with other limits", f, e)
						}
						found[e] = true
					}
					for e := range r.All {
						if want := fits(user, e.User, strict) && fits(client, e.ClientID, strict) && fits(ip, e.IP, strict); found[e] != want {
							t.Errorf("%+v: %+v is found: %v", f, e, found[e])
						}
						delete(found, e)
					}
					if len(found) > 0 {
						t.Errorf("%+v: %+v", f, found)
					}
				}
			}
		}
	}
	for e, l := range (*Rules)(nil).Find(Filter{}) {
		t.Error(e, l)
	}
}

// Every way to write an address means it.
func TestPlainAddress(t *testing.T) {
	for s, want := range map[string]string{"10.0.0.7": "10.0.0.7", "::ffff:10.0.0.7": "10.0.0.7", "0:0:0:0:0:0:0:7": "::7", "2001:DB8::1": "2001:db8::1"} {
		if got, ok := PlainAddress(s); got != want || !ok {
			t.Errorf("%s: %s, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "localhost", "10.0.0.256", "10.0.0", "fe80::1%eth0"} {
		if got, ok := PlainAddress(s); got != s || ok {
			t.Errorf("%s: %s, %v", s, got, ok)
		}
	}
}

// testdata/precedence.txt says which rule of each possible set Kafka 4.3.1 applies to four clients; testdata/Precedence.java has written it.
func TestPrecedenceIsKafkas(t *testing.T) {
	data, err := os.ReadFile("testdata/precedence.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) != 256 {
		t.Fatalf("%d sets", len(lines))
	}
	rules := ClientEntities("u", "c")
	for set, line := range lines {
		changes := map[Entity]Limits{}
		for i, e := range rules {
			if set>>i&1 == 1 {
				changes[e] = Limits{}.With(ProducerByteRate, float64(i+1))
			}
		}
		r := (*Rules)(nil).With(changes)
		got := strconv.Itoa(set)
		for _, client := range [][2]string{{"u", "c"}, {"u", "d"}, {"v", "c"}, {"v", "d"}} {
			limit, by, ok := r.Client(ProducerByteRate, client[0], client[1])
			switch {
			case !ok:
				got += " -"
			case rules[int(limit)-1] != by:
				t.Errorf("%v is said to be of %+v", limit, by)
			default:
				got += " " + strconv.Itoa(int(limit))
			}
		}
		if got != line {
			t.Errorf("%s, Kafka says %s", got, line)
		}
	}
}

// A random history of rules says the same as a map, and no later change is seen in earlier rules.
func TestRulesNeverChange(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	some := func() Part {
		return []Part{{}, Default, Named("a"), Named(strconv.Itoa(rnd.IntN(300)))}[rnd.IntN(4)]
	}
	type past struct {
		rules *Rules
		want  map[Entity]Limits
	}
	history := []past{{nil, map[Entity]Limits{}}}
	for range 100 {
		last := history[len(history)-1]
		want, changes := maps.Clone(last.want), map[Entity]Limits{}
		for range rnd.IntN(20) {
			e, l := Entity{User: some(), ClientID: some(), IP: some()}, Limits{}
			delete(want, e)
			if rnd.IntN(3) > 0 {
				l = l.With(Key(rnd.IntN(int(keys))), rnd.Float64()+1)
				want[e] = l
			}
			changes[e] = l
		}
		history = append(history, past{last.rules.With(changes), want})
	}
	for i, h := range history {
		if got := maps.Collect(h.rules.All); !maps.Equal(got, h.want) {
			t.Fatalf("rules %d: %d of them, want %d", i, len(got), len(h.want))
		}
		if (h.rules == nil) != (len(h.want) == 0) {
			t.Errorf("rules %d: nil is for none, and only for none", i)
		}
		for e, l := range h.want {
			if h.rules.Of(e) != l {
				t.Errorf("rules %d: %+v has %+v", i, e, h.rules.Of(e))
			}
		}
	}
}
