// Package shard is the contract between the coordinator runtime and the passive cores that
// it runs: what a core is told, and what it answers. A core is the state of the groups (later
// also transactions, shares) of one partition of an internal topic, and only a fold of that
// partition's records plus what may be lost with the process: who waits, and timers.
//
// Rules of the contract:
//
//	C1  The runtime calls a core with one event at a time. A core has no goroutine, lock,
//	    clock, I/O, randomness or dependence on map order; what it needs of those comes with the event.
//	C2  Hard state changes only in Replay: while loading, and right after the Records of an
//	    event were appended. An event that returns Records decides; Replay carries out.
//	C3  Records of one event are appended as one batch, all or nothing, in the order of events.
//	C4  A reply leaves only when everything that the shard appended up to its event is
//	    committed (below the high watermark), unless it is Early. So no answer shows what could be lost.
//	C5  If the append failed for sure, nothing was written: the runtime drops the event's
//	    replies and tells the core by Failed, which takes back what the event assumed and answers.
//	    If the outcome is not known the shard is thrown away and loaded again; a core never guesses.
//	C6  Replay does not depend on compaction: a tombstone for an unknown key is no error, and a record
//	    may come without the records it was once written after.
package shard

import "moldau/internal/wire"

// Time is the moment of an event. Deadlines count in MonoMs, which never jumps; what is written
// into records is WallMs.
type Time struct {
	MonoMs int64 // since an arbitrary moment
	WallMs int64 // since the epoch
}

// Record is a record of the internal topic. A nil Value is a tombstone. Both are the runtime's
// once returned in Effects; in Replay they are only lent.
type Record struct{ Key, Value []byte }

// Ticket stands for a request that waits for its reply. The runtime gives each request one that
// no other has in the life of the shard; zero is none.
type Ticket uint64

// Reply answers the request behind a ticket, in the event that brought it or in a later one. Of
// several replies to one ticket the first counts; one to a request that has gone is ignored.
type Reply struct {
	Ticket   Ticket
	Response any  // of the type that the event's method documents
	Early    bool // shows nothing that is not committed, and need not wait (C4)
}

// Effects is what the runtime does after an event.
type Effects struct {
	Records []Record
	Replies []Reply
}

// Core is a passive state machine of one shard. Its own methods, one for each kind of request, take the Time, the request
// and its Ticket, and return Effects; the runtime knows only these:
type Core interface {
	// Replay folds one record into the state. An error means that the log cannot be understood: the shard
	// is not served until it loads. Records of unknown type are skipped, not errors.
	Replay(r Record) error
	// Loaded tells that the whole log was replayed and is committed: timers begin, full again.
	Loaded(now Time) Effects
	// Deadline is the MonoMs at which Tick wants to be called, math.MaxInt64 for never.
	Deadline() int64
	// Tick does what is due.
	Tick(now Time) Effects
	// Failed tells that the Records of e, the Effects of the event before, were not written, and why (C5).
	// The result has replies only.
	Failed(now Time, e Effects, why wire.Code) Effects
}
