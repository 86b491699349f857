package metadata

import (
	"bytes"
	"maps"
)

// Delta is what one Image has and an older one has not. It is found by comparing what they do not share, so it costs
// a look at each topic's pointer and no more.
type Delta struct {
	Touched []*Topic // new, or otherwise than before: partitions or configuration; by id
	Gone    []*Topic // of the older one, by id
}

// Since compares the topics of im with those of old; nil has none. A configuration of brokers that changed touches no topic here:
// see SameConfig.
func (im *Image) Since(old *Image) Delta {
	var d Delta
	var before []*Topic
	if old != nil {
		before = old.topicsByID
	}
	for _, t := range im.topicsByID {
		for len(before) > 0 && bytes.Compare(before[0].ID[:], t.ID[:]) < 0 {
			d.Gone = append(d.Gone, before[0])
			before = before[1:]
		}
		same := len(before) > 0 && before[0].ID == t.ID
		if !same || before[0] != t || !im.SameConfig(old, TopicConfig, t.Name) {
			d.Touched = append(d.Touched, t)
		}
		if same {
			before = before[1:]
		}
	}
	d.Gone = append(d.Gone, before...)
	return d
}

// SameConfig reports whether a resource has in both images the same set for it.
func (im *Image) SameConfig(old *Image, kind ConfigKind, name string) bool {
	return maps.Equal(im.Config(kind, name), old.Config(kind, name))
}
