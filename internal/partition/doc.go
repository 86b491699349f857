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
// moves the high watermark or ends the leadership wakes them. An append or a
// fetch that waits for records to become stable asks the log for a flush at once.
//
// # Locks
//
// Partition.mu guards the replica state and the waiters; it is held for moments and
// never over I/O. Manager.mu guards the table of partitions. Order: Manager.mu,
// Partition.mu; the log is called with neither.
package partition
