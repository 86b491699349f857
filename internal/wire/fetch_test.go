package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestFetchRequestIsThatOfKmsg decodes random requests of every version into one FetchRequest after the other.
func TestFetchRequestIsThatOfKmsg(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	var got FetchRequest
	for range 3000 {
		version := int16(4 + rnd.Intn(15))
		r := kmsg.NewPtrFetchRequest()
		r.Version = version
		r.MaxWaitMillis, r.MinBytes, r.MaxBytes, r.IsolationLevel = rnd.Int31(), rnd.Int31(), rnd.Int31(), int8(rnd.Intn(2))
		r.Rack = fmt.Sprint("rack", rnd.Intn(100))
		want := FetchRequest{Version: version, ReplicaID: -1, MaxWait: time.Duration(r.MaxWaitMillis) * time.Millisecond,
			MinBytes: r.MinBytes, MaxBytes: r.MaxBytes, ReadCommitted: r.IsolationLevel == 1, SessionEpoch: -1}
		if rnd.Intn(3) == 0 {
			if want.ReplicaID = rnd.Int31(); version >= 15 {
				r.ReplicaState.ID = want.ReplicaID
			} else {
				r.ReplicaID = want.ReplicaID
			}
		}
		if rnd.Intn(2) == 0 {
			id := "cluster"
			r.ClusterID = &id
		}
		if version >= 7 {
			r.SessionID, r.SessionEpoch = rnd.Int31(), rnd.Int31()
			want.SessionID, want.SessionEpoch = r.SessionID, r.SessionEpoch
		}
		for i := range rnd.Intn(4) {
			rt, wt := kmsg.NewFetchRequestTopic(), FetchRequestTopic{}
			if version >= 13 {
				rt.TopicID[0], wt.ID[0] = byte(i), byte(i)
			} else {
				rt.Topic, wt.Name = fmt.Sprint("t", rnd.Intn(3)), ""
				wt.Name = rt.Topic
			}
			for range rnd.Intn(4) {
				p := kmsg.NewFetchRequestTopicPartition()
				p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.LogStartOffset = rnd.Int31(), rnd.Int63(), rnd.Int31(), rnd.Int63()
				w := FetchRequestPartition{Index: p.Partition, Offset: p.FetchOffset, MaxBytes: p.PartitionMaxBytes, CurrentEpoch: -1, FetchedEpoch: -1}
				if version >= 9 {
					p.CurrentLeaderEpoch = rnd.Int31()
					w.CurrentEpoch = p.CurrentLeaderEpoch
				}
				if version >= 12 {
					p.LastFetchedEpoch = rnd.Int31()
					w.FetchedEpoch = p.LastFetchedEpoch
				}
				if version >= 17 && rnd.Intn(2) == 0 {
					p.ReplicaDirectoryID[3] = 1
				}
				rt.Partitions, wt.Partitions = append(rt.Partitions, p), append(wt.Partitions, w)
			}
			r.Topics, want.Topics = append(r.Topics, rt), append(want.Topics, wt)
		}
		if version >= 7 {
			for i := range rnd.Intn(3) {
				ft, wt := kmsg.NewFetchRequestForgottenTopic(), ForgottenTopic{}
				if version >= 13 {
					ft.TopicID[1], wt.ID[1] = byte(i), byte(i)
				} else {
					ft.Topic, wt.Name = fmt.Sprint("f", i), fmt.Sprint("f", i)
				}
				for range rnd.Intn(3) {
					n := rnd.Int31()
					ft.Partitions, wt.Partitions = append(ft.Partitions, n), append(wt.Partitions, n)
				}
				r.ForgottenTopics, want.Forgotten = append(r.ForgottenTopics, ft), append(want.Forgotten, wt)
			}
		}
		body := r.AppendTo(nil)
		if err := got.Decode(version, append(body, "after"...)); err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if !sameFetch(got, want) {
			t.Fatalf("version %d:\n%+v\n%+v", version, got, want)
		}
		for range 5 {
			if err := new(FetchRequest).Decode(version, body[:rnd.Intn(len(body))]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("version %d, cut: %v", version, err)
			}
		}
	}
	for _, version := range []int16{-1, 3, 19} {
		if err := got.Decode(version, nil); !errors.Is(err, ErrUnsupported) {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

// sameFetch compares without regard to nil and empty.
func sameFetch(a, b FetchRequest) bool { return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b) }

// TestFetchRequestIsBounded: what a request claims to hold is not allocated.
func TestFetchRequestIsBounded(t *testing.T) {
	rnd := rand.New(rand.NewSource(2))
	for range 2000 {
		version := int16(4 + rnd.Intn(15))
		body := make([]byte, rnd.Intn(200))
		rnd.Read(body)
		if rnd.Intn(2) == 0 {
			for i := range body {
				body[i] = 0x7f
			}
		}
		if used := allocated(func() { _ = new(FetchRequest).Decode(version, body) }); used > memoryAtLeast+memoryPerByte*int64(len(body)) {
			t.Fatalf("version %d: %d bytes allocated for %d", version, used, len(body))
		}
	}
}

// TestProduceResponseIsThatOfKmsg encodes random responses of every version.
func TestProduceResponseIsThatOfKmsg(t *testing.T) {
	rnd := rand.New(rand.NewSource(3))
	for range 3000 {
		version := int16(3 + rnd.Intn(11))
		other := kmsg.NewPtrProduceResponse()
		other.Version, other.ThrottleMillis = version, rnd.Int31()
		ours := &ProduceResponse{ThrottleMs: other.ThrottleMillis}
		for i := range rnd.Intn(4) {
			ot := kmsg.NewProduceResponseTopic()
			ot.Topic, ot.TopicID[0] = fmt.Sprint("t", i), byte(i)
			topic := ProducedTopic{Name: ot.Topic, ID: ot.TopicID}
			for range rnd.Intn(4) {
				o := kmsg.NewProduceResponseTopicPartition()
				o.Partition, o.ErrorCode, o.BaseOffset, o.LogAppendTime, o.LogStartOffset = rnd.Int31(), int16(rnd.Intn(90)), rnd.Int63(), rnd.Int63(), rnd.Int63()
				p := ProducedPartition{Partition: o.Partition, ErrorCode: Code(o.ErrorCode), BaseOffset: o.BaseOffset, LogAppendTimeMs: o.LogAppendTime, LogStartOffset: o.LogStartOffset}
				if rnd.Intn(2) == 0 {
					text := "message"
					o.ErrorMessage, p.ErrorMessage = &text, &text
				}
				for k := range rnd.Intn(3) {
					e := kmsg.NewProduceResponseTopicPartitionErrorRecord()
					text := fmt.Sprint("record ", k)
					e.RelativeOffset, e.ErrorMessage = int32(k), &text
					o.ErrorRecords, p.ErrorRecords = append(o.ErrorRecords, e), append(p.ErrorRecords, ProducedError{int32(k), text})
				}
				if version >= 10 && rnd.Intn(2) == 0 { // kmsg writes it in version 9 too
					p.CurrentLeader = &LeaderAndEpoch{rnd.Int31(), rnd.Int31()}
					o.CurrentLeader.LeaderID, o.CurrentLeader.LeaderEpoch = p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch
				}
				ot.Partitions, topic.Partitions = append(ot.Partitions, o), append(topic.Partitions, p)
			}
			other.Topics, ours.Topics = append(other.Topics, ot), append(ours.Topics, topic)
		}
		for i := range rnd.Intn(3) {
			if version < 10 {
				break // as above
			}
			b := kmsg.NewProduceResponseBroker()
			b.NodeID, b.Host, b.Port = int32(i), "host", rnd.Int31()
			other.Brokers, ours.Brokers = append(other.Brokers, b), append(ours.Brokers, FetchBroker{b.NodeID, b.Host, b.Port, nil})
		}
		want := AppendResponse([]byte("before"), 7, other)
		if got := AppendProduce([]byte("before"), 7, version, ours); !bytes.Equal(got, want) {
			t.Fatalf("version %d\n% x\n% x", version, got, want)
		}
	}
}
