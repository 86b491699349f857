package wire

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
)

// FetchRequest is a Fetch request of versions 4 to 18.
type FetchRequest struct {
	Version       int16
	ReplicaID     int32 // -1: a consumer
	MaxWait       time.Duration
	MinBytes      int32
	MaxBytes      int32
	ReadCommitted bool
	SessionID     int32 // v7
	SessionEpoch  int32 // v7, -1 before
	Topics        []FetchRequestTopic
	Forgotten     []ForgottenTopic // v7
}

// FetchRequestTopic has a Name up to version 12 and an ID from version 13 on.
type FetchRequestTopic struct {
	Name       string
	ID         UUID
	Partitions []FetchRequestPartition
}

// FetchRequestPartition is where a partition is to be read.
type FetchRequestPartition struct {
	Index        int32
	CurrentEpoch int32 // v9, -1: unknown
	Offset       int64
	FetchedEpoch int32 // v12, -1: unknown
	MaxBytes     int32
}

// ForgottenTopic is what a session reads no more.
type ForgottenTopic struct {
	Name       string
	ID         UUID
	Partitions []int32
}

// Decode decodes the body of a Fetch request. Strings are copied; bytes after the request are ignored. Versions below
// 4 and above 18 are ErrUnsupported. What q holds from the request before is used again, so that a request like
// it needs no memory; after an error q means nothing.
func (q *FetchRequest) Decode(version int16, body []byte) error {
	if version < 4 || version > 18 {
		return fmt.Errorf("%w: Fetch version %d", ErrUnsupported, version)
	}
	d := decoder{r: kbin.Reader{Src: body}, flexible: version >= 12, ids: version >= 13}
	q.Version, q.ReplicaID, q.SessionID, q.SessionEpoch = version, -1, 0, -1
	if version <= 14 {
		q.ReplicaID = d.r.Int32()
	}
	q.MaxWait = time.Duration(d.r.Int32()) * time.Millisecond
	q.MinBytes, q.MaxBytes = d.r.Int32(), d.r.Int32()
	q.ReadCommitted = d.r.Int8() == 1
	if version >= 7 {
		q.SessionID, q.SessionEpoch = d.r.Int32(), d.r.Int32()
	}
	q.topics(&d)
	q.Forgotten = q.Forgotten[:0]
	if version >= 7 {
		q.forgotten(&d)
	}
	if version >= 11 {
		d.str("") // rack
	}
	q.tags(&d)
	return d.end(keyFetch, version)
}

func (q *FetchRequest) topics(d *decoder) {
	smallest := 3
	if d.ids {
		smallest = 18
	}
	q.Topics = resized(q.Topics, d.count(smallest))
	for i := range q.Topics {
		t := &q.Topics[i]
		d.topic(&t.Name, &t.ID)
		t.Partitions = resized(t.Partitions, d.count(4+8+4))
		for j := range t.Partitions {
			t.Partitions[j].decode(d, q.Version)
			if !d.ok() {
				return
			}
		}
		d.tags()
		if !d.ok() {
			return
		}
	}
}

func (p *FetchRequestPartition) decode(d *decoder, version int16) {
	p.Index, p.CurrentEpoch, p.FetchedEpoch = d.r.Int32(), -1, -1
	if version >= 9 {
		p.CurrentEpoch = d.r.Int32()
	}
	p.Offset = d.r.Int64()
	if version >= 12 {
		p.FetchedEpoch = d.r.Int32()
	}
	if version >= 5 {
		d.r.Int64() // a follower's log start
	}
	p.MaxBytes = d.r.Int32()
	d.tags()
}

func (q *FetchRequest) forgotten(d *decoder) {
	smallest := 3
	if d.ids {
		smallest = 18
	}
	q.Forgotten = resized(q.Forgotten, d.count(smallest))
	for i := range q.Forgotten {
		t := &q.Forgotten[i]
		d.topic(&t.Name, &t.ID)
		t.Partitions = resized(t.Partitions, d.count(4))
		for j := range t.Partitions {
			t.Partitions[j] = d.r.Int32()
		}
		d.tags()
		if !d.ok() {
			return
		}
	}
}

// tags reads the tagged fields of the request itself: of them only the replica's id counts.
func (q *FetchRequest) tags(d *decoder) {
	if !d.flexible || !d.ok() {
		return
	}
	n := d.r.Uvarint()
	if n > maxTags {
		d.err = fmt.Errorf("%w: %d tagged fields", ErrMalformed, n)
		return
	}
	for ; n > 0 && d.r.Ok(); n-- {
		tag := d.r.Uvarint()
		field := kbin.Reader{Src: d.r.Span(int(d.r.Uvarint()))}
		if tag == 1 && q.Version >= 15 {
			if q.ReplicaID = field.Int32(); d.r.Ok() && !field.Ok() {
				d.err = fmt.Errorf("%w: replica state", ErrMalformed)
				return
			}
		}
	}
}
