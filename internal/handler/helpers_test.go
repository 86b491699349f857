package handler

import (
	"context"
	"encoding/binary"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/cluster"
	"moldau/internal/config"
	"moldau/internal/controller"
	"moldau/internal/coordinator"
	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/metadata"
	"moldau/internal/metastore"
	"moldau/internal/network"
	"moldau/internal/partition"
	"moldau/internal/storage"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// broker is a Table with everything below it in memory. Its connection is that of a client
// on the listener "", which is what an empty network.Conn says.
type broker struct {
	*Table
	conn          *network.Conn
	groupMetadata *atomic.Pointer[group.Metadata]
	published     *metadata.Image
}

// newBroker starts node 1 with Kafka's defaults, except for sets ("key=value").
func newBroker(t testing.TB, sets ...string) *broker {
	t.Helper()
	return newBrokerOn(t, vfs.NewMem(), "", sets...)
}

// newBrokerOn has its files below root.
func newBrokerOn(t testing.TB, fsys vfs.FS, root string, sets ...string) *broker {
	t.Helper()
	c, _, err := config.Load(config.Sources{Sets: append([]string{"node.id=1", "log.flush.interval.messages=9223372036854775807"}, sets...)})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	store := metastore.NewSim().Open()
	t.Cleanup(func() { store.Close() })
	dirID := cluster.NewUUID()
	cl, err := cluster.Open(context.Background(), cluster.Options{
		Store: store, NodeID: 1, DirIDs: []wire.UUID{dirID}, Policy: Policy(c), Exclusive: true,
		Features:  controller.LatestFeatures(),
		Listeners: []metadata.Endpoint{{Name: "", Host: "127.0.0.1", Port: 9092, Protocol: "PLAINTEXT"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	dir, err := storage.OpenDir(storage.Options{FS: fsys, Path: root + "/log", MetaDir: root + "/meta", Log: log, PoisonBuffers: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	if err := dir.SetIdentity(storage.Identity{ClusterID: cl.ClusterID(), NodeID: 1, DirectoryID: dirID}); err != nil {
		t.Fatal(err)
	}
	parts := partition.NewManager(partition.Options{Self: 1, Dirs: storage.OneDir(dir), Config: c, Log: log})
	t.Cleanup(parts.Close)
	meta := new(atomic.Pointer[group.Metadata])
	o, err := GroupOptions(c, meta)
	if err != nil {
		t.Fatal(err)
	}
	o.Self, o.Partitions, o.Log = 1, parts, log
	groups := coordinator.New(o)
	t.Cleanup(groups.Close)
	table := New(Options{NodeID: 1, Cluster: cl, Partitions: parts, Groups: groups, Config: c, Log: log, PoisonBuffers: true})
	return &broker{Table: table, conn: new(network.Conn), groupMetadata: meta}
}

// Start is a burst of one request.
func (b *broker) Start(ctx context.Context, c *network.Conn, frame []byte, arrived time.Time) (network.Call, error) {
	call, err := b.Table.Start(ctx, c, frame, arrived)
	b.Settle(c)
	return call, err
}

// publish gives the newest image to those who act on it.
func (b *broker) publish() {
	im := b.o.Cluster.Image()
	meta := GroupMetadata(b.groupMetadata.Load(), b.published, im, b.o.Config)
	b.groupMetadata.Store(meta)
	b.published = im
	b.o.Groups.Retire(im)
	b.o.Partitions.Apply(im)
	b.o.Groups.Adopt(im)
	b.o.Groups.Tell(func(core *group.Shard, now shard.Time) shard.Effects { return core.MetadataChanged(now, meta) })
}

const testCorrelationID = 77

// frameOf encodes a request without its size.
func frameOf(req kmsg.Request) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, testCorrelationID)[4:]
}

// parseResponse decodes a response, without its size, in a version, and checks that it is nothing else.
func parseResponse(t testing.TB, req kmsg.Request, version int16, body []byte) kmsg.Response {
	t.Helper()
	resp := req.ResponseKind()
	resp.SetVersion(version)
	if id := int32(binary.BigEndian.Uint32(body)); id != testCorrelationID {
		t.Fatalf("%s v%d: correlation id %d", kmsg.NameForKey(req.Key()), version, id)
	}
	body = body[4:]
	if resp.IsFlexible() && req.Key() != kmsg.ApiVersions.Int16() {
		if body[0] != 0 {
			t.Fatalf("%s v%d: tags in the header", kmsg.NameForKey(req.Key()), version)
		}
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		t.Fatalf("%s v%d: %v", kmsg.NameForKey(req.Key()), version, err)
	}
	if again := resp.AppendTo(nil); len(again) != len(body) {
		t.Fatalf("%s v%d: response of %d bytes, %d of them understood", kmsg.NameForKey(req.Key()), version, len(body), len(again))
	}
	return resp
}

// serve runs one frame to its end, as the network does.
func (b *broker) serve(ctx context.Context, frame []byte) ([]byte, error) {
	conn := new(network.Conn) // requests of one connection do not start at once, those of a test may
	if binary.BigEndian.Uint16(frame) == uint16(kmsg.ApiVersions) {
		conn = b.conn
	}
	call, err := b.Start(ctx, conn, frame, time.Now())
	if err != nil {
		return nil, err
	}
	defer call.Release()
	var out []byte
	for _, p := range call.Wait(ctx).Pieces {
		out = append(out, p.Bytes...)
	}
	return out, nil
}

func (b *broker) exchange(t testing.TB, frame []byte) []byte {
	t.Helper()
	out, err := b.serve(t.Context(), frame)
	if err != nil {
		t.Fatal(err)
	}
	if n := binary.BigEndian.Uint32(out); int(n) != len(out)-4 {
		t.Fatalf("size %d before %d bytes", n, len(out)-4)
	}
	return out[4:]
}

// ask sends a request in a version and returns the response.
func ask[R kmsg.Response](t testing.TB, b *broker, req kmsg.Request, version int16) R {
	t.Helper()
	req.SetVersion(version)
	return parseResponse(t, req, version, b.exchange(t, frameOf(req))).(R)
}
