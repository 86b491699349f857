package record

import (
	"fmt"
	"math"
	"strings"
)

// maxRecordErrors bounds what one batch can make us say about its records.
const maxRecordErrors = 1000

// Rules are what a topic demands of a producer's batch.
type Rules struct {
	NowMs                int64 // the broker's clock
	TimestampBeforeMaxMs int64 // message.timestamp.before.max.ms
	TimestampAfterMaxMs  int64 // message.timestamp.after.max.ms
	LogAppendTime        bool  // message.timestamp.type: the producer's timestamps do not matter
	NeedKey              bool  // cleanup.policy has compact
	AllowZstd            bool  // Produce version 7 or later
	MaxInflatedBytes     int64 // of all records; 0 means DefaultMaxInflatedBytes
	HeaderOnly           bool  // do not inflate records if the header says all that these rules need

	// TopicPartition ("topic-0") is only for the messages, as Kafka writes them.
	TopicPartition string
}

// Result is what Validate learned on its way through the records.
type Result struct {
	// MaxTimestampMs is the records' largest timestamp, or Rules.NowMs with LogAppendTime. A producer's
	// header may say otherwise: give it to SetMaxTimestamp, as Kafka does.
	MaxTimestampMs int64
	// InflatedBytes is the size of the records when not compressed, 0 if they were not inflated.
	InflatedBytes int64
}

// RecordError says why one record is refused; Index counts from 0 in its batch.
type RecordError struct {
	Index   int32
	Message string
}

// InvalidError says that records of a batch are refused, and with them the whole batch. Kafka sends Records and
// Message to the producer; with every other error of Validate it sends the code alone.
type InvalidError struct {
	Reason  error         // ErrInvalid or ErrTimestamp
	Records []RecordError // at most the first 1000
	Message string        // Kafka's words for the batch
}

func (e *InvalidError) Error() string { return e.Message }

// Unwrap is ErrInvalid or ErrTimestamp.
func (e *InvalidError) Unwrap() error { return e.Reason }

// Validate decides whether a producer may append b, by the rules of Kafka 4.3's LogValidator and of
// its append path: header, CRC, and every record, compressed ones inflated as a bounded stream.
// It is stricter in four points, none of which a client library does: offset deltas must be 0, 1, 2, …
// (Kafka writes such a batch again), the timestamp type must be CreateTime (Kafka repairs it on a
// CreateTime topic), a transactional batch must have a producer id, and a producer id an epoch.
//
// With Rules.HeaderOnly the records of a compressed batch are looked at only where a rule needs them: a decision of the
// operator's, with what it lets in listed in docs/adr/0009-validation-by-header.md.
//
// Errors wrap ErrCorrupt, ErrCompression, ErrInvalid, ErrTimestamp or ErrTooLarge; *InvalidError
// when single records are to blame. It does not change b and allocates nothing for an uncompressed
// valid batch.
func Validate(b Batch, r Rules) (Result, error) {
	if err := b.CheckCRC(); err != nil {
		return Result{}, err
	}
	if err := validateHeader(b, r); err != nil {
		return Result{}, err
	}
	w := walker{buf: b[HeaderSize:], end: len(b) - HeaderSize}
	c := b.Codec()
	if c == None {
		return validateRecords(&w, b, r)
	}
	if res, ok := r.ofHeader(b); ok {
		return res, nil
	}
	in, err := openInflater(c, b[HeaderSize:], r.MaxInflatedBytes)
	if err != nil {
		return Result{}, err
	}
	defer in.close()
	w = walker{buf: in.window(), src: in}
	return validateRecords(&w, b, r)
}

func validateHeader(b Batch, r Rules) error {
	where := r.TopicPartition
	count, last := b.Count(), b.LastOffsetDelta()
	switch c := b.Codec(); {
	case c > Zstd:
		return fmt.Errorf("%w: Unknown compression type id: %d", ErrCompression, int8(c))
	case c == Zstd && !r.AllowZstd:
		return fmt.Errorf("%w: Produce requests before version 7 are not allowed to use ZStandard compression", ErrCompression)
	case b.BaseOffset() != 0:
		return fmt.Errorf("%w: The baseOffset of the record batch in the append to %s should be 0, but it is %d", ErrInvalid, where, b.BaseOffset())
	case last < 0:
		return fmt.Errorf("%w: Batch has an invalid offset range: [0, %d] in topic partition %s", ErrInvalid, last, where)
	case count <= 0:
		return fmt.Errorf("%w: Invalid reported count for record batch: %d in topic partition %s", ErrInvalid, count, where)
	case last != count-1:
		return fmt.Errorf("%w: Inconsistent batch offset range [0, %d] and count of records %d in topic partition %s", ErrInvalid, last, count, where)
	case b.Control():
		return fmt.Errorf("%w: Clients are not allowed to write control records in topic partition %s", ErrInvalid, where)
	case b.ProducerID() >= 0 && b.BaseSequence() < 0:
		return fmt.Errorf("%w: Invalid sequence number %d in record batch with producerId %d in topic partition %s", ErrInvalid, b.BaseSequence(), b.ProducerID(), where)
	case b.ProducerID() >= 0 && b.ProducerEpoch() < 0:
		return fmt.Errorf("%w: Invalid producer epoch %d in record batch with producerId %d in topic partition %s", ErrInvalid, b.ProducerEpoch(), b.ProducerID(), where)
	case b.Transactional() && b.ProducerID() < 0:
		return fmt.Errorf("%w: Transactional record batch without a producerId in topic partition %s", ErrInvalid, where)
	case b.LogAppendTime():
		return fmt.Errorf("%w: Invalid timestamp type in record batch. Producer should not set timestamp type to LogAppendTime", ErrTimestamp)
	}
	return nil
}

