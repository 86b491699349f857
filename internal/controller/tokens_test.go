package controller

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"moldau/internal/metadata"
	"moldau/internal/wire"
)

var shortLife = TokenLife{RenewMs: 100, MaxMs: 250}

func (w *world) token(id, owner string, maxMs, nowMs int64, renewers ...string) *metadata.DelegationToken {
	w.t.Helper()
	p, t := CreateToken(shortLife, NewToken{ID: id, Owner: owner, Requester: "User:requester", Renewers: renewers, MaxLifetimeMs: maxMs}, nowMs)
	w.apply(p)
	if got := w.im.DelegationToken(id); got == nil || got.ExpiresMs != t.ExpiresMs {
		w.t.Fatalf("%+v became %+v", t, got)
	}
	return t
}

// TestTokensLiveAsKafkas goes through the life of tokens with the rules of Kafka's DelegationTokenControlManager.
func TestTokensLiveAsKafkas(t *testing.T) {
	w := newWorld(t, 1)
	for _, c := range []struct{ asked, expires, max int64 }{{-1, 1100, 1250}, {0, 1100, 1250}, {math.MaxInt64, 1100, 1250}, {math.MinInt64, 1100, 1250}, {120, 1100, 1120}, {30, 1030, 1030}} {
		if got := w.token("x", "User:a", c.asked, 1000); got.IssuedMs != 1000 || got.ExpiresMs != c.expires || got.MaxMs != c.max {
			t.Errorf("%d asked for: %+v", c.asked, got)
		}
	}
	if _, got := CreateToken(TokenLife{math.MaxInt64, math.MaxInt64}, NewToken{ID: "y"}, 1000); got.MaxMs != math.MaxInt64 || got.ExpiresMs != math.MaxInt64 {
		t.Errorf("for ever: %+v", got)
	}
	w.token("x", "User:a", -1, 1000, "User:b") // to 1250 at the most
	renew := func(id, by string, period, now int64, code wire.Code, expires int64) {
		t.Helper()
		p, r := RenewToken(w.im, shortLife, id, by, period, now)
		if r.Code != code || r.ExpiresMs != expires || (len(p.Steps) > 0) != (code == wire.None) {
			t.Fatalf("renewed: %+v %+v", r, p)
		}
		w.apply(p)
	}
	expire := func(id, by string, period, now int64, code wire.Code, expires int64) {
		t.Helper()
		p, r := ExpireToken(w.im, id, by, period, now)
		if r.Code != code || r.ExpiresMs != expires || (len(p.Steps) > 0) != (code == wire.None) {
			t.Fatalf("expired: %+v %+v", r, p)
		}
		w.apply(p)
	}
	renew("none", "User:a", -1, 1000, wire.DelegationTokenNotFound, 0)
	renew("x", "User:requester", -1, 1000, wire.DelegationTokenOwnerMismatch, 0)
	renew("x", "User:b", -1, 1050, wire.None, 1150)
	renew("x", "User:a", 60, 1060, wire.None, 1120)  // shorter than it was
	renew("x", "User:a", 900, 1120, wire.None, 1220) // in its last moment
	renew("x", "User:a", 0, 1200, wire.None, 1250)   // never longer than it may live
	renew("x", "User:a", -1, 1251, wire.DelegationTokenExpired, 0)
	renew("x", "User:c", -1, 1251, wire.DelegationTokenExpired, 0) // which comes first
	expire("none", "User:a", -1, 1000, wire.DelegationTokenNotFound, 0)
	expire("x", "User:c", -1, 1000, wire.DelegationTokenOwnerMismatch, 0)
	expire("x", "User:b", math.MaxInt64, 1000, wire.None, 1250)
	expire("x", "User:b", 0, 1100, wire.None, 1100)
	expire("x", "User:b", 50, 1101, wire.DelegationTokenExpired, 0)
	expire("x", "User:b", -1, 1101, wire.None, 1101)
	expire("x", "User:b", -1, 1101, wire.DelegationTokenNotFound, 0)
	w.folded()
}

// TestSweepTakesWhatHasExpired, and nothing else, among tokens at random.
func TestSweepTakesWhatHasExpired(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, 1)
		for i := range 40 {
			w.token(fmt.Sprint("t", i), "User:a", r.Int64N(300)-20, 1000+r.Int64N(200))
		}
		now := 1000 + r.Int64N(400)
		var stay, ends []string
		for x := range w.im.DelegationTokens() {
			if x.ExpiresMs < now || x.MaxMs < now {
				ends = append(ends, x.ID)
			} else {
				stay = append(stay, x.ID)
			}
		}
		p, gone := SweepTokens(w.im, now)
		w.apply(p)
		var left, swept []string
		for x := range w.im.DelegationTokens() {
			left = append(left, x.ID)
		}
		for _, x := range gone {
			swept = append(swept, x.ID)
		}
		if !slices.Equal(left, stay) || !slices.Equal(swept, ends) {
			t.Fatalf("seed %d: %v stay, expected %v; %v go, expected %v", seed, left, stay, swept, ends)
		}
		w.folded()
	}
}
