// Package partition serves the replicas of this broker: it takes batches for the
// partitions it leads, hands out what is committed, and parks those who wait. Its door
// is Manager (which partitions there are, fed with metadata images) and Partition
// (Append, WaitAck, Read, Watch and the offset lookups).
//
// The rules of replication are in package replica, the bytes in package storage; here
// they are joined with locks and waiters.
//
// # Waiting
//
// Nobody polls and no goroutine belongs to a partition. Who waits hangs a waiter into
// the list of the partition (purgatory) and sleeps on the waiter's channel; whatever
// moves the high watermark or ends the leadership wakes them. A watcher may stay in the lists between two
// waits, as that of a fetch session does, and is told then which partitions have news. An append or a
// fetch that waits for records to become stable asks the log for a flush at once, where a flush makes them so.
//
// # Locks
//
// Partition.mu guards the replica state and the waiters; it is held for moments and
// never over I/O. Manager.mu guards the table of partitions, Watcher.mu which partitions have news
// for it. Order: Manager.mu, Partition.mu, Watcher.mu; the log is called with none of them.
package partition