// ofHeader is the result by b's header alone; ok is false where it does not say enough, or something odd: then the records
// decide, and say what is wrong.
func (r Rules) ofHeader(b Batch) (res Result, ok bool) {
	first, last := b.BaseTimestampMs(), b.MaxTimestampMs()
	switch {
	case !r.HeaderOnly || r.NeedKey || len(b) == HeaderSize:
		return Result{}, false
	case r.LogAppendTime:
		return Result{MaxTimestampMs: r.NowMs}, true
	case r.TimestampBeforeMaxMs != math.MaxInt64: // the least timestamp is in the records only
		return Result{}, false
	case last < first || r.outOfRange(first) || r.outOfRange(last):
		return Result{}, false
	}
	return Result{MaxTimestampMs: last}, true
}

// validateRecords walks all records of w, which holds those of b.
func validateRecords(w *walker, b Batch, r Rules) (Result, error) {
	res := Result{MaxTimestampMs: NoTimestamp}
	base := b.BaseTimestampMs()
	var bad *badRecords
	for i := range b.Count() {
		var f fields
		w.record(&f)
		if w.err != nil {
			return Result{}, w.err
		}
		if f.offsetDelta != i {
			return Result{}, fmt.Errorf("%w: record %d has offset delta %d in topic partition %s", ErrInvalid, i, f.offsetDelta, r.TopicPartition)
		}
		ts := base + f.timestampDelta
		res.MaxTimestampMs = max(res.MaxTimestampMs, ts)
		switch {
		case r.NeedKey && f.keyLen < 0:
			bad = bad.add(i, false, "Compacted topic cannot accept message without key in topic partition "+r.TopicPartition)
		case !r.LogAppendTime && ts != NoTimestamp && r.outOfRange(ts):
			bad = bad.add(i, true, fmt.Sprintf("Timestamp %d of message with offset %d is out of range. The timestamp should be within [%d, %d]",
				ts, i, r.NowMs-r.TimestampBeforeMaxMs, r.NowMs+r.TimestampAfterMaxMs))
		}
	}
	if w.more() {
		return Result{}, errRemaining
	}
	if w.err != nil {
		return Result{}, w.err
	}
	if bad != nil {
		return Result{}, bad.error()
	}
	if r.LogAppendTime {
		res.MaxTimestampMs = r.NowMs
	}
	res.InflatedBytes = w.offset()
	return res, nil
}

// outOfRange is Kafka's test. The differences are not computed beyond 64 bits, so that the default
// "no bound" of 2^63-1 really is none.
func (r Rules) outOfRange(ts int64) bool {
	return below(ts, r.NowMs, r.TimestampBeforeMaxMs) || below(r.NowMs, ts, r.TimestampAfterMaxMs)
}

// below says whether a < b - d, for d >= 0.
func below(a, b, d int64) bool {
	if b < math.MinInt64+d {
		return false
	}
	return a < b-d
}

type badRecords struct {
	errs      []RecordError
	total     int
	timestamp bool
}

func (b *badRecords) add(i int32, timestamp bool, message string) *badRecords {
	if b == nil {
		b = &badRecords{}
	}
	b.total++
	b.timestamp = b.timestamp || timestamp
	if len(b.errs) < maxRecordErrors {
		b.errs = append(b.errs, RecordError{Index: i, Message: message})
	}
	return b
}

func (b *badRecords) error() error {
	if b.timestamp {
		return &InvalidError{Reason: ErrTimestamp, Records: b.errs, Message: "One or more records have been rejected due to invalid timestamp"}
	}
	var first []string
	for _, e := range b.errs[:min(3, len(b.errs))] {
		first = append(first, fmt.Sprintf("RecordError(batchIndex=%d, message='%s')", e.Index, e.Message))
	}
	return &InvalidError{Reason: ErrInvalid, Records: b.errs, Message: fmt.Sprintf("One or more records have been rejected due to %d record errors in total, "+
		"and only showing the first three errors at most: [%s]", b.total, strings.Join(first, ", "))}
}
