package partition

import (
	"fmt"
	"log/slog"
	"testing"

	"moldau/internal/config"
	"moldau/internal/metadata"
	"moldau/internal/storage"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// cluster makes images as the store would.
type cluster struct {
	t   *testing.T
	im  *metadata.Image
	seq int64
}

func topicID(n int) wire.UUID { return wire.UUID{1, byte(n >> 8), byte(n)} }

// next is the image after a batch of changes.
func (c *cluster) next(changes ...metadata.Change) *metadata.Image {
	c.t.Helper()
	c.seq++
	im, err := c.im.Apply(append(changes, metadata.Change{Key: metadata.HeadKey, Value: metadata.EncodeHead(metadata.Head{Seq: c.seq})}))
	if err != nil {
		c.t.Fatal(err)
	}
	c.im = im
	return im
}

// topic is a topic that broker 1 leads alone.
func topic(n, partitions int, leaderEpoch int32) []metadata.Change {
	id := topicID(n)
	var out []metadata.Change
	for chunk := 0; chunk*metadata.ChunkPartitions < partitions; chunk++ {
		ps := make([]metadata.Partition, min(metadata.ChunkPartitions, partitions-chunk*metadata.ChunkPartitions))
		for i := range ps {
			ps[i] = metadata.Partition{Replicas: []int32{1}, ISR: []int32{1}, Leader: 1, LeaderEpoch: leaderEpoch, PartitionEpoch: leaderEpoch, MinISR: 1, FlushMessages: 1}
		}
		out = append(out, metadata.Change{Key: metadata.StaticKey(id, chunk), Value: metadata.EncodeStatic(ps)},
			metadata.Change{Key: metadata.DynamicKey(id, chunk), Value: metadata.EncodeDynamic(ps)})
	}
	return append(out, metadata.Change{Key: metadata.TopicKey(id), Value: metadata.EncodeTopic(fmt.Sprintf("t%d", n), partitions)})
}

func newCluster(t *testing.T) *cluster { return &cluster{t: t, im: metadata.Empty()} }

// newTestManager is one that ends with the test.
func newTestManager(t *testing.T, fsys vfs.FS) *Manager {
	t.Helper()
	m := startManager(t, fsys)
	t.Cleanup(func() { stopManager(t, m) })
	return m
}

func stopManager(t *testing.T, m *Manager) {
	t.Helper()
	m.Close()
	if err := m.o.Dirs.Close(); err != nil {
		t.Error(err)
	}
}

func startManager(t *testing.T, fsys vfs.FS) *Manager {
	t.Helper()
	return startManagerWith(t, storage.Options{FS: fsys})
}

func startManagerWith(t *testing.T, o storage.Options) *Manager {
	t.Helper()
	c, _, err := config.Load(config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	o.Path, o.MetaDir = "/log", "/meta"
	dir, err := storage.OpenDir(o)
	if err != nil {
		t.Fatal(err)
	}
	return NewManager(Options{Self: 1, Dirs: storage.OneDir(dir), Config: c, Log: slog.New(slog.DiscardHandler)})
}

// TestApplyLooksAtWhatChanged: an image that changes one topic of thousands costs one topic.
func TestApplyLooksAtWhatChanged(t *testing.T) {
	const topics = 2000
	c, m := newCluster(t), newTestManager(t, vfs.NewMem())
	var all []metadata.Change
	for n := range topics {
		all = append(all, topic(n, 1, 0)...)
	}
	apply := func(what string, im *metadata.Image, want int) {
		t.Helper()
		if got := m.Apply(im); got != want {
			t.Errorf("%s: %d topics were touched, not %d", what, got, want)
		}
	}
	apply("the first image", c.next(all...), topics)
	apply("nothing", c.next(), 0)
	apply("a new leader epoch", c.next(topic(7, 1, 1)...), 1)
	if _, epoch := lookup(t, m, "t7").Leader(); epoch != 1 {
		t.Errorf("t7 has leader epoch %d, not 1", epoch)
	}
	apply("a new topic", c.next(topic(topics, 3, 0)...), 1)
	lookup(t, m, "t2000")
	set := metadata.Change{Key: metadata.ConfigKey(metadata.TopicConfig, "t9"), Value: metadata.EncodeConfig(map[string]string{"max.message.bytes": "1234"})}
	apply("a topic's configuration", c.next(set), 1)
	if got := lookup(t, m, "t9").settings.Load().topic.MaxMessageBytes; got != 1234 {
		t.Errorf("t9 has max.message.bytes %d, not 1234", got)
	}
	set.Key = metadata.ConfigKey(metadata.BrokerConfig, "")
	apply("the configuration of all brokers", c.next(set), topics+1)
	gone := []metadata.Change{{Key: metadata.TopicKey(topicID(3)), Deleted: true}, {Key: metadata.StaticKey(topicID(3), 0), Deleted: true}, {Key: metadata.DynamicKey(topicID(3), 0), Deleted: true}}
	apply("a topic's end", c.next(gone...), 0)
	if _, err := m.Lookup("t3", wire.UUID{}, 0); err == nil {
		t.Error("t3 is there after its end")
	}
	old := c.im
	apply("the next image", c.next(topic(5, 1, 1)...), 1)
	apply("an older image", old, 0)
}

func lookup(t *testing.T, m *Manager, topic string) *Partition {
	t.Helper()
	p, err := m.Lookup(topic, wire.UUID{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
