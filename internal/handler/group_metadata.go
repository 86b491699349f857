package handler

import (
	"maps"
	"slices"
	"strconv"

	"moldau/internal/config"
	"moldau/internal/coordinator/group"
	"moldau/internal/metadata"
)

// GroupMetadata is what groups know of the cluster under an image: old, if nothing has changed for them. before is the
// image that old was made of, nil at first.
func GroupMetadata(old *group.Metadata, before, im *metadata.Image, c *config.Broker) *group.Metadata {
	dynamic := c.WithDynamic(im.Config(metadata.BrokerConfig, strconv.Itoa(int(c.NodeID()))), im.Config(metadata.BrokerConfig, ""))
	m := group.Metadata{Version: im.Seq(), NewTopics: im.Seq(), Settings: groupSettings(dynamic, nil)}
	for name, own := range im.Configs(metadata.GroupConfig) {
		if m.PerGroup == nil {
			m.PerGroup = map[string]group.GroupSettings{}
		}
		m.PerGroup[name] = groupSettings(dynamic, own)
	}
	if old == nil {
		return m.WithTopics(groupTopics(nil, nil, im))
	}
	topics := groupTopics(old, before, im)
	if !slices.ContainsFunc(topics, func(t *group.TopicMetadata) bool { return im.TopicByID(t.ID) != nil && before.TopicByID(t.ID) == nil }) {
		m.NewTopics = old.NewTopics
	}
	if slices.Equal(topics, old.Topics()) && m.Settings == old.Settings && maps.Equal(m.PerGroup, old.PerGroup) {
		return old
	}
	return m.WithTopics(topics)
}

// groupTopics are the topics of im; those that are for groups what they were in before are the same.
func groupTopics(old *group.Metadata, before, im *metadata.Image) []*group.TopicMetadata {
	topics := make([]*group.TopicMetadata, 0, im.TopicCount())
	var was []*group.TopicMetadata
	same := false // the racks of all brokers
	if old != nil {
		was = old.Topics()
		same = sameRacks(before, im)
	}
	for t := range im.Topics() {
		for len(was) > 0 && was[0].Name < t.Name {
			was = was[1:]
		}
		if len(was) > 0 && was[0].Name == t.Name {
			if same && before.Topic(t.Name) == t {
				topics = append(topics, was[0])
				continue
			}
			if x := groupTopic(im, t); !x.Equal(was[0]) {
				topics = append(topics, x)
			} else {
				topics = append(topics, was[0])
			}
			continue
		}
		topics = append(topics, groupTopic(im, t))
	}
	return topics
}

func groupTopic(im *metadata.Image, t *metadata.Topic) *group.TopicMetadata {
	racks := make([][]string, len(t.Partitions))
	for i := range t.Partitions {
		for _, id := range t.Partitions[i].Replicas {
			if b := im.Broker(id); b != nil && b.Rack != "" {
				racks[i] = append(racks[i], b.Rack)
			}
		}
	}
	return group.NewTopicMetadata(t.Name, t.ID, racks)
}

func sameRacks(a, b *metadata.Image) bool {
	return slices.EqualFunc(a.Brokers(), b.Brokers(), func(x, y *metadata.Broker) bool { return x.ID == y.ID && x.Rack == y.Rack })
}

// groupSettings are those of a group that has these of its own. What is outside of the limits of the broker, which may have
// become others since it was set, counts as the limit.
func groupSettings(c *config.Broker, own map[string]string) group.GroupSettings {
	get := func(what string) int64 {
		v := c.Int("group.consumer." + what)
		if text, ok := own["consumer."+what]; ok {
			if n, err := strconv.ParseInt(text, 10, 32); err == nil {
				v = n
			}
		}
		return min(max(v, c.Int("group.consumer.min."+what)), c.Int("group.consumer.max."+what))
	}
	return group.GroupSettings{SessionTimeoutMs: get("session.timeout.ms"), HeartbeatIntervalMs: int32(get("heartbeat.interval.ms")), AssignmentIntervalMs: get("assignment.interval.ms")}
}
