// Package metastore is the replicated, watchable store of the cluster's
// metadata, and the only package that knows etcd.
//
// Its door is [Store]: transactions with compare, snapshots, watches and
// leases. Two implementations pass one contract suite: etcd inside this process
// ([OpenEmbedded]) and a deterministic twin in memory ([Sim]) that can lose
// answers, watches and leases on demand.
//
// Invariants:
//  1. A transaction that commits gets the next revision; all its changes carry it.
//  2. A watch delivers every revision that touches its prefix, once and in order,
//     or ends with an error that says why; it never skips one silently.
//  3. An error of Txn for which [Definite] is false leaves the outcome open: the
//     transaction may have been applied, or may still be.
//  4. No call outlives its context, and no call ends the process.
package metastore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Limits of one transaction. They are an external etcd's defaults with room to
// spare, and both implementations hold them, so that code that works here works there.
const (
	MaxTxnOps   = 128     // conditions, and operations, of one transaction
	MaxTxnBytes = 1 << 20 // keys and values together
)

// Errors of a store, wrapped with their context.
var (
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("metastore is closed")
	// ErrUnavailable: no quorum, no answer in time, or the store has failed; the outcome is open.
	ErrUnavailable = errors.New("metastore is unavailable")
	// ErrFailed is an ErrUnavailable for good: the store cannot go on in this process.
	ErrFailed = fmt.Errorf("%w until the process is restarted", ErrUnavailable)
	// ErrCompacted: the revision asked for is gone; take a snapshot and watch from there.
	ErrCompacted = errors.New("revision has been compacted")
	// ErrWatchLost: the watch ended for another reason than compaction.
	ErrWatchLost = errors.New("watch was lost")
	// ErrLeaseNotFound: the lease has expired or was revoked.
	ErrLeaseNotFound = errors.New("lease not found")
	// ErrInvalid: the transaction can never be applied (limits, empty key, a key written twice).
	ErrInvalid = errors.New("invalid transaction")
	// ErrNoSpace: the store has reached its quota and takes no writes.
	ErrNoSpace = errors.New("metastore is out of space")
)

// Definite reports that err proves that a transaction was not applied and never will be.
func Definite(err error) bool {
	return errors.Is(err, ErrInvalid) || errors.Is(err, ErrLeaseNotFound) || errors.Is(err, ErrNoSpace)
}

// Store is one node's handle. All methods may be called concurrently, and
// return soon after their context ends. None retries anything.
type Store interface {
	// Txn applies ops atomically if every condition holds. Otherwise the result's
	// Succeeded is false and nothing has changed.
	Txn(ctx context.Context, conds []Cond, ops []Op) (Result, error)
	// Snapshot returns every key with the prefix, in key order, as of revision rev.
	Snapshot(ctx context.Context, prefix string) (kvs []KV, rev int64, err error)
	// Watch delivers the changes under prefix from revision fromRev on: one Event a
	// revision, in order. The last Event before the channel closes has Err set,
	// unless ctx ended. The receiver must keep receiving or end ctx.
	Watch(ctx context.Context, prefix string, fromRev int64) <-chan Event
	// Grant creates a lease; ttl is rounded up to whole seconds.
	Grant(ctx context.Context, ttl time.Duration) (Lease, error)
	// KeepAlive renews a lease once. ErrLeaseNotFound means it is gone for good.
	KeepAlive(ctx context.Context, l Lease) error
	// Revoke ends a lease and deletes its keys in one revision.
	Revoke(ctx context.Context, l Lease) error
	// Close ends all watches and waits for the handle's goroutines.
	Close() error
}

// Lease names a lease; zero is none.
type Lease int64

// KV is a key with its value at some revision.
type KV struct {
	Key            string
	Value          []byte
	CreateRevision int64 // of the transaction that created the key
	ModRevision    int64 // of the transaction that last wrote it
	Lease          Lease // the lease the key lives by, or zero
}

// Target is what a condition compares.
type Target uint8

// Targets of a condition.
const (
	TargetCreateRevision Target = iota // 0 when the key is absent
	TargetModRevision                  // 0 when the key is absent
	TargetValue                        // never equal when the key is absent
)

// Cond is an equality that must hold for a transaction to apply.
type Cond struct {
	Key      string
	Target   Target
	Revision int64
	Value    []byte
}

