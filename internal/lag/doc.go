// Package lag alone knows how far each group is behind: in records, in seconds, how long it takes to catch up, and whether retention is about to
// take what it has not read. Its door is [Monitor].
//
// # What the figures are
//
//	Lag      records between the committed offset and the high watermark, as Kafka's tools count: offsets, also where compaction
//	         has left gaps or records were deleted. Never below 0.
//	Age      now less the timestamp of the first record that is not read: the one at the committed offset, or at the log start
//	         where that is later. 0 when caught up. With CreateTime it is the producer's time: whoever sends old records makes
//	         old lag, and a record from the future has the age 0. Not known (-1) where the record has no timestamp,
//	         where its partition is offline or not led here, and until its bytes were once in memory.
//	CatchUp  Lag over how much faster the group reads than producers write, both over about the last minute. Not known (-1) unless
//	         the lag falls.
//
// # What it costs
//
// A look goes over all committed offsets: at those that have not moved the time that was found for them is still right, and the others cost the
// header of a batch in memory. It reads nothing from the disk and opens no log. One goroutine looks, when somebody asks and every
// fifteen seconds, and afterwards reads up to 32 records from the disk, one between two questions, in turn with other lookups.
//
// # Invariants
//
//	L1  Who asks waits for no disk and no other broker: where a look takes too long, the one before is shown.
//	L2  What is known of a partition ends with its committed offset: nothing is kept of what is gone.
//	L3  A danger is logged once, until it is over or another one.
package lag
