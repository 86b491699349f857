package storage

import (
	"errors"
	"fmt"
)

// Sentinels; every returned error wraps one of them or an error of vfs or record,
// and names the partition or the file.
var (
	ErrOffline         = errors.New("the log dir is offline")              // fenced after a failed write or sync, see S11
	ErrNoSpace         = errors.New("no space left on the volume")         // nothing was written, retriable
	ErrUnreadable      = errors.New("the segment cannot be opened")        // KAFKA_STORAGE_ERROR, retriable
	ErrClosed          = errors.New("the log is closed")                   // by Close or Delete
	ErrDamaged         = errors.New("the records are damaged on the disk") // CORRUPT_MESSAGE
	ErrMissing         = errors.New("recorded data is not there")          // S9
	ErrOffsetRange     = errors.New("offset is outside the log")           // OFFSET_OUT_OF_RANGE
	ErrTooLarge        = errors.New("batch is larger than segment.bytes")  // RECORD_LIST_TOO_LARGE
	ErrOutOfOrder      = errors.New("sequence number out of order")        // OUT_OF_ORDER_SEQUENCE_NUMBER
	ErrProducerFenced  = errors.New("producer epoch is older")             // INVALID_PRODUCER_EPOCH
	ErrTxnState        = errors.New("batch does not fit the transaction")  // INVALID_TXN_STATE
	ErrStaleEpoch      = errors.New("leader epoch goes back")              // the log holds a newer leader epoch
	ErrForeign         = errors.New("the directory is of another broker")  // meta.properties of another cluster or node
	ErrUnknownManifest = errors.New("the manifest cannot be read")
)

// CorruptionError is damage in a file: where it was found and what it is.
type CorruptionError struct {
	File string // whole path
	Pos  int64  // byte position in File
	Err  error
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %v", e.File, e.Pos, e.Err)
}

func (e *CorruptionError) Unwrap() error { return e.Err }
