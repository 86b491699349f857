package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/vfs"
)

func TestResponsesHaveTheRightHeader(t *testing.T) {
	eachAPI(func(key, version int16) {
		resp := kmsg.ResponseForKey(key)
		resp.SetVersion(version)
		got := AppendResponse([]byte("before"), 0x01020304, resp)[6:]
		want := []byte{0, 0, 0, 0, 1, 2, 3, 4}
		if resp.IsFlexible() && key != keyAPIVersions {
			want = append(want, 0)
		}
		want = resp.AppendTo(want)
		binary.BigEndian.PutUint32(want, uint32(len(want)-4))
		if !bytes.Equal(got, want) {
			t.Fatalf("%s version %d\n% x\n% x", kmsg.NameForKey(key), version, got, want)
		}
	})
}

// disk is a file in memory; only ReadAt is used.
type disk struct {
	vfs.File
	bytes.Reader
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) { return d.Reader.ReadAt(p, off) }
func (d *disk) Size() (int64, error)                    { return d.Reader.Size(), nil }

func flatten(t *testing.T, pieces []Piece) []byte {
	t.Helper()
	var out []byte
	for _, p := range pieces {
		if p.Len() == 0 {
			t.Fatal("an empty piece")
		}
		if p.Region.File == nil {
			out = append(out, p.Bytes...)
			continue
		}
		b := make([]byte, p.Region.Len)
		if _, err := p.Region.File.ReadAt(b, p.Region.Off); err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}

// fetchPair is the same response twice: ours, and kmsg's with all records in memory.
func fetchPair(rnd *rand.Rand, version int16) (*FetchResponse, *kmsg.FetchResponse) {
	content := make([]byte, 64<<10)
	rnd.Read(content)
	file := &disk{}
	file.Reader.Reset(content)
	ours := &FetchResponse{ThrottleMs: rnd.Int31(), ErrorCode: Code(rnd.Intn(100)), SessionID: rnd.Int31()}
	other := kmsg.NewPtrFetchResponse()
	other.SetVersion(version)
	other.ThrottleMillis, other.ErrorCode, other.SessionID = ours.ThrottleMs, int16(ours.ErrorCode), ours.SessionID
	for i := range rnd.Intn(4) {
		topic := FetchTopic{Name: fmt.Sprint("topic-", i), ID: UUID{byte(i), 5}}
		otherTopic := kmsg.NewFetchResponseTopic()
		otherTopic.Topic, otherTopic.TopicID = topic.Name, topic.ID
		for j := range rnd.Intn(5) {
			p := NewFetchPartition(int32(j))
			o := kmsg.NewFetchResponseTopicPartition()
			o.Partition, o.RecordBatches = int32(j), []byte{}
			o.HighWatermark, o.LastStableOffset, o.LogStartOffset, o.PreferredReadReplica = -1, -1, -1, -1
			if rnd.Intn(2) == 0 {
				p.ErrorCode, p.HighWatermark, p.LastStableOffset = NotLeaderOrFollower, rnd.Int63(), rnd.Int63()
				p.LogStartOffset, p.PreferredReadReplica = rnd.Int63(), rnd.Int31()
				o.ErrorCode, o.HighWatermark, o.LastStableOffset = int16(p.ErrorCode), p.HighWatermark, p.LastStableOffset
				o.LogStartOffset, o.PreferredReadReplica = p.LogStartOffset, p.PreferredReadReplica
			}
			if n := rnd.Intn(4) - 1; n >= 0 {
				p.AbortedTransactions = []AbortedTransaction{}
				o.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{}
				for range n {
					a := AbortedTransaction{rnd.Int63(), rnd.Int63()}
					p.AbortedTransactions = append(p.AbortedTransactions, a)
					o.AbortedTransactions = append(o.AbortedTransactions, kmsg.FetchResponseTopicPartitionAbortedTransaction{ProducerID: a.ProducerID, FirstOffset: a.FirstOffset})
				}
			}
			if rnd.Intn(3) == 0 {
				p.DivergingEpoch = &EpochEndOffset{3, rnd.Int63()}
				o.DivergingEpoch.Epoch, o.DivergingEpoch.EndOffset = 3, p.DivergingEpoch.EndOffset
			}
			if rnd.Intn(3) == 0 {
				p.CurrentLeader = &LeaderAndEpoch{rnd.Int31(), rnd.Int31()}
				o.CurrentLeader.LeaderID, o.CurrentLeader.LeaderEpoch = p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch
			}
			if rnd.Intn(2) == 0 {
				p.Records = content[:rnd.Intn(2*coalesce)]
				o.RecordBatches = append(o.RecordBatches, p.Records...)
			}
			for range rnd.Intn(3) {
				off := rnd.Intn(len(content))
				r := vfs.Region{File: file, Off: int64(off), Len: int64(rnd.Intn(len(content) - off))}
				p.Regions = append(p.Regions, r)
				o.RecordBatches = append(o.RecordBatches, content[off:off+int(r.Len)]...)
			}
			topic.Partitions = append(topic.Partitions, p)
			otherTopic.Partitions = append(otherTopic.Partitions, o)
		}
		ours.Topics = append(ours.Topics, topic)
		other.Topics = append(other.Topics, otherTopic)
	}
	if rnd.Intn(2) == 0 {
		rack := "r"
		ours.Brokers = []FetchBroker{{1, "a", 9092, nil}, {2, "b", 9093, &rack}}
		if version >= 16 {
			for _, b := range ours.Brokers {
				other.Brokers = append(other.Brokers, kmsg.FetchResponseBroker{NodeID: b.NodeID, Host: b.Host, Port: b.Port, Rack: b.Rack})
			}
		}
	}
	return ours, other
}

func TestFetchResponsesAreByteForByteThoseOfKmsg(t *testing.T) {
	seed := rand.Int63()
	rnd := rand.New(rand.NewSource(seed))
	for version := int16(4); version <= 18; version++ {
		for range 60 {
			ours, other := fetchPair(rnd, version)
			got := flatten(t, EncodeFetch(99, version, ours))
			if want := AppendResponse(nil, 99, other); !bytes.Equal(got, want) {
				t.Fatalf("seed %d version %d\n% .300x\n% .300x", seed, version, got, want)
			}
		}
	}
}

func TestRecordsAreNotCopied(t *testing.T) {
	records := make([]byte, coalesce)
	p := NewFetchPartition(0)
	p.Records = records
	pieces := EncodeFetch(1, 12, &FetchResponse{Topics: []FetchTopic{{Name: "t", Partitions: []FetchPartition{p}}}})
	if len(pieces) != 3 || &pieces[1].Bytes[0] != &records[0] {
		t.Fatalf("%d pieces", len(pieces))
	}
}

func TestCodesHaveKafkasNames(t *testing.T) {
	for c, want := range map[Code]string{UnknownServerError: "UNKNOWN_SERVER_ERROR", None: "NONE", OffsetOutOfRange: "OFFSET_OUT_OF_RANGE",
		NotLeaderOrFollower: "NOT_LEADER_OR_FOLLOWER", InvalidRecord: "INVALID_RECORD", ControllerIDNotRegistered: "CONTROLLER_ID_NOT_REGISTERED",
		Code(500): "ERROR_500", Code(-2): "ERROR_-2"} {
		if c.String() != want {
			t.Errorf("%d is %s", int16(c), c)
		}
	}
	if InvalidRecord != 87 || ControllerIDNotRegistered != 136 || len(codes) != 138 {
		t.Error("values")
	}
	if !NotLeaderOrFollower.Retriable() || InvalidRecord.Retriable() || Code(500).Retriable() {
		t.Error("retriable")
	}
	err := fmt.Errorf("partition 3: %w", UnknownTopicID)
	var c Code
	if !errors.As(err, &c) || c != UnknownTopicID || err.Error() != "partition 3: UNKNOWN_TOPIC_ID: This server does not host this topic ID." {
		t.Error(err)
	}
	for i, info := range codes {
		if info.name == "" || (info.message == "") != (Code(i-1) == None) {
			t.Errorf("code %d: %+v", i-1, info)
		}
	}
}

func TestUUIDsAreWrittenAsKafkaDoes(t *testing.T) {
	u := UUID{0xff, 1, 2}
	if got, err := ParseUUID(u.String()); err != nil || got != u || len(u.String()) != 22 {
		t.Fatal(got, err)
	}
	for _, s := range []string{"", "AAAA", "!!!!!!!!!!!!!!!!!!!!!!", u.String() + "A"} {
		if _, err := ParseUUID(s); err == nil {
			t.Errorf("%q", s)
		}
	}
}
