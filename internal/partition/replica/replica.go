// Package replica is the passive core of one partition's replica: which leader epoch
// it serves, who is in sync, and so how far the high watermark may go. It is a state
// machine without goroutine, lock, clock or I/O; package partition runs it.
//
// # Invariants
//
//	R1  The high watermark is at most the stable end of every member of the ISR, and it
//	    never falls (cluster invariants 10 and 13): the stable end of a replica is its
//	    flushed offset when a flush policy is in force, else its log end.
//	R2  It does not move while fewer replicas than the minimum are in sync (KIP-966).
//	R3  The leader epoch never falls; a state with an older partition epoch is ignored.
package replica

import (
	"fmt"
	"slices"
)

// Assignment is what the metadata says of a partition, as far as its replicas care.
type Assignment struct {
	Leader         int32 // -1: none
	LeaderEpoch    int32
	PartitionEpoch int32
	ISR            []int32
	MinISR         int32
	FlushPolicy    bool // records count when they are flushed
}

// Ends is how far the local log reaches.
type Ends struct {
	LogEnd  int64
	Flushed int64
}

// State is one replica. The zero value is offline; Apply makes it more.
type State struct {
	self       int32
	assigned   bool
	a          Assignment
	peers      map[int32]int64 // stable ends of the other in-sync replicas, -1 until they fetched in this epoch
	ends       Ends
	hw         int64
	epochStart int64 // log end when this leader epoch began
}

// New returns the state of replica self, of whose log nothing is known yet: as far as this state goes it is empty.
func New(self int32) State {
	return State{self: self, a: Assignment{Leader: -1, LeaderEpoch: -1, PartitionEpoch: -1}}
}

// Found notes where the log ends, once, before it is used. What is flushed was committed; and the leader epochs
// that began meanwhile began there.
func (s *State) Found(e Ends) {
	s.ends, s.hw, s.epochStart = e, e.Flushed, e.LogEnd
	s.advance()
}

// Apply takes over what the metadata says. It reports whether the leadership changed,
// which ends what waits for the old leader.
func (s *State) Apply(a Assignment) (changed bool) {
	if s.assigned && a.PartitionEpoch < s.a.PartitionEpoch {
		return false
	}
	if a.LeaderEpoch < s.a.LeaderEpoch {
		panic(fmt.Sprintf("BUG: leader epoch falls from %d to %d while the partition epoch goes from %d to %d",
			s.a.LeaderEpoch, a.LeaderEpoch, s.a.PartitionEpoch, a.PartitionEpoch))
	}
	changed = !s.assigned || a.LeaderEpoch != s.a.LeaderEpoch || a.Leader != s.a.Leader
	s.assigned = true
	s.a = a
	if changed {
		s.peers = nil
		s.epochStart = s.ends.LogEnd
	}
	for _, id := range a.ISR {
		if _, known := s.peers[id]; id != s.self && !known {
			if s.peers == nil {
				s.peers = map[int32]int64{}
			}
			s.peers[id] = -1
		}
	}
	for id := range s.peers {
		if !slices.Contains(a.ISR, id) {
			delete(s.peers, id)
		}
	}
	s.advance()
	return changed
}

// Moved notes that the local log grew or was flushed. It reports whether the high
// watermark rose.
func (s *State) Moved(e Ends) bool {
	s.ends = Ends{max(s.ends.LogEnd, e.LogEnd), max(s.ends.Flushed, e.Flushed)}
	return s.advance()
}

func (s *State) advance() bool {
	if !s.Leads() || int32(len(s.a.ISR)) < s.a.MinISR || !slices.Contains(s.a.ISR, s.self) {
		return false
	}
	hw := s.stable()
	for _, end := range s.peers {
		hw = min(hw, end)
	}
	if hw <= s.hw {
		return false
	}
	s.hw = hw
	return true
}

func (s *State) stable() int64 {
	if s.a.FlushPolicy { // protection: high watermark
		return s.ends.Flushed
	}
	return s.ends.LogEnd
}

// Leads reports whether this replica leads the partition.
func (s *State) Leads() bool { return s.assigned && s.a.Leader == s.self }

// Leader and LeaderEpoch are the metadata's, -1 without one.
func (s *State) Leader() int32      { return s.a.Leader }
func (s *State) LeaderEpoch() int32 { return s.a.LeaderEpoch }

// Ends is how far the local log reaches, as far as it was told.
func (s *State) Ends() Ends { return s.ends }

// HighWatermark is the offset below which records are committed.
func (s *State) HighWatermark() int64 { return s.hw }

// Settled reports whether the high watermark has reached the start of this leader
// epoch: before, it may lag behind what an earlier leader told clients.
func (s *State) Settled() bool { return s.hw >= s.epochStart }

// InSync reports whether enough replicas are in sync for acks=all.
func (s *State) InSync() (ok bool, have, need int32) {
	have, need = int32(len(s.a.ISR)), s.a.MinISR
	return have >= need, have, need
}
