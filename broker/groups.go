package broker

import (
	"fmt"

	"moldau/internal/coordinator"
	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/handler"
	"moldau/internal/metadata"
)

// openGroups starts the coordinator of groups.
func (b *Broker) openGroups() error {
	o, err := handler.GroupOptions(b.o.Config, &b.groupMetadata)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	o.Self, o.Partitions, o.Log, o.Registerer = b.o.Config.NodeID(), b.partitions, b.log, b.registry
	b.groups = coordinator.New(o)
	return nil
}

// publish gives an image to those who act on it. Who serves a partition's state lets go of it before the partition
// changes, and takes it up afterwards.
func (b *Broker) publish(old, im *metadata.Image) {
	b.applyLimits(old, im)
	b.net.SetQuotas(im.Quotas())
	if old != nil && !b.sameDynamic(old, im) {
		b.security.Wake() // settings of TLS may have changed
	}
	b.groups.Retire(im)
	known := b.groupMetadata.Load()
	meta := handler.GroupMetadata(known, old, im, b.o.Config)
	b.groupMetadata.Store(meta) // before there are shards that ask for it
	b.partitions.Apply(im)
	b.groups.Adopt(im)
	if meta != known {
		b.groups.Tell(func(core *group.Shard, now shard.Time) shard.Effects { return core.MetadataChanged(now, meta) })
	}
	if gone := deletedTopics(old, im); len(gone) > 0 {
		b.groups.Tell(func(core *group.Shard, now shard.Time) shard.Effects { return core.TopicsDeleted(now, gone) })
	}
}

// deletedTopics are those of old that are not in im, whose names may belong to others by now.
func deletedTopics(old, im *metadata.Image) []group.Topic {
	if old == nil {
		return nil
	}
	var gone []group.Topic
	for _, t := range im.Since(old).Gone {
		gone = append(gone, group.Topic{Name: t.Name, ID: t.ID})
	}
	return gone
}
