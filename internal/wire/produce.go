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

// DecodeProduce decodes the body of a Produce request. Records are views of body, strings are copied; bytes
// after the request are ignored. Versions below 3 and above 13 are ErrUnsupported.
func DecodeProduce(version int16, body []byte) (*ProduceRequest, error) {
	if version < 3 || version > 13 {
		return nil, fmt.Errorf("%w: Produce version %d", ErrUnsupported, version)
	}
	d := produceDecoder{r: kbin.Reader{Src: body}, flexible: version >= 9, ids: version >= 13}
	q := &ProduceRequest{Version: version}
	if d.flexible {
		q.TransactionalID = d.r.CompactNullableString()
	} else {
		q.TransactionalID = d.r.NullableString()
	}
	q.Acks = d.r.Int16()
	q.Timeout = time.Duration(d.r.Int32()) * time.Millisecond
	q.Topics = d.topics()
	d.tags()
	if d.err == nil && !d.r.Ok() {
		d.err = fmt.Errorf("%w: request ends early", ErrMalformed)
	}
	if d.err != nil {
		return nil, fmt.Errorf("%s version %d: %w", kmsg.NameForKey(keyProduce), version, d.err)
	}
	return q, nil
}

// produceDecoder's first error is sticky.
type produceDecoder struct {
	r             kbin.Reader
	flexible, ids bool
	err           error
}

// count reads the number of elements, each of which takes at least smallest bytes.
func (d *produceDecoder) count(smallest int) int {
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

func (d *produceDecoder) ok() bool { return d.err == nil && d.r.Ok() }

func (d *produceDecoder) tags() {
	if d.flexible && d.ok() {
		d.err = skipTags(&d.r)
	}
}

func (d *produceDecoder) topics() []ProduceTopic {
	smallest := 6 // lengths of name and array
	if d.flexible {
		smallest = 3 // the same, and the number of tagged fields
	}
	if d.ids {
		smallest = 18
	}
	topics := make([]ProduceTopic, d.count(smallest))
	for i := range topics {
		t := &topics[i]
		switch {
		case d.ids:
			t.ID = d.r.Uuid()
		case d.flexible:
			t.Name = d.r.CompactString()
		default:
			t.Name = d.r.String()
		}
		t.Partitions = d.partitions()
		d.tags()
		if !d.ok() {
			return nil
		}
	}
	return topics
}

func (d *produceDecoder) partitions() []ProducePartition {
	smallest := 8 // index and length of the records
	if d.flexible {
		smallest = 6
	}
	parts := make([]ProducePartition, d.count(smallest))
	for i := range parts {
		p := &parts[i]
		p.Index = d.r.Int32()
		if d.flexible {
			p.Records = d.r.CompactNullableBytes()
		} else {
			p.Records = d.r.NullableBytes()
		}
		d.tags()
		if !d.ok() {
			return nil
		}
	}
	return parts
}
