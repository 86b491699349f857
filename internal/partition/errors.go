package partition

import (
	"errors"
	"fmt"
)

// Sentinels; every returned error wraps one of them or an error of storage or record,
// and names the partition. Package handler maps them to the protocol's codes.
var (
	ErrUnknown           = errors.New("no such partition")               // UNKNOWN_TOPIC_OR_PARTITION
	ErrUnknownID         = errors.New("no topic with this id")           // UNKNOWN_TOPIC_ID
	ErrNotLeader         = errors.New("this broker is not the leader")   // NOT_LEADER_OR_FOLLOWER
	ErrFencedEpoch       = errors.New("the leader epoch is an old one")  // FENCED_LEADER_EPOCH
	ErrUnknownEpoch      = errors.New("the leader epoch is a newer one") // UNKNOWN_LEADER_EPOCH
	ErrNotEnoughReplicas = errors.New("not enough in-sync replicas")     // NOT_ENOUGH_REPLICAS
	ErrTimedOut          = errors.New("not committed in time")           // REQUEST_TIMED_OUT
	ErrNotSettled        = errors.New("the new leader does not know the high watermark yet")
	ErrPolicy            = errors.New("cleanup.policy does not allow it")      // POLICY_VIOLATION
	ErrInvalid           = errors.New("the records are not what is asked for") // INVALID_RECORD
	ErrTransactional     = errors.New("transactions are not supported yet")    // TRANSACTIONAL_ID_AUTHORIZATION_FAILED
)

// OfflineError is a partition whose log cannot be used: its log dir failed, or its data is damaged or missing.
type OfflineError struct {
	Partition string
	Err       error
}

func (e *OfflineError) Error() string { return fmt.Sprintf("%s is offline: %v", e.Partition, e.Err) }
func (e *OfflineError) Unwrap() error { return e.Err }

// TooLargeError is a batch above max.message.bytes.
type TooLargeError struct {
	Partition        string
	Bytes, Limit     int
	AfterCompression bool // compression.type made it larger than the producer's was
}

func (e *TooLargeError) Error() string {
	after := ""
	if e.AfterCompression {
		after = " after compression.type was applied"
	}
	return fmt.Sprintf("the batch for %s has %d bytes%s, max.message.bytes of the topic is %d", e.Partition, e.Bytes, after, e.Limit)
}
