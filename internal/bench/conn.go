package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// BrokerError is a broker's refusal of a request.
type BrokerError struct {
	API       string // as Kafka calls it
	Topic     string // may be empty
	Partition int32  // -1 where none is concerned
	Message   string // the broker's explanation, may be empty
	Err       error  // a *kerr.Error
}

func (e *BrokerError) Error() string {
	s := e.API
	if e.Topic != "" {
		s += " " + e.Topic
		if e.Partition >= 0 {
			s += fmt.Sprintf("-%d", e.Partition)
		}
	}
	s += ": " + e.Err.Error()
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

func (e *BrokerError) Unwrap() error { return e.Err }

// refused is the BrokerError of a code, nil for none.
func refused(api, topic string, partition int32, code int16, message *string) error {
	err := kerr.ErrorForCode(code)
	if err == nil {
		return nil
	}
	e := &BrokerError{API: api, Topic: topic, Partition: partition, Err: err}
	if message != nil {
		e.Message = *message
	}
	return e
}

// maxVersions are the versions that this package was written for. Those of Produce and Fetch are the last
// that name a topic; its id would be one more thing to look up and shows nothing.
var maxVersions = map[int16]int16{
	kmsg.Produce.Int16(): 12, kmsg.Fetch.Int16(): 12, kmsg.ListOffsets.Int16(): 7, kmsg.Metadata.Int16(): 12,
	kmsg.CreateTopics.Int16(): 7, kmsg.DeleteTopics.Int16(): 5, kmsg.InitProducerID.Int16(): 4,
}

// conn is a connection to one broker. At any time one goroutine writes and one reads.
type conn struct {
	net.Conn
	address   string
	clientID  string
	timeout   time.Duration
	formatter *kmsg.RequestFormatter
	versions  map[int16]int16 // by API key: the highest that both sides know
	lastID    int32           // correlation id of the last request
	frames    frameReader
}

func (o *Options) connect(ctx context.Context, address string) (*conn, error) {
	limited, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	nc, err := o.Dial(limited, address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	c := &conn{Conn: nc, address: address, clientID: o.ClientID, timeout: o.Timeout,
		formatter: kmsg.NewRequestFormatter(kmsg.FormatterClientID(o.ClientID)), versions: map[int16]int16{}}
	c.frames.src = nc
	if err := c.negotiate(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("%s does not answer as a Kafka broker: %w", address, err)
	}
	return c, nil
}

func (c *conn) negotiate(ctx context.Context) error {
	c.versions[kmsg.ApiVersions.Int16()] = 0
	req := kmsg.NewPtrApiVersionsRequest()
	resp, err := ask[*kmsg.ApiVersionsResponse](ctx, c, req)
	if err != nil {
		return err
	}
	if err := refused("ApiVersions", "", -1, resp.ErrorCode, nil); err != nil {
		return err
	}
	for _, k := range resp.ApiKeys {
		if ours, ok := maxVersions[k.ApiKey]; ok && k.MinVersion <= ours {
			c.versions[k.ApiKey] = min(ours, k.MaxVersion)
		}
	}
	return nil
}

// prepare sets the request's version.
func (c *conn) prepare(req kmsg.Request) error {
	v, ok := c.versions[req.Key()]
	if !ok {
		return fmt.Errorf("%s at %s: the broker speaks no version of it that this client knows", kmsg.NameForKey(req.Key()), c.address)
	}
	req.SetVersion(v)
	return nil
}

// tooOld is the error for a broker that does not know record batches of format 2, which Kafka has since 0.11.
func tooOld(c *conn, req kmsg.Request) error {
	return fmt.Errorf("%s at %s: version %d has no record batches of format 2", kmsg.NameForKey(req.Key()), c.address, req.GetVersion())
}

// ask sends one request and waits for its response.
func ask[T kmsg.Response](ctx context.Context, c *conn, req kmsg.Request) (T, error) {
	var none T
	if err := c.prepare(req); err != nil {
		return none, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return none, err
	}
	c.lastID++
	if _, err := c.Write(c.formatter.AppendRequest(nil, req, c.lastID)); err != nil {
		return none, c.failed(ctx, req.Key(), err)
	}
	frame, err := c.frames.next()
	if err != nil {
		return none, c.failed(ctx, req.Key(), err)
	}
	resp := req.ResponseKind()
	body, err := bodyOf(frame, resp, c.lastID)
	if err != nil {
		return none, err
	}
	if err := resp.ReadFrom(body); err != nil { // which copies strings: the frame is gone with the next one
		return none, unreadable(resp, err)
	}
	return resp.(T), c.SetDeadline(time.Time{})
}

// failed gives a connection's error its context; a context that ended is its own reason.
func (c *conn) failed(ctx context.Context, key int16, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var netErr net.Error
	switch {
	case errors.As(err, &netErr) && netErr.Timeout():
		err = fmt.Errorf("no answer within %s: %w", c.timeout, context.DeadlineExceeded)
	case errors.Is(err, io.EOF):
		err = errors.New("the broker closed the connection; its log may say why")
	}
	return fmt.Errorf("%s at %s: %w", kmsg.NameForKey(key), c.address, err)
}

// bodyOf checks that frame is the response to request wantID and returns what follows its header.
func bodyOf(frame []byte, resp kmsg.Response, wantID int32) ([]byte, error) {
	if len(frame) < 4 {
		return nil, fmt.Errorf("a response of %d bytes", len(frame))
	}
	if id := int32(binary.BigEndian.Uint32(frame)); id != wantID {
		return nil, fmt.Errorf("a response to request %d, where %d is due", id, wantID)
	}
	if !resp.IsFlexible() || resp.Key() == kmsg.ApiVersions.Int16() {
		return frame[4:], nil
	}
	r := kbin.Reader{Src: frame[4:]}
	kmsg.SkipTags(&r)
	if !r.Ok() {
		return nil, errors.New("a response whose header ends early")
	}
	return r.Src, nil
}

func unreadable(resp kmsg.Response, err error) error {
	return fmt.Errorf("a response to %s that cannot be read: %w", kmsg.NameForKey(resp.Key()), err)
}

const (
	firstBuffer = 64 << 10
	maxFrame    = 1 << 30
)

// frameReader cuts a stream into frames. It reads as much as there is, so that many small answers cost one
// system call; it grows its buffer by what has come, and never by the length that a frame claims.
type frameReader struct {
	src        io.Reader
	buf        []byte
	start, end int // what has been read and not been handed out
}

// next returns the next frame without its length. It is valid until the next call.
func (f *frameReader) next() ([]byte, error) {
	for {
		n, err := f.whole()
		if err != nil {
			return nil, err
		}
		if n >= 0 {
			frame := f.buf[f.start+4 : f.start+4+n]
			f.start += 4 + n
			return frame, nil
		}
		if err := f.fill(); err != nil {
			return nil, err
		}
	}
}

// ready says that next will not read.
func (f *frameReader) ready() bool {
	n, err := f.whole()
	return n >= 0 || err != nil
}

// whole is the length of the first frame, -1 when it is not all there.
func (f *frameReader) whole() (int, error) {
	if f.end-f.start < 4 {
		return -1, nil
	}
	n := int(binary.BigEndian.Uint32(f.buf[f.start:]))
	if n < 4 || n > maxFrame {
		return -1, fmt.Errorf("a response of %d bytes: this is not Kafka's protocol, or it is TLS", n)
	}
	if f.end-f.start < 4+n {
		return -1, nil
	}
	return n, nil
}

func (f *frameReader) fill() error {
	if f.start == f.end {
		f.start, f.end = 0, 0
	}
	if f.end == len(f.buf) {
		if f.start > 0 {
			f.end = copy(f.buf, f.buf[f.start:f.end])
			f.start = 0
		} else {
			f.buf = append(f.buf, make([]byte, max(firstBuffer, len(f.buf)))...)
		}
	}
	n, err := f.src.Read(f.buf[f.end:])
	f.end += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}
