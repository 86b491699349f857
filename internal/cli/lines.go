package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/twmb/franz-go/pkg/kgo"
)

// recordSource turns lines into records, in bounded memory: it holds one line and
// its buffer. One goroutine uses it.
type recordSource struct {
	options   *produceOptions
	keyEnd    []byte // separates key and value, nil: no key in the line
	fixedKey  []byte
	headers   []kgo.RecordHeader
	limit     int   // longest line
	number    int64 // of the last record, from 1, over all inputs
	buffer    []byte
	maxRecord int
}

// newRecordSource checks the flags that shape records. maxRecord is the topic's
// max.message.bytes: no longer line can be sent.
func newRecordSource(o *produceOptions, maxRecord int) (*recordSource, error) {
	s := &recordSource{options: o, maxRecord: maxRecord, limit: maxRecord}
	if o.json {
		s.limit = saturatingInt(6*int64(maxRecord) + 1<<16) // every byte may be written as \u00ff
	}
	if o.keySeparator != "" {
		var err error
		if s.keyEnd, err = unescapeAll(o.keySeparator); err != nil {
			return nil, usagef("--key-separator: %w", err)
		}
	}
	if o.hasKey {
		s.fixedKey = []byte(o.key)
	}
	for _, h := range o.headers {
		kv, err := parseSetting(h)
		if err != nil {
			return nil, usagef("--header %w", err)
		}
		s.headers = append(s.headers, kgo.RecordHeader{Key: kv.key, Value: []byte(kv.value)})
	}
	return s, nil
}

func saturatingInt(n int64) int { return int(min(n, 1<<31-1)) }

// each calls send with every record of the named files, "-" and no name being in.
// It ends early when ctx does, but not while a read of in blocks.
func (s *recordSource) each(ctx context.Context, files []string, in io.Reader, send func(number int64, r *kgo.Record)) error {
	if len(files) == 0 {
		files = []string{"-"}
	}
	for _, name := range files {
		if err := s.eachOf(ctx, name, in, send); err != nil {
			return err
		}
	}
	return nil
}

func (s *recordSource) eachOf(ctx context.Context, name string, in io.Reader, send func(int64, *kgo.Record)) error {
	shown := "standard input"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return &failure{cause: "the file cannot be read", value: err.Error(), err: err}
		}
		defer f.Close()
		in, shown = f, name
	}
	reader := bufio.NewReaderSize(in, 256<<10)
	for line := int64(1); ctx.Err() == nil; line++ {
		text, err := s.readLine(reader)
		if errors.Is(err, io.EOF) {
			return nil
		}
		s.number++
		var r *kgo.Record
		if err == nil {
			r, err = s.record(text)
		}
		if err != nil {
			return &failure{cause: fmt.Sprintf("record %d cannot be sent", s.number),
				value: fmt.Sprintf("%s, line %d", shown, line), help: err.Error(), err: err}
		}
		if r != nil {
			send(s.number, r)
		}
	}
	return ctx.Err()
}

// readLine returns a line without its "\n", valid until the next call. A carriage
// return before it is part of the record: what goes in comes out the same.
func (s *recordSource) readLine(r *bufio.Reader) ([]byte, error) {
	part, err := r.ReadSlice('\n')
	line := part
	if errors.Is(err, bufio.ErrBufferFull) {
		s.buffer = append(s.buffer[:0], part...)
		for errors.Is(err, bufio.ErrBufferFull) && len(s.buffer) <= s.limit {
			part, err = r.ReadSlice('\n')
			s.buffer = append(s.buffer, part...)
		}
		line = s.buffer
	}
	switch {
	case err == nil:
		line = line[:len(line)-1]
	case errors.Is(err, io.EOF):
		if len(line) == 0 {
			return nil, io.EOF
		}
	case !errors.Is(err, bufio.ErrBufferFull):
		return nil, err
	}
	if len(line) > s.limit {
		return nil, fmt.Errorf("the line is longer than the topic's max.message.bytes, %d", s.maxRecord)
	}
	return line, nil
}

// record copies line into a new record; nil for an empty JSON line.
func (s *recordSource) record(line []byte) (*kgo.Record, error) {
	var r *kgo.Record
	if s.options.json {
		if len(bytes.TrimSpace(line)) == 0 {
			return nil, nil
		}
		var err error
		if r, err = parseRecordJSON(line); err != nil {
			return nil, err
		}
	} else {
		r = &kgo.Record{Partition: -1}
		text := append(make([]byte, 0, len(line)), line...)
		r.Value = text
		if s.keyEnd != nil {
			i := bytes.Index(text, s.keyEnd)
			if i < 0 {
				return nil, fmt.Errorf("there is no key separator %q in it", s.keyEnd)
			}
			r.Key, r.Value = text[:i:i], text[i+len(s.keyEnd):]
		}
	}
	if r.Key == nil {
		r.Key = s.fixedKey
	}
	if r.Partition < 0 {
		r.Partition = s.options.partition
	}
	if s.options.tombstone && len(r.Value) == 0 {
		r.Value = nil
	}
	r.Headers = append(r.Headers, s.headers...)
	return r, nil
}
