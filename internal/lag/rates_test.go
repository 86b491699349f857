package lag

import (
	"testing"
	"time"

	"moldau/internal/storage"
)

func TestCatchUp(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	var r rates
	step := func(after time.Duration, committed, end int64) time.Duration {
		now = now.Add(after)
		r.measure(now, committed, end)
		return r.catchUp(end - committed)
	}
	for i, c := range []struct {
		after          time.Duration
		committed, end int64
		want           time.Duration
	}{
		{0, 0, 10_000, -1},                       // nothing is known yet
		{time.Second, 100, 10_000, -1},           // too early to tell
		{9 * time.Second, 1000, 10_500, 190e9},   // 100 read a second, 50 written: 9500 behind
		{10 * time.Second, 2000, 11_000, 180e9},  // the same
		{10 * time.Second, 2000, 11_500, -1},     // it stands still
		{time.Hour, 2000, 11_500, -1},            // for long
		{10 * time.Second, 11_500, 11_500, 0},    // it has caught up
		{10 * time.Second, 100, 11_500, -1},      // it went back: all begins anew
		{10 * time.Second, 2100, 11_500, 47e9},   // 200 a second
		{10 * time.Second, 2101, 1 << 60, -1},    // more than ever
		{365 * 24 * time.Hour, 2103, 2104, -1},   // the log is another one
		{10 * time.Second, 2104, 1_000_000, -1},  // it gains, but others write more
		{10 * time.Second, 2105, 1_000_000, -1},  // so it does in the memory of the rate
		{10 * time.Hour, 2106, 1_000_000, -1},    // longer than anybody waits
		{10 * time.Hour, 999_999, 1_000_000, -2}, // soon
	} {
		got := step(c.after, c.committed, c.end)
		if c.want == -2 && (got <= 0 || got > time.Second) || c.want != -2 && got.Round(time.Second) != c.want.Round(time.Second) {
			t.Errorf("step %d: %v, want %v (%+v)", i, got, c.want, r)
		}
	}
}

func TestGroupSums(t *testing.T) {
	var g Group
	g.add(Partition{Lag: 5, Age: 3 * time.Second, CatchUp: time.Minute})
	g.add(Partition{Lag: 0, Age: 0, CatchUp: 0})
	if g.Lag != 5 || g.Age != 3*time.Second || g.CatchUp != time.Minute || g.InDanger != 0 {
		t.Errorf("%+v", g)
	}
	g.add(Partition{Lag: -1, Age: -1, CatchUp: -1, Danger: &storage.Danger{Gone: 1}})
	if g.Lag != 5 || g.Age != 3*time.Second || g.CatchUp != -1 || g.InDanger != 1 {
		t.Errorf("with an unknown one: %+v", g)
	}
	g = Group{}
	g.add(Partition{Lag: 7, Age: -1, CatchUp: -1})
	if g.add(Partition{}); g.Age != -1 || g.CatchUp != -1 {
		t.Errorf("with nothing but an unknown one: %+v", g)
	}
}

func TestDangerIsNamed(t *testing.T) {
	for _, c := range []struct {
		d            *storage.Danger
		kind, detail string
	}{
		{&storage.Danger{Gone: 7, ByTime: true}, "deleted", "7 offsets are gone"},
		{&storage.Danger{ByTime: true, Left: time.Hour}, "time", "the segment may be deleted in 1h0m0s"},
		{&storage.Danger{ByTime: true, Left: -time.Hour, BySize: true}, "time", "the segment may be deleted in 0s"},
		{&storage.Danger{ByTime: true, Left: time.Hour, BySize: true, LeftBytes: 9}, "size", "the segment may be deleted after 9 more bytes"},
		{&storage.Danger{BySize: true, LeftBytes: -9}, "size", "the segment may be deleted after 0 more bytes"},
	} {
		if kind, message := describe(c.d); kind != c.kind || Detail(c.d) != c.detail || message == "" {
			t.Errorf("%+v: %s, %s, %q", c.d, kind, Detail(c.d), message)
		}
	}
	if Kind(nil) != "" {
		t.Error("there is danger")
	}
}
