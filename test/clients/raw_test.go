//go:build clients && linux

package clients

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const rawPatience = time.Minute

// rawConn is a connection on which a test says exactly what it wants to say.
type rawConn struct {
	net.Conn
	correlationID int32
}

func dial(t testing.TB, addr string) *rawConn {
	t.Helper()
	c, err := connect(addr)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func connect(addr string) (*rawConn, error) {
	c, err := net.DialTimeout("tcp", addr, rawPatience)
	return &rawConn{Conn: c}, err
}

var formatter = kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw"))

// ask sends a request in the version that it is set to and waits for its response.
func (c *rawConn) ask(req kmsg.Request) (kmsg.Response, error) {
	c.correlationID++
	if _, err := c.Write(formatter.AppendRequest(nil, req, c.correlationID)); err != nil {
		return nil, err
	}
	return c.answer(req)
}

// answer reads the response to a request that has been sent.
func (c *rawConn) answer(req kmsg.Request) (kmsg.Response, error) {
	frame, err := c.readFrame(rawPatience)
	if err != nil {
		return nil, err
	}
	return decode(frame, req)
}

func (c *rawConn) readFrame(patience time.Duration) ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	n := int32(binary.BigEndian.Uint32(size[:]))
	if n < 4 || n > 64<<20 {
		return nil, fmt.Errorf("a response of %d bytes", n)
	}
	frame := make([]byte, n)
	_, err := io.ReadFull(c, frame)
	return frame, err
}

func decode(frame []byte, req kmsg.Request) (kmsg.Response, error) {
	resp := req.ResponseKind()
	body := frame[4:]
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		r := kbin.Reader{Src: body}
		kmsg.SkipTags(&r)
		if err := r.Complete(); err != nil {
			return nil, err
		}
		body = r.Src
	}
	return resp, resp.ReadFrom(body)
}

// answersApiVersions says whether a broker on addr is ready to serve.
func answersApiVersions(addr string) bool {
	c, err := connect(addr)
	if err != nil {
		return false
	}
	defer c.Close()
	resp, err := c.ask(kmsg.NewPtrApiVersionsRequest())
	return err == nil && resp.(*kmsg.ApiVersionsResponse).ErrorCode == 0
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// batchOf is a record batch with the given values, keyless; change may spoil it before its CRC is computed.
func batchOf(change func(*kmsg.RecordBatch), values ...[]byte) []byte {
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(values) - 1), FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(len(values))}
	for i, v := range values {
		r := kmsg.Record{OffsetDelta: int32(i), Value: v}
		body := r.AppendTo(nil)[1:] // without the length, which is 0 and takes one byte
		b.Records = kbin.AppendVarint(b.Records, int32(len(body)))
		b.Records = append(b.Records, body...)
	}
	b.Length = int32(49 + len(b.Records))
	if change != nil {
		change(&b)
	}
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], castagnoli))
	return raw
}

// produceRequest names its topic, so it is of the last version that does.
func produceRequest(acks int16, topic string, partition int32, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version = 12
	req.Acks = acks
	req.TimeoutMillis = 10000
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition = partition
	p.Records = records
	top := kmsg.NewProduceRequestTopic()
	top.Topic = topic
	top.Partitions = append(top.Partitions, p)
	req.Topics = append(req.Topics, top)
	return req
}
