// Package storage keeps partitions as segmented, append-only logs in Kafka's own
// file formats, and alone knows which of their bytes are durable. Its door is Dirs (the log
// dirs of a broker: which partition is in which), Dir (one of them: identity, lock, background work, cleaning), Held (a partition whose
// log is open while it is used) and Log (one partition: Append, Read, ReadNow, RequestFlush, Truncate, RaiseStart, lookups).
//
// # Invariants
//
// The numbers are used in the code and in the model test.
//
//	S1  Offsets are dense per batch, but for gaps that compaction leaves: a batch begins where
//	    the one before ended, and an offset, once readable below Flushed, never changes its record.
//	S2  logStart <= flushed <= logEnd. Flushed only falls in Truncate, and never below logStart.
//	S3  Whatever lies below Flushed survives a power loss: the bytes, the names of the
//	    files and directories that hold them, and the fact that there is data.
//	S4  After recovery the log is a prefix of what was appended, and holds at least
//	    everything below the Flushed that was ever reported. What of that is known to recovery and is bad is
//	    not cut off but damage (S14): durable.go says how the two are told apart.
//	S5  Leader epochs never fall with the offset, and the epoch cache equals what the
//	    batches from the log start on say (plus at most one entry at the log end).
//	S6  The producer state is the fold of the batches: after recovery it gives the same
//	    verdict on the next batch, and knows the same five batches, as before.
//	S7  An index lookup finds the batch that a scan from the first byte finds.
//	S8  A read plan stays readable until it is released, whatever happens to the log, and
//	    a read that meets a segment which has just left the log looks again.
//	S9  A partition whose data was recorded and whose directory is gone is offline, from the start on; it
//	    never becomes an empty log, also not in another log dir (see dirs.go).
//	S10 Recovery removes nothing: torn tails and foreign files are set aside first. It only
//	    finishes what was decided: files marked .deleted, .cleaned or .swap, segments below the log start.
//	S11 After a failed write or sync the log dir is fenced: it acknowledges nothing more.
//	    A full volume fences nothing; before it is full producers are refused (room.go).
//	S12 The log start never falls, also not over a power loss: it is durable before it is seen.
//	S13 A compacted log reads as the same map of last committed values: records keep offset, time and
//	    bytes; the last record of each key, everything from the last stable offset on, the marker of
//	    every transaction of which something is left, and the last batch of each live producer stay.
//	S14 Bytes that are known to be damaged are not served as good ones, and are not hidden: neither compaction nor truncation
//	    reads past them, what is before and behind them is served, and a restart knows of them (see damage.go). A damaged segment takes no
//	    more appends.
//	    Before they are known, a reader gets only batches that continue each other (see batchOrder); their CRC is the client's to check.
//	S15, S16: the journal, see journal.go.
//	S17 A log is recovered before its first use, and what is known of it before (Held) but for S9 is a hint.
//	S18 Whoever uses a log has the only one that there is of the partition; one that nobody uses may be closed, and
//	    opens as what it was: see Held and closer.go.
//	S19 A file ends with its last batch, but for that of a log that is appended to, or that a killed broker left: behind the log end there may be zeros, or
//	    what a failed write left. Once nothing is appended they are cut off, and never anything before the log end: see padding.go.
//
// # Files
//
// In a log dir there is what Kafka puts there. Ours is one file more, the manifest
// (see manifest.go), which lives in the metadata directory, by directory id (see opendirs.go), together with the
// quarantine. It says which partitions have data and, per partition, how far the
// files were synced and what the producer state was there, so that recovery reads
// only the bytes behind that point.
//
// # Concurrency
//
// Retention and compaction have one goroutine each per log dir (housekeeper, cleaner). They
// take nothing from the log but by replacing its immutable list of segments. A third one (scrubber)
// reads what is flushed and takes nothing at all.
//
// A cold queue per log dir (cold.go, coldqueue.go) reads what clients want and is not in the page cache; they wait for it without a
// goroutine of their own.
//
// One mutex per Log orders appends, rolls and truncation. Readers take no lock that
// an append holds over I/O: they read an immutable list of segments and atomic marks.
// Nothing waits for a flush here: RequestFlush only asks, the flusher makes all logs that were asked for durable
// together through the journal (journal.go), Flushed tells, and the
// Flushed hook given to OpenLog is called from the flusher.
package storage
