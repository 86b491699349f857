package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/internal/record"
)

// TestLagInSeconds: the age of what a group has not read is that of the record at the committed offset, in batches of all sizes.
func TestLagInSeconds(t *testing.T) {
	address := os.Getenv("MOLDAU_TEST_BOOTSTRAP") // as TestCommandsAgainstABroker
	if address == "" {
		address, _ = startBroker(t)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(time.Second), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	const partitions = 5
	if _, err := admin.CreateTopic(t.Context(), partitions, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	large := strings.Repeat("incompressible? ", 5000) // 80 KB: more than is asked for of a partition
	var batch []*kgo.Record
	for p := range int32(partitions) {
		for i := range 3 { // one batch for each partition, whose records are some hours old
			batch = append(batch, &kgo.Record{Topic: "t", Partition: p, Timestamp: now.Add(-time.Duration(30-10*i) * time.Hour), Value: []byte(large)})
		}
	}
	if err := cl.ProduceSync(t.Context(), batch...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for group, at := range map[string]int64{"first": 0, "second": 1, "done": 3} {
		var offsets kadm.Offsets
		for p := range int32(partitions) {
			offsets.AddOffset("t", p, at, -1)
		}
		if err := admin.CommitAllOffsets(t.Context(), group, offsets); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(into any, args ...string) {
		t.Helper()
		code, out, errs := run(t, append(args, "-o", "json", "-b", address)...)
		if code != 0 || errs != "" {
			t.Fatalf("moldau %v: exit %d, %s", args, code, errs)
		}
		if err := json.Unmarshal([]byte(out), into); err != nil {
			t.Fatal(err)
		}
	}
	hours := func(seconds *float64) int {
		if seconds == nil {
			return -1
		}
		return int(*seconds / 3600)
	}
	var list []listedGroup
	ask(&list, "group", "list", "--lag")
	got := map[string]string{}
	for _, g := range list {
		if g.Lag == nil {
			t.Errorf("%+v", g)
			continue
		}
		got[g.Name] = fmt.Sprint(*g.Lag, " ", hours(g.LagSeconds))
	}
	if want := (map[string]string{"first": "15 30", "second": "10 20", "done": "0 0"}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("list: %v, want %v", got, want)
	}
	var described []describedGroup
	ask(&described, "group", "describe", "second", "first", "--over", "10ms")
	for i, want := range []int{20, 30} {
		g := described[i]
		if hours(g.LagSeconds) != want || len(g.Offsets) != partitions || g.CatchUp != nil {
			t.Errorf("%+v", g)
		}
		for _, o := range g.Offsets {
			if hours(o.LagSeconds) != want || o.LagProblem != "" {
				t.Errorf("%s partition %d: %d hours, %s", g.Name, o.Partition, hours(o.LagSeconds), o.LagProblem)
			}
		}
	}
	code, out, _ := run(t, "group", "describe", "first", "-b", address)
	if code != 0 || !strings.Contains(out, "Lag          15 records, the oldest of 1d6h ago\n") || !strings.Contains(out, "1d6h  ok") {
		t.Error(out)
	}
	if code, _, errs := run(t, "group", "describe", "first", "--over", "-1s"); code != exitUsage || !strings.Contains(errs, "--over -1s") {
		t.Error(code, errs)
	}
}

func TestFirstTime(t *testing.T) {
	make := func(base int64, times ...int64) []byte {
		b := record.NewBuilder(record.None)
		for _, ms := range times {
			b.Add(ms, nil, []byte("v"))
		}
		batch, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		batch.SetBaseOffset(base)
		return batch
	}
	two := append(make(10, 1000, 5000, 3000), make(13, 7000)...)
	for _, c := range []struct {
		p      []byte
		offset int64
		want   int64
	}{
		{two, 10, 1000}, {two, 11, 5000}, {two, 12, 3000}, {two, 13, 7000},
		{two[:len(two)-1], 13, 7000}, // cut off
		{two[:70], 11, 1000},
		{two[:30], 10, -1},
		{two, 14, -1},
		{nil, 0, -1},
	} {
		if got, err := firstTime(c.p, c.offset); got != c.want || (err == nil) != (c.want >= 0) {
			t.Errorf("offset %d in %d bytes: %d, %v, want %d", c.offset, len(c.p), got, err, c.want)
		}
	}
}

func TestLagLooks(t *testing.T) {
	var l lagLooks
	at := time.Unix(1_700_000_000, 0)
	for i, c := range []struct {
		after time.Duration
		lag   int64
		want  float64 // -1: not known
	}{
		{0, 1000, -1}, {10 * time.Second, 900, 90}, {10 * time.Second, 950, 380}, {10 * time.Second, 1100, -1},
		{50 * time.Second, 500, 60}, // since the lag was 1100 or, a minute ago, 950
		{time.Hour, 500, -1}, {time.Second, 0, 0},
	} {
		at = at.Add(c.after)
		got := l.add(at, c.lag)
		if got == nil && c.want >= 0 || got != nil && (*got < c.want-10 || *got > c.want+10) {
			t.Errorf("look %d: %v, want %v", i, got, c.want)
		}
	}
	for seconds, want := range map[float64]string{0: "0s", 59.6: "1m0s", 3599: "59m59s", 86399: "23h59m59s", 86400: "1d0h", 200_000: "2d8h"} {
		if got := ageText(&seconds); got != want {
			t.Errorf("%v seconds are %s", seconds, got)
		}
	}
}
