package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// recordJSON is a record as consume -o json prints it and produce --json reads it.
// Bytes that are not UTF-8 are in base64, and the field beside them says so.
type recordJSON struct {
	Topic         string       `json:"topic"`
	Partition     int32        `json:"partition"`
	Offset        int64        `json:"offset"`
	LeaderEpoch   int32        `json:"leaderEpoch"`
	Timestamp     int64        `json:"timestamp"` // milliseconds since 1970, -1 for none
	TimestampType string       `json:"timestampType"`
	Key           *string      `json:"key"`
	KeyEncoding   string       `json:"keyEncoding,omitempty"`
	Value         *string      `json:"value"`
	ValueEncoding string       `json:"valueEncoding,omitempty"`
	Headers       []headerJSON `json:"headers"`
}

type headerJSON struct {
	Key           string  `json:"key"`
	KeyEncoding   string  `json:"keyEncoding,omitempty"`
	Value         *string `json:"value"`
	ValueEncoding string  `json:"valueEncoding,omitempty"`
}

func newRecordJSON(r *kgo.Record) recordJSON {
	out := recordJSON{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, LeaderEpoch: r.LeaderEpoch,
		Timestamp: r.Timestamp.UnixMilli(), TimestampType: "CreateTime", Headers: make([]headerJSON, len(r.Headers)),
	}
	switch r.Attrs.TimestampType() {
	case 1:
		out.TimestampType = "LogAppendTime"
	case -1:
		out.TimestampType, out.Timestamp = "NoTimestampType", -1
	}
	out.Key, out.KeyEncoding = encodeBytes(r.Key)
	out.Value, out.ValueEncoding = encodeBytes(r.Value)
	for i, h := range r.Headers {
		key, encoding := encodeBytes([]byte(h.Key))
		out.Headers[i] = headerJSON{Key: deref(key), KeyEncoding: encoding}
		out.Headers[i].Value, out.Headers[i].ValueEncoding = encodeBytes(h.Value)
	}
	return out
}

func encodeBytes(b []byte) (text *string, encoding string) {
	if b == nil {
		return nil, ""
	}
	s := string(b)
	if !utf8.Valid(b) {
		s, encoding = base64.StdEncoding.EncodeToString(b), "base64"
	}
	return &s, encoding
}

// recordInput is one line of produce --json. What consume prints but a producer
// does not choose (topic, offset and so on) is accepted and without effect.
type recordInput struct {
	Partition     *int32          `json:"partition"`
	Timestamp     json.RawMessage `json:"timestamp"`
	Key           json.RawMessage `json:"key"`
	KeyEncoding   string          `json:"keyEncoding"`
	Value         json.RawMessage `json:"value"`
	ValueEncoding string          `json:"valueEncoding"`
	Headers       json.RawMessage `json:"headers"`

	Topic         json.RawMessage `json:"topic"`
	Offset        json.RawMessage `json:"offset"`
	LeaderEpoch   json.RawMessage `json:"leaderEpoch"`
	TimestampType json.RawMessage `json:"timestampType"`
}

var recordFields = []string{"key", "keyEncoding", "value", "valueEncoding", "headers", "partition", "timestamp"}

// parseRecordJSON reads one line. The record's Partition is -1 when the line does not choose one.
func parseRecordJSON(line []byte) (*kgo.Record, error) {
	var in recordInput
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, jsonProblem(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value on the line")
	}
	r := &kgo.Record{Partition: -1}
	if in.Partition != nil {
		if *in.Partition < 0 {
			return nil, fmt.Errorf("partition %d: a partition is a number from 0 on", *in.Partition)
		}
		r.Partition = *in.Partition
	}
	var err error
	if r.Key, err = decodeBytes(in.Key, in.KeyEncoding); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if r.Value, err = decodeBytes(in.Value, in.ValueEncoding); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	if r.Timestamp, err = decodeTimestamp(in.Timestamp); err != nil {
		return nil, err
	}
	if r.Headers, err = decodeHeaders(in.Headers); err != nil {
		return nil, fmt.Errorf("headers: %w", err)
	}
	return r, nil
}

