package handler

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"moldau/internal/config"
	"moldau/internal/coordinator"
	"moldau/internal/coordinator/group"
	"moldau/internal/metadata"
	"moldau/internal/record"
	"moldau/internal/wire"
)

// Groups is the coordinator of the groups whose partitions of __consumer_offsets this broker leads.
type Groups = coordinator.Runtime[*group.Shard]

// GroupOptions is the part of the coordinator's options that configuration and this package decide. meta holds what
// groups know of the cluster, which a shard asks for when it begins; see GroupMetadata.
func GroupOptions(c *config.Broker, meta *atomic.Pointer[group.Metadata]) (coordinator.Options[*group.Shard], error) {
	codec := record.Codec(c.Int("offsets.topic.compression.codec"))
	if codec < record.None || codec > record.Zstd {
		return coordinator.Options[*group.Shard]{}, fmt.Errorf("offsets.topic.compression.codec is %d: set it to 0 (none), 1 (gzip), 2 (snappy), 3 (lz4) or 4 (zstd)", codec)
	}
	cfg := group.Config{
		OffsetMetadataMaxBytes:   int(c.Int("offset.metadata.max.bytes")),
		OffsetsRetentionMs:       c.Int("offsets.retention.minutes") * time.Minute.Milliseconds(),
		RetentionCheckIntervalMs: c.Int("offsets.retention.check.interval.ms"),
		MinSessionTimeoutMs:      c.Int("group.min.session.timeout.ms"),
		MaxSessionTimeoutMs:      c.Int("group.max.session.timeout.ms"),
		MaxSize:                  int(c.Int("group.max.size")),
		InitialRebalanceDelayMs:  c.Int("group.initial.rebalance.delay.ms"),
		ConsumerMaxSize:          int(c.Int("group.consumer.max.size")),
		Assignors:                c.List("group.consumer.assignors"),
		PatternRefreshMs:         c.Int("group.consumer.regex.refresh.interval.ms"),
		HistoryBytes:             int(c.Int("moldau.group.history.bytes") / max(c.Int("offsets.topic.num.partitions"), 1)),
	}
	if unknown := slices.IndexFunc(cfg.Assignors, func(a string) bool { return !slices.Contains(group.Assignors, a) }); unknown >= 0 || len(cfg.Assignors) == 0 {
		return coordinator.Options[*group.Shard]{}, fmt.Errorf("group.consumer.assignors is %q: set it to a list of %s", strings.Join(cfg.Assignors, ","), strings.Join(group.Assignors, " and "))
	}
	policy := strings.ToLower(c.Text("group.consumer.migration.policy"))
	cfg.Upgrade = policy == "upgrade" || policy == "bidirectional"
	cfg.Downgrade = policy == "downgrade" || policy == "bidirectional"
	random := func(out []byte) { _, _ = rand.Read(out) } // it never fails
	return coordinator.Options[*group.Shard]{
		Topic: offsetsTopic, Code: codeOf, Codec: codec,
		New:           func() *group.Shard { return group.New(cfg, meta.Load(), random) },
		CommitTimeout: c.Millis("offsets.commit.timeout.ms"),
		LoadBuffer:    int(c.Int("offsets.load.buffer.size")),
		KeptBuffer:    keptBufferBytes,
	}, nil
}

// keptBufferBytes is the largest buffer that the coordinator keeps between two appends.
const keptBufferBytes = 1 << 20

// atGroup runs an event at the coordinator of a group and returns its answer, or the code
// why there is none.
func atGroup[R any](ctx context.Context, rc *requestContext, id string, event coordinator.Event[*group.Shard]) (R, wire.Code) {
	var got any
	pending, err := rc.table.o.Groups.Start(id, event)
	rc.waits()
	if err == nil {
		got, err = pending.Wait(ctx)
	}
	if err != nil {
		if !errors.Is(err, coordinator.ErrNotCoordinator) && !errors.Is(err, coordinator.ErrLoading) && !errors.Is(err, coordinator.ErrClosed) && ctx.Err() == nil {
			rc.table.refused.log(rc, "a group was not served", err)
		}
		var none R
		return none, groupCode(err)
	}
	answer, ok := got.(R)
	if !ok {
		panic(fmt.Sprintf("BUG: the group core answers %T, expected %T", got, answer))
	}
	return answer, wire.None
}

// groupClient is who sends a request, as groups know their members.
func (rc *requestContext) groupClient() group.Client {
	c := group.Client{Host: javaAddress(rc.host.Addr())}
	if rc.header.ClientID != "" {
		c.ID = rc.header.ClientID
	}
	if t := rc.table; t.access != nil {
		q := rc.query(access{topicResource, opDescribe}, "")
		c.MayDescribe = func(topic string) bool {
			q.Name = topic
			return t.access.rules.Decide(t.acls(), q).Allowed
		}
	}
	return c
}

// javaAddress prints an address as Java does, and so Kafka's tools expect it.
func javaAddress(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return "/" + a.String()
	}
	out := []byte{'/'}
	b := a.As16()
	for i := 0; i < len(b); i += 2 {
		if i > 0 {
			out = append(out, ':')
		}
		out = fmt.Appendf(out, "%x", uint16(b[i])<<8|uint16(b[i+1]))
	}
	return string(out)
}

// requestedTopic finds a topic that a request names, or whose id it gives where ids is set.
func requestedTopic(im *metadata.Image, ids bool, name string, id wire.UUID) *metadata.Topic {
	if ids {
		return im.TopicByID(id)
	}
	return im.Topic(name)
}

// has tells whether a topic has that partition.
func has(t *metadata.Topic, partition int32) bool {
	return partition >= 0 && int(partition) < len(t.Partitions)
}
