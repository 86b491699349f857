package broker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/internal/config"
	"moldau/internal/metastore"
	"moldau/internal/vfs"
	"moldau/test/logtext"
)

// series are the gauges of groups, by name and labels.
func series(t *testing.T, b *Broker) map[string]float64 {
	t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if !strings.Contains(f.GetName(), "consumergroup") {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			name := f.GetName()
			for _, k := range []string{"consumergroup", "topic", "partition", "reason"} {
				if v, ok := labels[k]; ok {
					name += " " + v
				}
			}
			out[name] = m.GetGauge().GetValue()
		}
	}
	return out
}

// TestLagOfGroups: lag in records and in seconds, what retention is about to take from a group with members, in /metrics and in the log.
func TestLagOfGroups(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c, _, err := config.Load(config.Sources{Sets: []string{"node.id=1", "listeners=PLAINTEXT://127.0.0.1:0", "moldau.http.listener=off",
		"group.initial.rebalance.delay.ms=0", "moldau.group.metrics.partitions=4", "offsets.topic.num.partitions=3"}})
	if err != nil {
		t.Fatal(err)
	}
	store := metastore.NewSim().Open()
	defer store.Close()
	log, disk := &logtext.Text{}, vfs.NewMem()
	start := func() *Broker {
		t.Helper()
		b, err := Start(ctx, Options{Config: c, Log: slog.New(slog.NewTextHandler(log, nil)), FS: disk, Store: store})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := start()
	defer func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	cl := client(t, b, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	admin := kadm.NewClient(cl)
	day := "86400000"
	if _, err := admin.CreateTopic(ctx, 2, 1, map[string]*string{"retention.ms": &day}, "t"); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	send := func(partition int32, ages ...time.Duration) {
		t.Helper()
		for _, age := range ages {
			r := &kgo.Record{Topic: "t", Partition: partition, Timestamp: begun.Add(-age), Value: []byte("v")}
			if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(0, 3*time.Hour, 2*time.Hour, time.Hour)
	send(1, time.Minute, -time.Hour) // the second comes from the future
	commit := func(group string, at ...int64) {
		t.Helper()
		var offsets kadm.Offsets
		for p, o := range at {
			offsets.AddOffset("t", int32(p), o, -1)
		}
		if err := admin.CommitAllOffsets(ctx, group, offsets); err != nil {
			t.Fatal(err)
		}
	}
	// await looks until the gauges of the given names are as wanted; those of seconds are rounded down to hours.
	await := func(what string, want map[string]float64) {
		t.Helper()
		for {
			all := series(t, b)
			got := map[string]float64{}
			for name := range want {
				v, ok := all[name]
				if !ok {
					v = -1
				}
				if strings.Contains(name, "seconds") && ok {
					v = float64(int(v / 3600))
				}
				got[name] = v
			}
			if maps.Equal(got, want) {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("%s: %v, want %v\nall: %v", what, got, want, all)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	commit("a", 1, 2)
	await("behind in one", map[string]float64{
		"kafka_consumergroup_current_offset a t 0": 1, "kafka_consumergroup_lag a t 0": 2, "moldau_consumergroup_lag_seconds a t 0": 2, "moldau_consumergroup_catch_up_seconds a t 0": -1,
		"kafka_consumergroup_current_offset a t 1": 2, "kafka_consumergroup_lag a t 1": 0, "moldau_consumergroup_lag_seconds a t 1": 0, "moldau_consumergroup_catch_up_seconds a t 1": 0,
		"kafka_consumergroup_lag_sum a t": 2, "kafka_consumergroup_members a": 0, "moldau_consumergroup_partitions_at_risk": 0, "moldau_consumergroups_left_out": 0,
	})
	commit("a", 3, 1)
	await("a record from the future is not old", map[string]float64{"kafka_consumergroup_lag a t 0": 0, "kafka_consumergroup_lag a t 1": 1, "moldau_consumergroup_lag_seconds a t 1": 0})

	// Retention comes near.
	commit("a", 0, 0)
	short := fmt.Sprint((65 * time.Minute).Milliseconds()) // the newest record of the segment is an hour old
	if _, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "retention.ms", Value: &short}}, "t"); err != nil {
		t.Fatal(err)
	}
	await("nobody is there to lose anything", map[string]float64{"moldau_consumergroup_partitions_at_risk": 0, "moldau_consumergroup_at_risk a t 0 time": -1})
	member := client(t, b, kgo.ConsumerGroup("a"), kgo.ConsumeTopics("t"), kgo.DisableAutoCommit())
	defer member.Close()
	await("a member is", map[string]float64{"moldau_consumergroup_partitions_at_risk": 1, "moldau_consumergroup_at_risk a t 0 time": 1, "moldau_consumergroup_at_risk a t 1 time": -1,
		"kafka_consumergroup_members a": 1})
	await("still", map[string]float64{"moldau_consumergroup_partitions_at_risk": 1})
	const nearly, gone = "about to lose records that it has not read to retention.ms", "records were deleted before the group had read them"
	if n := log.Count(nearly); n != 1 {
		t.Errorf("the log tells %d times what is about to be lost", n)
	}
	var until kadm.Offsets
	until.AddOffset("t", 0, 2, -1)
	if _, err := admin.DeleteRecords(ctx, until); err != nil {
		t.Fatal(err)
	}
	await("it was too slow", map[string]float64{"moldau_consumergroup_at_risk a t 0 deleted": 1, "moldau_consumergroup_at_risk a t 0 time": -1, "kafka_consumergroup_lag a t 0": 3, "moldau_consumergroup_lag_seconds a t 0": 1})
	if n := log.Count(gone); n != 1 {
		t.Errorf("the log tells %d times what is lost", n)
	}
	for fs := member.PollFetches(ctx); ; fs = member.PollFetches(ctx) {
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		if err := member.CommitUncommittedOffsets(ctx); err != nil {
			t.Fatal(err)
		}
		if o := member.CommittedOffsets()["t"]; o[0].Offset == 3 && o[1].Offset == 2 {
			break
		}
	}
	await("it has caught up", map[string]float64{"moldau_consumergroup_partitions_at_risk": 0, "moldau_consumergroup_at_risk a t 0 deleted": -1, "kafka_consumergroup_lag_sum a t": 0})

	// What is not in memory is read from the disk, after the look that missed it.
	send(1, 5*time.Hour)
	disk.Evict(func(name string) bool { return strings.Contains(name, "/t-1/") })
	commit("cold", 0, 2)
	await("a record on the disk", map[string]float64{"kafka_consumergroup_lag cold t 1": 1, "moldau_consumergroup_lag_seconds cold t 1": 5})
	if r, err := admin.DeleteGroup(ctx, "cold"); err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	await("forgotten", map[string]float64{"kafka_consumergroup_lag cold t 1": -1})

	// There is room for four partitions: groups have their series whole.
	commit("b", 1)
	commit("c", 1, 1)
	commit("d", 1)
	await("the others are counted", map[string]float64{"moldau_consumergroups_left_out": 2, "kafka_consumergroup_lag b t 0": 2, "kafka_consumergroup_lag c t 0": -1, "kafka_consumergroup_lag d t 0": -1})
	commit("\xff", 1)
	await("any bytes name a group", map[string]float64{"moldau_consumergroups_left_out": 3})

	// Of a partition that is offline nobody knows where it ends.
	if err := b.Close(ctx); err != nil {
		t.Fatal(err)
	}
	removed := 0
	dir := b.dirs.All()[0].Path() + "/t-1"
	files, err := disk.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := disk.Remove(dir + "/" + f.Name); err != nil {
			t.Fatal(err)
		}
		removed++
	}
	if err := disk.Remove(dir); err != nil || removed == 0 {
		t.Fatal(err, removed)
	}
	b = start()
	await("offline", map[string]float64{"kafka_consumergroup_current_offset a t 1": 2, "kafka_consumergroup_lag a t 1": -1, "moldau_consumergroup_lag_seconds a t 1": -1, "kafka_consumergroup_lag a t 0": 0})
}
