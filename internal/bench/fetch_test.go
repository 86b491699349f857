package bench

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/record"
)

// batchAt is a batch of n records at an offset.
func batchAt(t testing.TB, offset int64, n int) []byte {
	t.Helper()
	b := record.NewBuilder(record.None)
	b.BaseOffset = offset
	for range n {
		b.Add(0, nil, []byte("value"))
	}
	p, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func answerWith(resp *kmsg.FetchResponse, records []byte, code int16) {
	topic := kmsg.NewFetchResponseTopic()
	topic.Topic = "t"
	p := kmsg.NewFetchResponseTopicPartition()
	p.RecordBatches, p.ErrorCode = records, code
	topic.Partitions = append(topic.Partitions, p)
	resp.Topics = append(resp.Topics, topic)
}

// A consumer asks as others do: for everything when a session begins, then for what has moved, and again for
// everything when the broker has forgotten the session.
func TestFetchSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type asked struct {
			session, epoch int32
			offsets        []int64
		}
		var log []asked
		f := &fake{t: t, fetch: func(n int, req *kmsg.FetchRequest, resp *kmsg.FetchResponse) {
			time.Sleep(time.Millisecond)
			a := asked{session: req.SessionID, epoch: req.SessionEpoch}
			for _, topic := range req.Topics {
				for _, p := range topic.Partitions {
					a.offsets = append(a.offsets, p.FetchOffset)
				}
			}
			log = append(log, a)
			switch n {
			case 0: // a batch, and a part of the next one
				resp.SessionID = 7
				answerWith(resp, append(batchAt(t, 0, 4), batchAt(t, 4, 6)[:70]...), 0)
			case 1: // nothing new
				resp.SessionID = 7
			case 2:
				resp.ErrorCode = kerr.FetchSessionIDNotFound.Code
			default:
				resp.SessionID = 8
				answerWith(resp, batchAt(t, 4, 6), 0)
			}
		}}
		o := f.options()
		o.Once, o.Duration = true, time.Minute
		r, err := Consume(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		want := []asked{{0, 0, []int64{0}}, {7, 1, []int64{4}}, {7, 2, nil}, {0, 0, []int64{4}}}
		if len(log) != len(want) || r.Records != 10 {
			t.Fatalf("%d records, asked %+v", r.Records, log)
		}
		for i := range want {
			if log[i].session != want[i].session || log[i].epoch != want[i].epoch || len(log[i].offsets) != len(want[i].offsets) ||
				len(want[i].offsets) > 0 && log[i].offsets[0] != want[i].offsets[0] {
				t.Errorf("request %d: %+v, want %+v", i, log[i], want[i])
			}
		}
	})
}

// Consumers that share a rate take turns: it is as even as that of one. What they read again is counted, and when Until is closed the
// interval is over.
func TestConsumersShareARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		batch := batchAt(t, 0, fakeEnd)
		const gap = time.Second
		var mu sync.Mutex
		var at []time.Duration
		began := time.Now()
		f := &fake{t: t, partitions: 4, fetch: func(_ int, req *kmsg.FetchRequest, resp *kmsg.FetchResponse) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(began))
			answerWith(resp, batch, 0)
			resp.Topics[0].Partitions[0].Partition = req.Topics[0].Partitions[0].Partition
		}}
		o := f.options()
		until := make(chan struct{})
		o.Connections, o.Duration, o.Until = 4, time.Hour, until
		o.PartitionMaxBytes, o.Rate = int32(len(batch)), Rate{Bytes: float64(len(batch)) / gap.Seconds()}
		time.AfterFunc(20*gap+gap/2, func() { close(until) })
		r, err := Consume(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Rounds != 21 || r.Seconds < 20 || r.Seconds > 21 {
			t.Errorf("%d rounds in %v s, want 21 in 20.5", r.Rounds, r.Seconds)
		}
		for i := range at {
			if late := at[i] - time.Duration(i)*gap; late.Abs() > time.Millisecond {
				t.Errorf("fetch %d is %v late", i, late)
			}
		}
	})
}

func TestFetchErrorsEndTheRun(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func(t *testing.T, resp *kmsg.FetchResponse)
		is     error
		text   string
	}{
		"the leader moves": {func(_ *testing.T, resp *kmsg.FetchResponse) {
			answerWith(resp, nil, kerr.NotLeaderForPartition.Code)
		}, kerr.NotLeaderForPartition, "Fetch t-0"},
		"a batch from before": {func(t *testing.T, resp *kmsg.FetchResponse) {
			answerWith(resp, append(batchAt(t, 0, 4), batchAt(t, 0, 4)...), 0)
		}, nil, "where 4 was asked for"},
		"no batch at all": {func(_ *testing.T, resp *kmsg.FetchResponse) { answerWith(resp, make([]byte, 100), 0) }, record.ErrMagic, "offset 0"},
		"less than one batch": {func(t *testing.T, resp *kmsg.FetchResponse) {
			answerWith(resp, batchAt(t, 0, 4)[:65], 0)
		}, nil, "not one whole batch"},
		"another partition": {func(_ *testing.T, resp *kmsg.FetchResponse) {
			answerWith(resp, nil, 0)
			resp.Topics[0].Partitions[0].Partition = 5
		}, nil, "partition 5"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{t: t, fetch: func(_ int, _ *kmsg.FetchRequest, resp *kmsg.FetchResponse) { tt.answer(t, resp) }}
				o := f.options()
				r, err := Consume(context.Background(), o)
				if r != nil || err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("result %v, error %v", r, err)
				}
			})
		})
	}
}

// Who measures the way from end to end must know each batch that arrives.
func TestLatencyRefusesBatchesOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, produce: fine, fetch: func(_ int, req *kmsg.FetchRequest, resp *kmsg.FetchResponse) {
			time.Sleep(time.Second)
			answerWith(resp, batchAt(t, fakeEnd, 3), 0)
		}}
		o := f.options()
		o.Rate = Rate{Records: 10}
		_, err := Latency(context.Background(), o)
		if err == nil || !strings.Contains(err.Error(), "not from this run") {
			t.Error(err)
		}
	})
}
