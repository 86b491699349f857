// Package coordinator runs passive cores (package shard) as replicated state machines, each over one
// partition of an internal topic: it alone knows which shards this broker serves, how they are loaded from their
// log, when a core is called, and when what it answers may leave. Its door is [Runtime].
//
// A shard belongs to a partition and a leader epoch, and goes one way:
//
//	queued ─► loading ─► settling ─► active ─► closed
//	  ▲          │
//	  └─ failed ◄┘   again after a while; an active shard whose log surprised it goes there too
//
// It loads the log up to the end that it has, settles when the high watermark has reached that end (before,
// it may know what its predecessor never told anybody), and then serves.
//
// # Invariants
//
//	CR1  What a core was told by Replay is what stands in the log below the shard's end.
//	CR2  Every append is made under the leader epoch of the shard; where it is another one by now, the shard closes.
//	CR3  A timeout reverts nothing: after a local append the log alone decides.
//	CR4  Nobody hears of what could still be lost: a reply leaves when the high watermark has passed all that the
//	     shard had appended when its core gave it, or if the core calls it early.
//	CR5  A shard whose batch did not land where it expected it is loaded again.
//	CR6  After Retire has returned, no shard of a lost leadership appends, and who waited there has an answer.
//
// # Waiting
//
// No goroutine belongs to a shard, and nothing polls. An event runs in the goroutine of the request that
// brings it; that goroutine then waits for its reply, and after it for the high watermark, by itself
// (partition.WaitCommitted). One goroutine sleeps until the earliest deadline of all shards and starts
// one for each tick or retry that is due; loads run on a few workers that end when there is nothing to load.
// Close waits for all.
//
// # Locks
//
// Runtime.mu guards the table of shards. runner.mu orders the events of one shard and is held over its append. Leaves below it:
// loads.mu, clock.mu. Runtime.mu and runner.mu are never held together.
package coordinator