func jsonProblem(err error) error {
	const unknown = `json: unknown field "`
	if name, ok := strings.CutPrefix(err.Error(), unknown); ok {
		name = strings.TrimSuffix(name, `"`)
		if guess := nearest(name, recordFields); guess != "" {
			return fmt.Errorf("unknown field %q: did you mean %q?", name, guess)
		}
		return fmt.Errorf("unknown field %q: %s", name, strings.Join(recordFields, ", "))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON object is not complete: one object a line")
	}
	return errors.New("not the expected JSON: " + strings.TrimPrefix(err.Error(), "json: "))
}

// decodeBytes takes a string as its bytes (or base64), null as null, and any other JSON as its text.
func decodeBytes(raw json.RawMessage, encoding string) ([]byte, error) {
	if encoding != "" && encoding != "base64" && encoding != "utf8" {
		return nil, fmt.Errorf("encoding %q is unknown: base64 or utf8", encoding)
	}
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] != '"' {
		if encoding == "base64" {
			return nil, errors.New("base64 must be in a string")
		}
		var compact bytes.Buffer
		err := json.Compact(&compact, raw)
		return compact.Bytes(), err
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, jsonProblem(err)
	}
	if encoding != "base64" {
		return []byte(s), nil
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("not base64 (%w)", err)
	}
	return b, nil
}

// decodeTimestamp takes milliseconds or RFC 3339; nothing, null and -1 leave it to the client.
func decodeTimestamp(raw json.RawMessage) (time.Time, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return time.Time{}, nil
	}
	var ms int64
	if err := json.Unmarshal(raw, &ms); err == nil {
		if ms == -1 {
			return time.Time{}, nil
		}
		if ms < 0 || ms > math.MaxInt64/int64(time.Millisecond) {
			return time.Time{}, fmt.Errorf("timestamp %d is not in milliseconds since 1970", ms)
		}
		return time.UnixMilli(ms), nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err == nil {
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("timestamp %s is neither milliseconds since 1970 nor like \"2026-01-31T12:00:00Z\"", raw)
}

// decodeHeaders takes a list of {"key":…,"value":…}, or an object, whose order is kept.
func decodeHeaders(raw json.RawMessage) ([]kgo.RecordHeader, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] == '{' {
		return decodeHeaderObject(raw)
	}
	var list []struct {
		Key           *string         `json:"key"`
		KeyEncoding   string          `json:"keyEncoding"`
		Value         json.RawMessage `json:"value"`
		ValueEncoding string          `json:"valueEncoding"`
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		return nil, jsonProblem(err)
	}
	var out []kgo.RecordHeader
	for i, h := range list {
		if h.Key == nil {
			return nil, fmt.Errorf("number %d has no key", i+1)
		}
		key := []byte(*h.Key)
		if h.KeyEncoding == "base64" {
			decoded, err := base64.StdEncoding.DecodeString(*h.Key)
			if err != nil {
				return nil, fmt.Errorf("key of number %d: not base64 (%w)", i+1, err)
			}
			key = decoded
		}
		value, err := decodeBytes(h.Value, h.ValueEncoding)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", *h.Key, err)
		}
		out = append(out, kgo.RecordHeader{Key: string(key), Value: value})
	}
	return out, nil
}

func decodeHeaderObject(raw json.RawMessage) ([]kgo.RecordHeader, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil {
		return nil, jsonProblem(err)
	}
	var out []kgo.RecordHeader
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, jsonProblem(err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, jsonProblem(err)
		}
		b, err := decodeBytes(value, "")
		if err != nil {
			return nil, err
		}
		out = append(out, kgo.RecordHeader{Key: name.(string), Value: b})
	}
	return out, nil
}
