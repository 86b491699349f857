package bench

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func fine(_ int, resp *kmsg.ProduceResponse) *kmsg.ProduceResponse { return resp }

// A broker that stands still for a second delays every request that should have been sent in that second,
// whether the client could send it or not. In the bubble time is exact.
func TestLatencyCountsFromTheIntendedStart(t *testing.T) {
	for _, inFlight := range []int{1, 1000} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{t: t, produce: func(n int, resp *kmsg.ProduceResponse) *kmsg.ProduceResponse {
				if n == 500 {
					time.Sleep(time.Second)
				}
				return resp
			}}
			o := f.options()
			o.Rate, o.Duration, o.InFlight = Rate{Records: 100}, 10*time.Second, inFlight
			r, err := Produce(context.Background(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Ack.Count != 1000 {
				t.Errorf("in flight %d: %d requests in 10 s at 100 a second", inFlight, r.Ack.Count)
			}
			// 100 requests waited 1000, 990, ... 10 ms; the others nothing. A histogram keeps three digits.
			if r.Ack.Max < 999 || r.Ack.Max > 1001 || r.Ack.P99 < 900 || r.Ack.P99 > 911 || r.Ack.P90 > 11 || r.Ack.P50 > 0.1 {
				t.Errorf("in flight %d: %+v", inFlight, *r.Ack)
			}
			if !r.KeptRate {
				t.Errorf("in flight %d: %v requests a second count as too few", inFlight, r.RequestsPerSecond)
			}
		})
	}
}

// Where requests are gathered, a broker that stands still for a second answers one request for all that became due meanwhile, and each of
// those has its latency.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		f := &fake{t: t, produce: func(n int, resp *kmsg.ProduceResponse) *kmsg.ProduceResponse {
			requests++
			if n == 500 {
				time.Sleep(time.Second)
			}
			return resp
		}}
		o := f.options()
		o.Rate, o.Duration, o.InFlight, o.Gather = Rate{Records: 100}, 10*time.Second, 1, true
		r, err := Produce(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Ack.Count != 1000 || requests != 1000-99 {
			t.Errorf("%d latencies of %d requests in 10 s at 100 a second", r.Ack.Count, requests)
		}
		if r.Ack.Max < 999 || r.Ack.Max > 1001 || r.Ack.P99 < 900 || r.Ack.P99 > 911 || r.Ack.P90 > 11 || r.Ack.P50 > 0.1 {
			t.Errorf("%+v", *r.Ack)
		}
	})
}

// Without a rate the next request waits for an answer, so only one shows the second.
func TestClosedLoopCountsFromTheWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, produce: func(n int, resp *kmsg.ProduceResponse) *kmsg.ProduceResponse {
			time.Sleep(10 * time.Millisecond)
			if n == 500 {
				time.Sleep(time.Second)
			}
			return resp
		}}
		o := f.options()
		o.InFlight, o.WarmUp, o.Duration = 1, time.Second, 10*time.Second
		r, err := Produce(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Ack.Max < 1009 || r.Ack.Max > 1012 || r.Ack.P99 > 10.1 || r.Requests < 895 || r.Requests > 905 {
			t.Errorf("%d requests, %+v", r.Requests, *r.Ack)
		}
	})
}

// What a broker that is too slow has not taken when it is over has waited at least until then.
func TestRateThatIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, produce: func(_ int, resp *kmsg.ProduceResponse) *kmsg.ProduceResponse {
			time.Sleep(100 * time.Millisecond)
			return resp
		}}
		o := f.options()
		o.Rate, o.Duration, o.InFlight = Rate{Records: 100}, 10*time.Second, 4
		r, err := Produce(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		if r.KeptRate || r.Ack.Count != 1000 || r.Ack.Max < 18000 {
			t.Errorf("kept: %v, %+v", r.KeptRate, *r.Ack)
		}
	})
}

func TestErrorsEndTheRun(t *testing.T) {
	for name, tt := range map[string]struct {
		fake *fake
		is   error
		text string
	}{
		"the leader moves": {&fake{produce: func(n int, resp *kmsg.ProduceResponse) *kmsg.ProduceResponse {
			if n == 7 {
				resp.Topics[0].Partitions[0].ErrorCode = kerr.NotLeaderForPartition.Code
			}
			return resp
		}}, kerr.NotLeaderForPartition, "Produce t-0"},
		"no answer": {&fake{produce: func(n int, resp *kmsg.ProduceResponse) *kmsg.ProduceResponse {
			if n >= 7 {
				return nil
			}
			return resp
		}}, context.DeadlineExceeded, "no answer within 5s"},
		"answers in the wrong order": {&fake{produce: fine, spoil: func(key int16, frame []byte) []byte {
			if key == kmsg.Produce.Int16() {
				frame[7]++
			}
			return frame
		}}, nil, "where"},
		"an answer that ends early": {&fake{produce: fine, spoil: func(key int16, frame []byte) []byte {
			if key == kmsg.Produce.Int16() {
				frame = frame[:12]
				frame[3] = 8
			}
			return frame
		}}, nil, "cannot be read"},
		"an impossible length": {&fake{produce: fine, spoil: func(key int16, frame []byte) []byte {
			if key == kmsg.Produce.Int16() {
				frame[0] = 0x7f
			}
			return frame
		}}, nil, "not Kafka's protocol"},
		"an answer without the partition": {&fake{produce: func(_ int, resp *kmsg.ProduceResponse) *kmsg.ProduceResponse {
			resp.Topics = nil
			return resp
		}}, nil, "0 partitions"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := tt.fake
				f.t = t
				o := f.options()
				o.Duration, o.Rate = time.Minute, Rate{Records: 100}
				r, err := Produce(context.Background(), o)
				if r != nil || err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("result %v, error %v", r, err)
				}
			})
		})
	}
}

func TestThrottlingIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, produce: func(n int, resp *kmsg.ProduceResponse) *kmsg.ProduceResponse {
			if n < 3 {
				resp.ThrottleMillis = 500
			}
			return resp
		}}
		o := f.options()
		o.Rate, o.Duration = Rate{Records: 100}, time.Second
		r, err := Produce(context.Background(), o)
		if err != nil || r.ThrottleSeconds != 1.5 {
			t.Errorf("%v, %+v", err, r)
		}
	})
}

func TestCancelEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, produce: fine}
		o := f.options()
		o.Duration, o.Rate = time.Hour, Rate{Records: 10}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := Produce(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}
