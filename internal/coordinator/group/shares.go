package group

import (
	"bytes"
	"cmp"
	"slices"

	"moldau/internal/wire"
)

// share is what somebody has of one topic.
type share struct {
	topic  wire.UUID
	parts  []int32 // sorted
	epochs []int32 // member epoch in which each was assigned; nil in a target
}

// shares are what somebody has, sorted by topic. They are never changed.
type shares []share

func compareIDs(a, b wire.UUID) int { return bytes.Compare(a[:], b[:]) }

// of is what there is of a topic; the share of none is empty.
func (s shares) of(topic wire.UUID) share {
	if i, ok := slices.BinarySearchFunc(s, topic, func(x share, id wire.UUID) int { return compareIDs(x.topic, id) }); ok {
		return s[i]
	}
	return share{topic: topic}
}

// find is where a partition stands in the share.
func (x *share) find(p int32) (int, bool) { return slices.BinarySearch(x.parts, p) }

func (x *share) has(p int32) bool { _, ok := x.find(p); return ok }

// epochOf is the epoch in which a partition was assigned.
func (s shares) epochOf(topic wire.UUID, p int32) (epoch int32, ok bool) {
	x := s.of(topic)
	i, ok := x.find(p)
	if !ok || x.epochs == nil {
		return 0, false
	}
	return x.epochs[i], true
}

func (x *share) add(p, epoch int32) {
	x.parts = append(x.parts, p)
	x.epochs = append(x.epochs, epoch)
}

func (s shares) equal(o shares) bool {
	return slices.EqualFunc(s, o, func(a, b share) bool {
		return a.topic == b.topic && slices.Equal(a.parts, b.parts) && slices.Equal(a.epochs, b.epochs)
	})
}

// sameParts compares partitions only.
func (s shares) sameParts(o shares) bool {
	return slices.EqualFunc(s, o, func(a, b share) bool { return a.topic == b.topic && slices.Equal(a.parts, b.parts) })
}

// withEpoch are the same partitions, all assigned in one epoch.
func (s shares) withEpoch(epoch int32) shares {
	out := make(shares, len(s))
	for i := range s {
		out[i] = share{s[i].topic, s[i].parts, slices.Repeat([]int32{epoch}, len(s[i].parts))}
	}
	return out
}

// with adds another's partitions; where both have one, the other's epoch counts.
func (s shares) with(o shares) shares {
	return slices.Concat(s, o).normal()
}

// normal sorts what was read from elsewhere, joins shares of one topic, and drops empty ones. Of a partition
// that is there twice the last counts.
func (s shares) normal() shares {
	if s.isNormal() {
		return s
	}
	s = slices.Clone(s)
	slices.SortStableFunc(s, func(a, b share) int { return compareIDs(a.topic, b.topic) })
	var out shares
	for len(s) > 0 {
		n := 1
		for n < len(s) && s[n].topic == s[0].topic {
			n++
		}
		if x := joined(s[:n]); len(x.parts) > 0 {
			out = append(out, x)
		}
		s = s[n:]
	}
	return out
}

func (s shares) isNormal() bool {
	for i := range s {
		if len(s[i].parts) == 0 || i > 0 && compareIDs(s[i-1].topic, s[i].topic) >= 0 {
			return false
		}
		for j := 1; j < len(s[i].parts); j++ {
			if s[i].parts[j-1] >= s[i].parts[j] {
				return false
			}
		}
	}
	return true
}

// joined is one share of several of the same topic.
func joined(xs []share) share {
	type entry struct{ part, epoch int32 }
	var all []entry
	epochs := false
	for _, x := range xs {
		for i, p := range x.parts {
			e := entry{part: p}
			if x.epochs != nil {
				e.epoch, epochs = x.epochs[i], true
			}
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b entry) int { return cmp.Compare(a.part, b.part) })
	out := share{topic: xs[0].topic}
	for i, e := range all {
		if i+1 < len(all) && all[i+1].part == e.part {
			continue
		}
		out.parts = append(out.parts, e.part)
		if epochs {
			out.epochs = append(out.epochs, e.epoch)
		}
	}
	return out
}
