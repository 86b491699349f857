package bench

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fake is a broker over pipes, with the topic "t". Its answers to Produce are the test's.
type fake struct {
	t          testing.TB
	partitions int32 // of the topic, 0 is 1
	// produce answers request n of a connection, from 0, in the connection's order; nil is no answer, ever.
	produce func(n int, resp *kmsg.ProduceResponse) *kmsg.ProduceResponse
	// fetch answers Fetch n of a connection.
	fetch func(n int, req *kmsg.FetchRequest, resp *kmsg.FetchResponse)
	// spoil may change a frame before it is sent.
	spoil func(key int16, frame []byte) []byte

	wg sync.WaitGroup // its goroutines
}

func (f *fake) options() Options {
	f.t.Cleanup(f.wg.Wait)
	return Options{Bootstrap: []string{"fake:1"}, Topic: "t", Timeout: 5 * time.Second, Acks: 1, RecordSize: 10, BatchSize: 1,
		Dial: func(context.Context, string) (net.Conn, error) {
			client, server := net.Pipe()
			f.wg.Go(func() { f.serve(server) })
			return client, nil
		}}
}

// fakeEnd is the next offset of the fake's partition.
const fakeEnd = 10

// question is a request that has been read.
type question struct {
	req kmsg.Request
	id  int32
}

// serve reads at once and answers in order.
func (f *fake) serve(c net.Conn) {
	defer c.Close()
	questions := make(chan question, 1<<16)
	defer close(questions)
	f.wg.Go(func() {
		n := 0
		for q := range questions {
			resp := f.answer(q.req, n)
			if key := q.req.Key(); key == kmsg.Produce.Int16() || key == kmsg.Fetch.Int16() {
				n++
			}
			if resp == nil {
				continue
			}
			frame := frameOf(resp, q.id)
			if f.spoil != nil {
				frame = f.spoil(q.req.Key(), frame)
			}
			if _, err := c.Write(frame); err != nil {
				c.Close()
			}
		}
	})
	for {
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, frame); err != nil {
			return
		}
		r := kbin.Reader{Src: frame}
		req := kmsg.RequestForKey(r.Int16())
		req.SetVersion(r.Int16())
		id := r.Int32()
		r.NullableString()
		if req.IsFlexible() {
			kmsg.SkipTags(&r)
		}
		if err := req.ReadFrom(append([]byte(nil), r.Src...)); err != nil {
			f.t.Errorf("%s: %v", kmsg.NameForKey(req.Key()), err)
			return
		}
		questions <- question{req, id}
	}
}

func frameOf(resp kmsg.Response, id int32) []byte {
	frame := binary.BigEndian.AppendUint32(make([]byte, 4), uint32(id))
	if resp.IsFlexible() && resp.Key() != kmsg.ApiVersions.Int16() {
		frame = append(frame, 0)
	}
	frame = resp.AppendTo(frame)
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame
}

func (f *fake) answer(req kmsg.Request, n int) kmsg.Response {
	resp := req.ResponseKind()
	switch resp := resp.(type) {
	case *kmsg.ApiVersionsResponse:
		for key := range maxVersions {
			k := kmsg.NewApiVersionsResponseApiKey()
			k.ApiKey, k.MaxVersion = key, 100
			resp.ApiKeys = append(resp.ApiKeys, k)
		}
	case *kmsg.MetadataResponse:
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = 1, "fake", 1
		resp.Brokers = append(resp.Brokers, b)
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic = kmsg.StringPtr("t")
		for i := range max(1, f.partitions) {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition, p.Leader = i, 1
			topic.Partitions = append(topic.Partitions, p)
		}
		resp.Topics = append(resp.Topics, topic)
	case *kmsg.ListOffsetsResponse:
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic = "t"
		for _, asked := range req.(*kmsg.ListOffsetsRequest).Topics[0].Partitions {
			p := kmsg.NewListOffsetsResponseTopicPartition()
			p.Partition, p.Offset = asked.Partition, 0
			if asked.Timestamp == latest {
				p.Offset = fakeEnd
			}
			topic.Partitions = append(topic.Partitions, p)
		}
		resp.Topics = append(resp.Topics, topic)
	case *kmsg.ProduceResponse:
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic = "t"
		topic.Partitions = append(topic.Partitions, kmsg.NewProduceResponseTopicPartition())
		resp.Topics = append(resp.Topics, topic)
		if resp = f.produce(n, resp); resp == nil {
			return nil
		}
	case *kmsg.FetchResponse:
		f.fetch(n, req.(*kmsg.FetchRequest), resp)
	default:
		f.t.Errorf("%s was not expected", kmsg.NameForKey(req.Key()))
		return nil
	}
	return resp
}
