package handler

import (
	"context"
	"errors"
	"fmt"

	"moldau/internal/coordinator"
	"moldau/internal/coordinator/group"
	"moldau/internal/partition"
	"moldau/internal/record"
	"moldau/internal/security"
	"moldau/internal/storage"
	"moldau/internal/wire"
)

// codes maps the errors of the packages below to the protocol's, the first that fits.
var codes = []struct {
	err  error
	code wire.Code
}{
	// Before the errors that they wrap.
	{coordinator.ErrNotCoordinator, wire.NotCoordinator},
	{coordinator.ErrLoading, wire.CoordinatorLoadInProgress},
	{coordinator.ErrClosed, wire.CoordinatorNotAvailable},

	{storage.ErrDamaged, wire.CorruptMessage}, // KAFKA_STORAGE_ERROR would have consumers try for ever, and say nothing
	{partition.ErrUnknown, wire.UnknownTopicOrPartition},
	{partition.ErrUnknownID, wire.UnknownTopicID},
	{partition.ErrNotLeader, wire.NotLeaderOrFollower},
	{partition.ErrFencedEpoch, wire.FencedLeaderEpoch},
	{partition.ErrUnknownEpoch, wire.UnknownLeaderEpoch},
	{partition.ErrNotEnoughReplicas, wire.NotEnoughReplicas},
	{partition.ErrTimedOut, wire.RequestTimedOut},
	{partition.ErrNotSettled, wire.OffsetNotAvailable},
	{partition.ErrTransactional, wire.TransactionalIDAuthorizationFailed},
	{partition.ErrPolicy, wire.PolicyViolation},
	{partition.ErrInvalid, wire.InvalidRecord},
	{storage.ErrOffsetRange, wire.OffsetOutOfRange},
	{storage.ErrOutOfOrder, wire.OutOfOrderSequenceNumber},
	{storage.ErrProducerFenced, wire.InvalidProducerEpoch},
	{storage.ErrTxnState, wire.InvalidTxnState},
	{storage.ErrTooLarge, wire.RecordListTooLarge},
	{storage.ErrStaleEpoch, wire.NotLeaderOrFollower},
	{storage.ErrNoSpace, wire.KafkaStorageError},
	{storage.ErrClosed, wire.NotLeaderOrFollower},
	{record.ErrTimestamp, wire.InvalidTimestamp},
	{record.ErrCompression, wire.UnsupportedCompressionType},
	{record.ErrTooLarge, wire.MessageTooLarge},
	{record.ErrMagic, wire.InvalidRecord},
	{record.ErrCorrupt, wire.CorruptMessage},
	{record.ErrShort, wire.CorruptMessage},
	{record.ErrInvalid, wire.InvalidRecord},
	{context.Canceled, wire.RequestTimedOut},
	{context.DeadlineExceeded, wire.RequestTimedOut},
}

// codeOf is the one place where an error becomes a code. nil is wire.None.
func codeOf(err error) wire.Code {
	if err == nil {
		return wire.None
	}
	var code wire.Code
	if errors.As(err, &code) {
		return code
	}
	var large *partition.TooLargeError
	if errors.As(err, &large) {
		return wire.MessageTooLarge
	}
	var refusal *security.Refusal
	if errors.As(err, &refusal) {
		return wire.SaslAuthenticationFailed
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	if partition.IsOffline(err) {
		return wire.KafkaStorageError
	}
	return wire.UnknownServerError
}

// groupCode is the code of an error at a coordinator: those of its partition become ones that make a client
// look for the coordinator again.
func groupCode(err error) wire.Code { return group.CodeFor(codeOf(err)) }

// apiError is an error of a request that a handler has found, or that another package has said the
// reason of: a code, and a message for people.
type apiError struct {
	code    wire.Code
	message string // goes to the client; may be empty
}

func (e *apiError) Error() string { return e.message }

func (e *apiError) Unwrap() error { return e.code }

// refuse is an apiError.
func refuse(code wire.Code, format string, args ...any) *apiError {
	return &apiError{code, fmt.Sprintf(format, args...)}
}

// coded gives an error of package config, whose message is meant for the client, its code, which
// depends on what was asked. nil stays nil.
func coded(code wire.Code, err error) error {
	if err == nil {
		return nil
	}
	return &apiError{code, err.Error()}
}

// reason is the message of an error in a response, null where there is none.
func reason(err error) *string {
	if err == nil {
		return nil
	}
	return text(err.Error())
}