// IfAbsent holds while key does not exist.
func IfAbsent(key string) Cond { return Cond{Key: key, Target: TargetCreateRevision} }

// IfCreatedAt holds while key is the one that was created at rev.
func IfCreatedAt(key string, rev int64) Cond {
	return Cond{Key: key, Target: TargetCreateRevision, Revision: rev}
}

// IfModifiedAt holds while key was last written at rev.
func IfModifiedAt(key string, rev int64) Cond {
	return Cond{Key: key, Target: TargetModRevision, Revision: rev}
}

// IfValue holds while key exists with exactly this value.
func IfValue(key string, value []byte) Cond {
	return Cond{Key: key, Target: TargetValue, Value: value}
}

// OpKind is the kind of an operation.
type OpKind uint8

// Kinds of operation.
const (
	OpPut OpKind = iota
	OpDelete
	OpDeletePrefix
)

// Op is one write of a transaction.
type Op struct {
	Kind  OpKind
	Key   string // the prefix, for OpDeletePrefix
	Value []byte
	Lease Lease
}

// Put writes a key.
func Put(key string, value []byte) Op { return Op{Kind: OpPut, Key: key, Value: value} }

// PutWithLease writes a key that is deleted when the lease ends.
func PutWithLease(key string, value []byte, l Lease) Op {
	return Op{Kind: OpPut, Key: key, Value: value, Lease: l}
}

// Delete deletes a key; an absent key is no error.
func Delete(key string) Op { return Op{Kind: OpDelete, Key: key} }

// DeletePrefix deletes every key with the prefix.
func DeletePrefix(prefix string) Op { return Op{Kind: OpDeletePrefix, Key: prefix} }

// Result is the outcome of a transaction that was answered.
type Result struct {
	Succeeded bool  // the conditions held and the operations are applied
	Revision  int64 // the store's revision afterwards: that of this transaction if it changed anything
}

// Change is one key's part of an Event.
type Change struct {
	KV      // Value, CreateRevision and Lease are zero for a deletion
	Deleted bool
}

// Event is everything one revision changed under a watched prefix, or the
// reason why the watch ended.
type Event struct {
	Revision int64
	Changes  []Change // in key order for leases and prefixes, else in the order of the operations
	Err      error    // ErrCompacted, ErrWatchLost, ErrUnavailable or ErrClosed; then nothing else is set
}

// checkTxn holds a transaction to the rules both implementations share.
func checkTxn(conds []Cond, ops []Op) error {
	if len(conds) > MaxTxnOps || len(ops) > MaxTxnOps {
		return fmt.Errorf("%w: %d conditions, %d operations, at most %d each", ErrInvalid, len(conds), len(ops), MaxTxnOps)
	}
	size := 0
	for _, c := range conds {
		size += len(c.Key) + len(c.Value)
		if c.Key == "" {
			return fmt.Errorf("%w: condition on an empty key", ErrInvalid)
		}
	}
	puts := make(map[string]bool, len(ops))
	for _, op := range ops {
		size += len(op.Key) + len(op.Value)
		if op.Key == "" {
			return fmt.Errorf("%w: operation on an empty key", ErrInvalid)
		}
		if op.Kind != OpPut {
			continue
		}
		if puts[op.Key] {
			return fmt.Errorf("%w: key %q is written twice", ErrInvalid, op.Key)
		}
		puts[op.Key] = true
	}
	if size > MaxTxnBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrInvalid, size, MaxTxnBytes)
	}
	for _, op := range ops {
		switch op.Kind {
		case OpDelete:
			if puts[op.Key] {
				return fmt.Errorf("%w: key %q is written and deleted", ErrInvalid, op.Key)
			}
		case OpDeletePrefix:
			for _, other := range ops {
				if other.Kind == OpPut && strings.HasPrefix(other.Key, op.Key) {
					return fmt.Errorf("%w: key %q is written and deleted by prefix %q", ErrInvalid, other.Key, op.Key)
				}
			}
		}
	}
	return nil
}

// wholeSeconds is the granularity of leases.
func wholeSeconds(ttl time.Duration) int64 {
	return max(1, int64((ttl+time.Second-1)/time.Second))
}
