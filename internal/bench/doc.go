// Package bench measures a broker from outside: it alone knows how a load is made, paced
// and timed. It speaks Kafka's protocol itself, over plain TCP connections, so that the
// client costs little and the figures are the broker's; it works against Kafka and
// Moldau alike and knows nothing of the broker's packages.
//
// Its door is Produce, Consume and Latency, each with Options, each returning a Result.
//
// How it is cheap: batches are made once, before the run. A request is copied from such
// a template and only what must differ is written into it: the correlation id, and for
// an idempotent producer its id, its sequence number and the CRC. Answers are read for
// their errors and offsets; of records only the batch headers are looked at.
//
// Invariants:
//  1. With a rate, a latency counts from the moment at which the request should have been
//     sent, however late it was sent (no coordinated omission). Without a rate the load
//     is a closed loop, and a latency counts from the write.
//  2. Throughput and the clocks are read at the same two moments, after the warm-up and
//     at the end; a request belongs to the measured interval by its intended start and is
//     waited for, so that a slow answer is never left out.
//  3. The first error ends the run; there is no result with failed requests in it.
//  4. Nothing is allocated by a length that a broker claims: buffers grow with what came.
package bench
