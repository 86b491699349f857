package broker

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/internal/config"
	"moldau/internal/metastore"
	"moldau/internal/vfs"
	"moldau/test/leak"
)

// startInMemory starts a broker whose disk and metadata outlive it.
func startInMemory(t *testing.T, fsys vfs.FS, store metastore.Store) *Broker {
	t.Helper()
	c, _, err := config.Load(config.Sources{Sets: []string{"node.id=1", "listeners=PLAINTEXT://127.0.0.1:0", "moldau.http.listener=off"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Start(t.Context(), Options{Config: c, Log: slog.New(slog.DiscardHandler), FS: fsys, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func client(t *testing.T, b *Broker, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append(opts, kgo.SeedBrokers(b.Addrs()[0].String()))...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestOffsetsLiveAsLongAsTheirTopic: they are there after a restart, and go with the topic.
func TestOffsetsLiveAsLongAsTheirTopic(t *testing.T) {
	defer leak.Check(t)()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	disk, store := vfs.NewMem(), metastore.NewSim().Open()
	defer store.Close()
	b := startInMemory(t, disk, store)
	c := client(t, b)
	admin := kadm.NewClient(c)
	for _, topic := range []string{"stays", "goes"} {
		if _, err := admin.CreateTopic(ctx, 1, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	var offsets kadm.Offsets
	offsets.AddOffset("stays", 0, 1, -1)
	offsets.AddOffset("goes", 0, 2, -1)
	if err := admin.CommitAllOffsets(ctx, "g", offsets); err != nil {
		t.Fatal(err)
	}
	var only kadm.Offsets
	only.AddOffset("goes", 0, 3, -1)
	if err := admin.CommitAllOffsets(ctx, "only", only); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := b.Close(ctx); err != nil {
		t.Fatal(err)
	}

	b = startInMemory(t, disk, store)
	defer func() {
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	c = client(t, b)
	defer c.Close()
	admin = kadm.NewClient(c)
	got, err := admin.FetchOffsets(ctx, "g")
	if err != nil {
		t.Fatal(err)
	}
	stays, _ := got.Lookup("stays", 0)
	if goes, _ := got.Lookup("goes", 0); stays.At != 1 || goes.At != 2 {
		t.Fatalf("after a restart: %v", got)
	}
	if _, err := admin.DeleteTopic(ctx, "goes"); err != nil {
		t.Fatal(err)
	}
	// The two groups may live in two partitions of __consumer_offsets, which learn of the deletion one after the other.
	for ; ; time.Sleep(5 * time.Millisecond) {
		groups, err := admin.ListGroups(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, err = admin.FetchOffsets(ctx, "g"); err != nil {
			t.Fatal(err)
		}
		if _, there := got.Lookup("stays", 0); !there {
			t.Fatalf("after the deletion: %v", got)
		}
		if _, there := groups["only"]; !there && len(got) == 1 { // a group that has nothing any more is gone
			break
		}
	}
}

// TestAWaitingMemberDoesNotHoldUpTheEnd: a broker that stops lets go of members that wait for a rebalance.
func TestAWaitingMemberDoesNotHoldUpTheEnd(t *testing.T) {
	store := metastore.NewSim().Open()
	defer store.Close()
	b := startInMemory(t, vfs.NewMem(), store)
	members := make([]*kgo.Client, 2)
	for i := range members {
		members[i] = client(t, b, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.AllowAutoTopicCreation(), kgo.InstanceID(fmt.Sprint(i)),
			kgo.SessionTimeout(5*time.Minute), kgo.HeartbeatInterval(time.Minute))
		defer members[i].Close()
		if i == 0 { // it will not come back before its next heartbeat: the other waits
			for admin := kadm.NewClient(members[i]); ; time.Sleep(5 * time.Millisecond) {
				if g, err := admin.DescribeGroups(t.Context(), "g"); err == nil && g["g"].State == "Stable" {
					break
				}
			}
		}
	}
	for admin := kadm.NewClient(members[0]); ; time.Sleep(5 * time.Millisecond) {
		if g, err := admin.DescribeGroups(t.Context(), "g"); err == nil && g["g"].State == "PreparingRebalance" {
			break
		}
	}
	if err := b.Close(t.Context()); err != nil { // the drain has no bound
		t.Error(err)
	}
}
