package quota

import (
	"bufio"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// testdata/kafka.txt is what Kafka's own Sensor, Rate, TokenBucket and QuotaUtils say to random charges (Vectors.java).
func TestMetersAreKafkas(t *testing.T) {
	file, err := os.Open("testdata/kafka.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var m Meter
	var w Window
	var limit float64
	bucket, lines, throttled := false, 0, 0
	for in := bufio.NewScanner(file); in.Scan(); lines++ {
		if kind, run, _ := strings.Cut(in.Text(), " "); kind == "rate" || kind == "bucket" {
			if n, err := fmt.Sscan(run, &w.Samples, &w.LengthMs, &limit); n != 3 {
				t.Fatalf("line %d: %v", lines+1, err)
			}
			w.LengthMs *= 1000
			m, bucket = Meter{}, kind == "bucket"
			continue
		}
		var now, ms, bounded int64
		var amount float64
		if n, err := fmt.Sscan(in.Text(), &now, &amount, &ms, &bounded); n != 4 {
			t.Fatalf("line %d: %v", lines+1, err)
		}
		back, refusedToo := strings.HasSuffix(in.Text(), "back"), strings.HasSuffix(in.Text(), "refused")
		var got int64
		refused := false
		if bucket {
			got, refused = m.Take(w, ControllerMutationRate, limit, amount, refusedToo || strings.HasSuffix(in.Text(), "strict"), now)
		} else {
			bound := m
			bound.rate.samples = append([]sample(nil), m.rate.samples...)
			if got := bound.Charge(w, limit, amount, now); got != bounded {
				t.Fatalf("line %d: a request waits for %d ms, Kafka's for %d", lines+1, got, bounded)
			}
			m.Charge(w, limit, amount, now)
			rate, over := m.rate.PerSecond(w, now)
			got = excessMs(rate, limit, over) // what Kafka does not bound is the rate's answer all the same
			if back {
				m.Credit(w, amount, now)
			}
		}
		if got != ms || refused != refusedToo {
			t.Fatalf("line %d: %q: %d ms, refused %v", lines+1, in.Text(), got, refused)
		}
		if ms > 0 {
			throttled++
		}
	}
	if lines < 6000 || throttled < 1000 {
		t.Errorf("%d lines, %d of them throttled", lines, throttled)
	}
}

// naive is Kafka's sampled rate once more, from a list of all that was ever recorded: no ring, nothing is reset in place.
type naive struct {
	w       Window
	samples []*naiveSample // in the order in which they began
}

type naiveSample struct {
	began, last int64
	sum         float64
}

func (n *naive) record(amount float64, now int64) {
	last := len(n.samples) - 1
	if last < 0 || now-n.samples[last].began >= n.w.LengthMs {
		n.samples = append(n.samples, &naiveSample{began: now})
		last++
		if len(n.samples) > n.w.Samples+1 { // the ring's oldest place was written over
			n.samples = n.samples[1:]
			last--
		}
	}
	n.samples[last].sum += amount
	n.samples[last].last = now
}

func (n *naive) rate(now int64) float64 {
	sum, oldest := 0.0, now
	for _, s := range n.samples {
		if now-s.last >= int64(n.w.Samples)*n.w.LengthMs {
			*s = naiveSample{began: now, last: now}
		}
		sum += s.sum
		oldest = min(oldest, s.began)
	}
	over := now - oldest
	if full := over / n.w.LengthMs; full < int64(n.w.Samples-1) {
		over += (int64(n.w.Samples-1) - full) * n.w.LengthMs
	}
	return sum / float64(max(over, 1)) * 1000
}

// A meter that is dropped as soon as it is forgotten makes no difference to one that is kept for ever, and both measure what the naive model does.
func TestForgottenMetersMakeNoDifference(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 8))
		w := Window{1 + rnd.IntN(12), 1000 * (1 + rnd.Int64N(2))}
		limit := 1 + rnd.Float64()*1000
		key := Key(rnd.IntN(int(ConnectionCreationRate)))
		kept, dropped, model := &Meter{}, &Meter{}, &naive{w: w}
		now, drops := int64(1_700_000_000_000), 0
		for i := range 400 {
			if now += rnd.Int64N(600); rnd.IntN(30) == 0 {
				now += rnd.Int64N(3 * w.SpanMs())
			}
			if dropped.Forgotten(w, key, limit, now) {
				dropped = &Meter{}
				drops++
			}
			amount := limit * rnd.Float64() * float64(w.SpanMs()) / 1000 / 4
			if key == RequestPercentage {
				if a, b := kept.Charge(w, limit, amount, now), dropped.Charge(w, limit, amount, now); a != b {
					t.Fatalf("seed %d, step %d: %d ms, dropped %d ms", seed, i, a, b)
				}
				model.record(amount, now)
			} else {
				strict := rnd.IntN(2) == 0
				a, ra := kept.Take(w, key, limit, amount, strict, now)
				b, rb := dropped.Take(w, key, limit, amount, strict, now)
				if a != b || ra != rb {
					t.Fatalf("seed %d, step %d: %d ms %v, dropped %d ms %v", seed, i, a, ra, b, rb)
				}
				if !ra {
					model.record(amount, now)
				}
			}
			if want := model.rate(now); math.Abs(kept.PerSecond(w, now)-want) > want/1e9 {
				t.Fatalf("seed %d, step %d: %v a second, want %v", seed, i, kept.PerSecond(w, now), want)
			}
		}
		if drops == 0 {
			t.Errorf("seed %d: nothing was ever forgotten", seed)
		}
	}
}

