package quota

import (
	"fmt"
	"testing"
)

// Three hundred thousand names by one attacker leave a table of bounded size, get together no more than the rule gives to one, and are forgotten when they stop.
func TestManyNamesAreBounded(t *testing.T) {
	var none *Rules
	rules := none.With(map[Entity]Limits{{ClientID: Default}: Limits{}.With(ProducerByteRate, 1000), {User: Named("good")}: Limits{}.With(ProducerByteRate, 1000)})
	table := Table{Rates: Window{11, 1000}, Mutations: Window{11, 1000}, Most: 500}
	now := int64(1_700_000_000_000)
	good, _ := rules.Account(ProducerByteRate, "good", "x")
	last := int64(0)
	for i := range 300_000 {
		a, _ := rules.Account(ProducerByteRate, "bad", fmt.Sprint("name-", i))
		last, _ = table.Take(&a, 100, false, now)
		if i%100 == 0 {
			now++
			if ms, _ := table.Take(&good, 1, false, now); ms > 0 {
				t.Fatalf("after %d names somebody else has to wait %d ms", i, ms)
			}
		}
	}
	if n := len(table.meters); n > table.Most+2 {
		t.Errorf("%d meters", n)
	}
	if last != 100_000 {
		t.Errorf("the last name has to wait for %d ms, want as much as anybody can owe", last)
	}
	for _, u := range table.Usage(now) {
		if u.Payer == (Entity{}) && (u.Rule != Entity{ClientID: Default} || u.Throttled == 0 || u.AgoMs < 0) {
			t.Errorf("the others: %+v", u)
		}
	}
	now += last + table.Rates.LengthMs // all is paid, and the bucket full
	if left := table.Usage(now); len(left) != 0 {
		t.Errorf("%d are left: %+v", len(left), left[0])
	}
	if ms, _ := table.Take(&good, 1, false, now); ms > 0 || len(table.meters) != 1 {
		t.Errorf("%d ms, %d meters", ms, len(table.meters))
	}
}

// Other rules take effect for meters that are there.
func TestRulesChangeUnderAMeter(t *testing.T) {
	table := Table{Rates: Window{11, 1000}, Most: 10}
	a := Account{Key: ConsumerByteRate, Payer: Entity{User: Named("u")}, Rule: Entity{User: Default}, Limit: 1000}
	if ms, _ := table.Take(&a, 10_000, false, 1000); ms != 9_500 {
		t.Errorf("%d ms, want all but the first half second", ms)
	}
	a.Rule, a.Limit = Entity{User: Named("u")}, 500
	if ms, _ := table.Take(&a, 0, false, 1000); ms != 19_000 {
		t.Errorf("%d ms, want twice as long at half the rate", ms)
	}
	if u := table.Usage(1000); len(u) != 1 || u[0].Rule != a.Rule || u[0].PerSecond != 1000 || u[0].LastMs != 19_000 {
		t.Errorf("%+v", u)
	}
}
