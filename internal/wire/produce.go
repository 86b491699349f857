package wire

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ProduceRequest is a Produce request of versions 3 to 13.
type ProduceRequest struct {
	Version         int16
	TransactionalID *string
	Acks            int16 // -1, 0 or 1; others are the handler's to refuse
	Timeout         time.Duration
	Topics          []ProduceTopic
}

// ProduceTopic has a Name up to version 12 and an ID from version 13 on.
type ProduceTopic struct {
	Name       string
	ID         UUID
	Partitions []ProducePartition
}

// ProducePartition is what one partition gets.
type ProducePartition struct {
	Index   int32
	Records []byte // a view of the frame; nil means null
}

// Decode decodes the body of a Produce request. Records are views of body, strings are copied; bytes
// after the request are ignored. Versions below 3 and above 13 are ErrUnsupported. What q holds from the request before is
// used again, so that a request like it needs no memory; after an error q means nothing.
func (q *ProduceRequest) Decode(version int16, body []byte) error {
	if version < 3 || version > 13 {
		return fmt.Errorf("%w: Produce version %d", ErrUnsupported, version)
	}
	d := decoder{r: kbin.Reader{Src: body}, flexible: version >= 9, ids: version >= 13}
	q.Version = version
	if d.flexible {
		q.TransactionalID = d.r.CompactNullableString()
	} else {
		q.TransactionalID = d.r.NullableString()
	}
	q.Acks = d.r.Int16()
	q.Timeout = time.Duration(d.r.Int32()) * time.Millisecond
	q.topics(&d)
	d.tags()
	return d.end(keyProduce, version)
}

// Forget drops the views of the body.
func (q *ProduceRequest) Forget() {
	for i := range q.Topics {
		clear(q.Topics[i].Partitions)
	}
}

// decoder's first error is sticky.
type decoder struct {
	r             kbin.Reader
	flexible, ids bool
	err           error
}

// end returns the error of a message that was decoded.
func (d *decoder) end(key, version int16) error {
	if d.err == nil && !d.r.Ok() {
		d.err = fmt.Errorf("%w: request ends early", ErrMalformed)
	}
	if d.err != nil {
		return fmt.Errorf("%s version %d: %w", kmsg.NameForKey(key), version, d.err)
	}
	return nil
}

// str reads a string; null is an empty one.
func (d *decoder) str(known string) string {
	n := int64(0)
	if d.flexible {
		n = int64(d.r.Uvarint()) - 1
	} else {
		n = int64(d.r.Int16())
	}
	if n < 0 {
		return ""
	}
	return sameString(d.r.Span(int(min(n, int64(len(d.r.Src))+1))), known)
}

// topic reads what names a topic.
func (d *decoder) topic(name *string, id *UUID) {
	if d.ids {
		*id, *name = d.r.Uuid(), ""
	} else {
		*name, *id = d.str(*name), UUID{}
	}
}

// resized is s with n elements, some of which hold what they held.
func resized[T any](s []T, n int) []T {
	if n > cap(s) {
		return append(s[:cap(s)], make([]T, n-cap(s))...)[:n]
	}
	return s[:n]
}

// count reads the number of elements, each of which takes at least smallest bytes.
func (d *decoder) count(smallest int) int {
	var n int64
	if d.flexible {
		n = int64(d.r.Uvarint()) - 1
	} else {
		n = int64(d.r.Int32())
	}
	if d.err == nil && (n > maxElements || n > int64(len(d.r.Src)/smallest)) {
		d.err = fmt.Errorf("%w: array of %d elements in %d bytes", ErrMalformed, n, len(d.r.Src))
	}
	if d.err != nil || n < 0 {
		return 0
	}
	return int(n)
}

func (d *decoder) ok() bool { return d.err == nil && d.r.Ok() }

func (d *decoder) tags() {
	if d.flexible && d.ok() {
		d.err = skipTags(&d.r)
	}
}

func (q *ProduceRequest) topics(d *decoder) {
	smallest := 6 // lengths of name and array
	if d.flexible {
		smallest = 3 // the same, and the number of tagged fields
	}
	if d.ids {
		smallest = 18
	}
	q.Topics = resized(q.Topics, d.count(smallest))
	for i := range q.Topics {
		t := &q.Topics[i]
		d.topic(&t.Name, &t.ID)
		t.partitions(d)
		d.tags()
		if !d.ok() {
			return
		}
	}
}

func (t *ProduceTopic) partitions(d *decoder) {
	smallest := 8 // index and length of the records
	if d.flexible {
		smallest = 6
	}
	t.Partitions = resized(t.Partitions, d.count(smallest))
	for i := range t.Partitions {
		p := &t.Partitions[i]
		p.Index = d.r.Int32()
		if d.flexible {
			p.Records = d.r.CompactNullableBytes()
		} else {
			p.Records = d.r.NullableBytes()
		}
		d.tags()
		if !d.ok() {
			return
		}
	}
}