// Who pays follows from the rule that limits.
func TestPayerFollowsFromTheRule(t *testing.T) {
	u, c := Named("u"), Named("c")
	for _, rule := range []struct{ rule, payer Entity }{
		{Entity{ClientID: Default}, Entity{ClientID: c}}, {Entity{ClientID: c}, Entity{ClientID: c}},
		{Entity{User: Default}, Entity{User: u}}, {Entity{User: Default, ClientID: Default}, Entity{User: u, ClientID: c}},
		{Entity{User: Default, ClientID: c}, Entity{User: u, ClientID: c}},
		{Entity{User: u}, Entity{User: u}}, {Entity{User: u, ClientID: Default}, Entity{User: u, ClientID: c}},
		{Entity{User: u, ClientID: c}, Entity{User: u, ClientID: c}},
	} {
		var none *Rules
		r := none.With(map[Entity]Limits{rule.rule: Limits{}.With(ProducerByteRate, 7)})
		a, ok := r.Account(ProducerByteRate, "u", "c")
		if want := (Account{ProducerByteRate, rule.payer, rule.rule, 7}); !ok || a != want {
			t.Errorf("rule of %+v: %+v, want %+v", rule.rule, a, want)
		}
		if _, ok := r.Account(ConsumerByteRate, "u", "c"); ok {
			t.Errorf("rule of %+v limits another key", rule.rule)
		}
		r = none.With(map[Entity]Limits{rule.rule: Limits{}.With(ProducerByteRate, math.Inf(1))})
		if _, ok := r.Account(ProducerByteRate, "u", "c"); ok {
			t.Errorf("rule of %+v: no limit is one", rule.rule)
		}
	}
	long := strings.Repeat("x", 32<<10)
	var none *Rules
	r := none.With(map[Entity]Limits{{ClientID: Default}: Limits{}.With(ProducerByteRate, 7)})
	a, _ := r.Account(ProducerByteRate, "u", long)
	b, _ := r.Account(ProducerByteRate, "u", long+"y")
	if a.Payer == b.Payer || len(a.Payer.ClientID.Name()) > maxName {
		t.Errorf("long names: %q and %q", a.Payer.ClientID.Name(), b.Payer.ClientID.Name())
	}
}

// Who sends or reads as fast as he is let, and waits as he is told, gets within 5 % of his limit from the first byte on, over any time of 30 seconds or
// more. He may have five requests in flight, each with a latency of its own, as long as together they are no more than the limit allows in a second.
func TestBytesKeepToTheLimit(t *testing.T) {
	w := Window{11, 1000}
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 19))
		key := []Key{ProducerByteRate, ConsumerByteRate}[seed%2]
		inFlight := 1 + rnd.IntN(5)
		largest := 1 + rnd.Float64()*1e6
		limit := largest * float64(inFlight) * (1 + 20*rnd.Float64())
		if key == ConsumerByteRate {
			inFlight, limit = 1, 1000+rnd.Float64()*1e8
		}
		began := int64(1_700_000_000_000)
		var m Meter
		got := 0.0
		// Each connection of a client sends what is in flight, waits for the answers and for the longest of the times in them.
		for now, until := began, began+300_000; now < until; {
			var throttled int64
			for range inFlight {
				if key == ProducerByteRate {
					amount := largest * (0.2 + 0.8*rnd.Float64())
					ms, _ := m.Take(w, key, limit, amount, false, now)
					got, throttled = got+amount, max(throttled, ms)
					continue
				}
				amount := min(50e6, MostAtOnce(w, key, limit))
				ms, refused := m.Take(w, key, limit, amount, true, now)
				if refused {
					throttled = max(ms, 1)
				} else {
					got += amount
				}
			}
			// At the latest and the earliest moment at which that is what he has.
			after := float64(now-began) / 1000
			if after >= 30 && got > 1.05*limit*after+1 {
				t.Fatalf("seed %d, %v: %.0f bytes in %v s, with %.0f a second", seed, key, got, after, limit)
			}
			latency := largest / limit * 200 // he would be five times as fast by himself
			if key == ConsumerByteRate {
				latency = 100
			}
			now += throttled + rnd.Int64N(1+int64(latency))
			if after = float64(now-began) / 1000; after >= 30 && got < 0.95*limit*after {
				t.Fatalf("seed %d, %v: only %.0f bytes in %v s, with %.0f a second", seed, key, got, after, limit)
			}
		}
	}
}

// What is larger than all that fits is let through when something is left, and paid for by what comes next.
func TestBytesMayOverdraw(t *testing.T) {
	w := Window{11, 1000}
	var m Meter
	now := int64(1_700_000_000_000)
	if ms, refused := m.Take(w, ConsumerByteRate, 1000, 500_000, true, now); ms != 0 || refused {
		t.Fatalf("%d ms, refused %v", ms, refused)
	}
	if ms, _ := m.Take(w, ConsumerByteRate, 1000, 1, false, now); ms != 499_500 {
		t.Fatalf("a byte more of a debt as large as that makes it %d ms", ms)
	}
	for _, step := range []struct {
		afterMs, waitMs int64
	}{{0, 499_500}, {499_499, 1}, {499_500, 0}, {499_501, 499_999}} {
		ms, refused := m.Take(w, ConsumerByteRate, 1000, 500_000, true, now+step.afterMs)
		if ms != step.waitMs || refused != (step.waitMs > 0) {
			t.Errorf("after %d ms: %d ms, refused %v", step.afterMs, ms, refused)
		}
	}
}

// A charge allocates nothing once the samples are there.
func TestChargesDoNotAllocate(t *testing.T) {
	w := Window{11, 1000}
	var m Meter
	now := int64(1_700_000_000_000)
	charge := func() {
		m.Charge(w, 1000, 500, now)
		m.Take(w, ConsumerByteRate, 1000, 500, true, now)
		now += 300
	}
	for range 100 {
		charge()
	}
	if n := testing.AllocsPerRun(1000, charge); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
