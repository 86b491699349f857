package controller

import (
	"fmt"
	"slices"

	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// Registration is a broker process that wants to join.
type Registration struct {
	ID          int32
	ClusterID   string // from its meta.properties; "" if it has none yet
	Incarnation wire.UUID
	Listeners   []metadata.Endpoint
	Rack        string
	DirIDs      []wire.UUID
	// PreviousIsDead: the caller proves that no other process with this id lives,
	// by an exclusive lock that both would have to hold.
	PreviousIsDead bool
}

// Rejection is why a registration is refused.
type Rejection struct {
	Code    wire.Code
	Message string
}

// RegisterBroker plans the registration of a broker with a new epoch, and what
// follows for its partitions: a process that starts may have lost what it had
// not flushed, so it leaves every in-sync set that has another live member; what
// only it has, it leads again with a new leader epoch.
func RegisterBroker(im *metadata.Image, r Registration) (Plan, *metadata.Broker, *Rejection) {
	if why := checkRegistration(im, r); why != nil {
		return Plan{}, nil, why
	}
	b := &metadata.Broker{
		ID: r.ID, Epoch: im.Seq() + 1, Incarnation: r.Incarnation, Rack: r.Rack,
		Listeners: slices.Clone(r.Listeners), DirIDs: slices.Clone(r.DirIDs),
	}
	var plan Plan
	plan.add(NoResult, put(metadata.BrokerKey(r.ID), metadata.EncodeBroker(b)))
	for t := range im.Topics() {
		plan.change(t, func(p *metadata.Partition) bool { return restarted(im, p, r.ID) })
	}
	return plan, b, nil
}

func checkRegistration(im *metadata.Image, r Registration) *Rejection {
	if r.ClusterID != "" && r.ClusterID != im.ClusterID() {
		return &Rejection{wire.InconsistentClusterID, fmt.Sprintf("Expected cluster ID %s, but got cluster ID %s", im.ClusterID(), r.ClusterID)}
	}
	for _, other := range im.Brokers() {
		if other.ID == r.ID {
			continue
		}
		for _, dir := range r.DirIDs {
			if slices.Contains(other.DirIDs, dir) {
				return &Rejection{wire.InvalidRegistration, fmt.Sprintf("Broker %d wants to register with log directory %s, which belongs to broker %d.", r.ID, dir, other.ID)}
			}
		}
	}
	old := im.Broker(r.ID)
	if old == nil || old.Incarnation == r.Incarnation || old.Fenced || r.PreviousIsDead {
		return nil
	}
	// Whoever holds the exclusive lock of the old process's directories outlived it.
	for _, dir := range r.DirIDs {
		if slices.Contains(old.DirIDs, dir) {
			return nil
		}
	}
	return &Rejection{wire.DuplicateBrokerRegistration, fmt.Sprintf("Another broker is registered with that broker id. If the broker was recently restarted this should self-resolve once the heartbeat manager expires the broker's session. (broker %d, incarnation %s)", r.ID, old.Incarnation)}
}

// restarted changes a partition after the process of one of its replicas started anew.
func restarted(im *metadata.Image, p *metadata.Partition, id int32) bool {
	inISR, inELR := slices.Contains(p.ISR, id), slices.Contains(p.ELR, id)
	if !inISR && !inELR {
		return false
	}
	if inISR && len(p.ISR) == 1 || !inISR && len(p.ISR) == 0 && len(p.ELR) == 1 {
		// The last one that is known to have everything.
		p.ISR, p.ELR = []int32{id}, without(p.ELR, id)
		p.Leader = id
		p.LeaderEpoch++
		if len(p.ISR) >= int(p.MinISR) {
			p.ELR, p.LastKnownELR = nil, nil
		}
		return true
	}
	isr := without(p.ISR, id)
	elr := without(p.ELR, id)
	if len(isr) >= int(p.MinISR) {
		p.ELR, p.LastKnownELR = nil, nil
	} else {
		p.ELR = elr
		if !slices.Contains(p.LastKnownELR, id) {
			p.LastKnownELR = append(slices.Clone(p.LastKnownELR), id)
		}
	}
	p.ISR = isr
	if p.Leader == id || p.Leader == -1 {
		leader := elect(im, p, id)
		if leader != p.Leader {
			p.Leader = leader
			p.LeaderEpoch++
		}
	}
	return true
}

// elect is the first active in-sync replica in the order of assignment, or -1.
func elect(im *metadata.Image, p *metadata.Partition, except int32) int32 {
	for _, id := range p.Replicas {
		if id != except && slices.Contains(p.ISR, id) && im.Broker(id).Active() {
			return id
		}
	}
	return -1
}

func without(ids []int32, id int32) []int32 {
	var out []int32
	for _, x := range ids {
		if x != id {
			out = append(out, x)
		}
	}
	return out
}

// PlacedReplica says in which log directory of a broker its replica of a partition is.
type PlacedReplica struct {
	TopicID   wire.UUID
	Partition int32
	Dir       wire.UUID
}

// ReportDirs takes over what a broker says of its log directories: which are online, so that new replicas go to those, and which
// replicas are elsewhere than they were assigned to. What is about topics that are gone is passed over. A broker without any keeps
// those that it had: by them its next process proves that it is the same.
func ReportDirs(im *metadata.Image, broker int32, online []wire.UUID, placed []PlacedReplica) Plan {
	var plan Plan
	if b := im.Broker(broker); b != nil && len(online) > 0 && !slices.Equal(b.DirIDs, online) {
		changed := *b
		changed.DirIDs = slices.Clone(online)
		plan.add(NoResult, put(metadata.BrokerKey(broker), metadata.EncodeBroker(&changed)))
	}
	byTopic := map[wire.UUID][]PlacedReplica{}
	for _, r := range placed {
		byTopic[r.TopicID] = append(byTopic[r.TopicID], r)
	}
	for t := range im.Topics() {
		if len(byTopic[t.ID]) == 0 {
			continue
		}
		ps := slices.Clone(t.Partitions)
		chunks := map[int]bool{}
		for _, r := range byTopic[t.ID] {
			if int(r.Partition) >= len(ps) || r.Partition < 0 {
				continue
			}
			p := &ps[r.Partition]
			i := slices.Index(p.Replicas, broker)
			if i < 0 || i < len(p.Dirs) && p.Dirs[i] == r.Dir {
				continue
			}
			dirs := make([]wire.UUID, len(p.Replicas))
			copy(dirs, p.Dirs)
			dirs[i] = r.Dir
			p.Dirs = dirs
			chunks[int(r.Partition)/metadata.ChunkPartitions] = true
		}
		for from := 0; from < len(ps); from += metadata.ChunkPartitions {
			if chunk := from / metadata.ChunkPartitions; chunks[chunk] {
				plan.add(NoResult, put(metadata.StaticKey(t.ID, chunk), metadata.EncodeStatic(ps[from:min(from+metadata.ChunkPartitions, len(ps))])))
			}
		}
	}
	return plan
}
