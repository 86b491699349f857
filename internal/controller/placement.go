package controller

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// placer puts replicas on brokers and into their log directories.
type placer struct {
	im     *metadata.Image
	active []*metadata.Broker // may take replicas; consecutive ones are in different racks where possible
	// load counts the replicas in each directory of the brokers that have several.
	load map[wire.UUID]int
}

func newPlacer(im *metadata.Image) *placer {
	pl := &placer{im: im}
	several := false
	for _, b := range im.Brokers() {
		if b.Active() {
			pl.active = append(pl.active, b)
			several = several || len(b.DirIDs) > 1
		}
	}
	pl.active = spreadRacks(pl.active)
	if several {
		pl.load = map[wire.UUID]int{}
		for t := range im.Topics() {
			for i := range t.Partitions {
				for _, dir := range t.Partitions[i].Dirs {
					pl.load[dir]++
				}
			}
		}
	}
	return pl
}

// spreadRacks deals the brokers out rack by rack: the first of each, then the second of each.
func spreadRacks(brokers []*metadata.Broker) []*metadata.Broker {
	type card struct {
		turn   int
		broker *metadata.Broker
	}
	seen := map[string]int{}
	cards := make([]card, len(brokers))
	for i, b := range brokers {
		cards[i] = card{seen[b.Rack], b}
		seen[b.Rack]++
	}
	slices.SortStableFunc(cards, func(x, y card) int {
		return cmp.Or(cmp.Compare(x.turn, y.turn), cmp.Compare(x.broker.Rack, y.broker.Rack), cmp.Compare(x.broker.ID, y.broker.ID))
	})
	out := make([]*metadata.Broker, len(cards))
	for i, c := range cards {
		out[i] = c.broker
	}
	return out
}

// cannotPlace says why no partition can have rf replicas, in Kafka's words, or "".
func (pl *placer) cannotPlace(rf int) string {
	registered := len(pl.im.Brokers())
	switch {
	case len(pl.active) == 0:
		return "All brokers are currently fenced or have all their log directories cordoned."
	case rf > registered:
		return fmt.Sprintf("The target replication factor of %d cannot be reached because only %d broker(s) are registered or some brokers have all their log directories cordoned.", rf, registered)
	case rf > len(pl.active):
		return fmt.Sprintf("The target replication factor of %d cannot be reached because only %d of %d registered broker(s) are alive.", rf, len(pl.active), registered)
	}
	return ""
}

// place stripes partitions first to first+n-1 over the active brokers. Leaders
// rotate from a start that the topic's random id gives; with each turn the
// followers shift, so that a broker's load goes to many when it fails.
func (pl *placer) place(id wire.UUID, first, n, rf int) [][]int32 {
	brokers := len(pl.active)
	start := int(binary.BigEndian.Uint32(id[12:]) % uint32(brokers))
	out := make([][]int32, n)
	for i := range out {
		p := first + i
		leader := (start + p) % brokers
		replicas := make([]int32, 0, rf)
		replicas = append(replicas, pl.active[leader].ID)
		for k := 1; k < rf; k++ {
			// The followers walk around the ring of the others from a place that shifts each turn.
			step := 1 + (p/brokers+k-1)%(brokers-1)
			replicas = append(replicas, pl.active[(leader+step)%brokers].ID)
		}
		out[i] = replicas
	}
	return out
}

// checkManual says what is wrong with a manual assignment, in Kafka's words, or
// "". rf is the number of replicas of the partitions before, or -1.
func (pl *placer) checkManual(brokers []int32, rf int) string {
	if len(brokers) == 0 {
		return "The manual partition assignment includes an empty replica list."
	}
	sorted := slices.Sorted(slices.Values(brokers))
	for i, id := range sorted {
		if pl.im.Broker(id) == nil {
			return fmt.Sprintf("The manual partition assignment includes broker %d, but no such broker is registered.", id)
		}
		if i > 0 && sorted[i-1] == id {
			return fmt.Sprintf("The manual partition assignment includes the broker %d more than once.", id)
		}
	}
	if rf >= 0 && len(brokers) != rf {
		return fmt.Sprintf("The manual partition assignment includes a partition with %d replica(s), but this is not consistent with previous partitions, which have %d replica(s).", len(brokers), rf)
	}
	return ""
}

func (pl *placer) anyActive(brokers []int32) bool {
	return slices.ContainsFunc(brokers, func(id int32) bool { return pl.im.Broker(id).Active() })
}

// partitions are new partitions on these replicas: the active ones are in sync, and the first leads.
func (pl *placer) partitions(replicas [][]int32, e Effective) []metadata.Partition {
	ps := make([]metadata.Partition, len(replicas))
	for i, rs := range replicas {
		p := metadata.Partition{Replicas: slices.Clone(rs), MinISR: boundMinISR(e.MinISR, len(rs)), FlushMessages: e.FlushMessages, FlushMs: e.FlushMs}
		for _, id := range rs {
			p.Dirs = append(p.Dirs, pl.directory(id))
			if pl.im.Broker(id).Active() {
				p.ISR = append(p.ISR, id)
			}
		}
		p.Leader = p.ISR[0]
		ps[i] = p
	}
	return ps
}

// directory is the log directory for one more replica on a broker: the one with
// the fewest. Zero (Kafka's UNASSIGNED) leaves the choice to a broker that named none.
func (pl *placer) directory(broker int32) wire.UUID {
	dirs := pl.im.Broker(broker).DirIDs
	if len(dirs) == 0 {
		return wire.UUID{}
	}
	if len(dirs) == 1 {
		return dirs[0]
	}
	best := slices.MinFunc(dirs, func(x, y wire.UUID) int {
		return cmp.Or(cmp.Compare(pl.load[x], pl.load[y]), bytes.Compare(x[:], y[:]))
	})
	pl.load[best]++
	return best
}
