package bench_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"moldau/broker"
	"moldau/internal/bench"
	"moldau/internal/config"
	"moldau/internal/record"
)

// start starts a broker in this process and returns its address.
func start(t *testing.T) string {
	t.Helper()
	c, _, err := config.Load(config.Sources{Flags: map[string]string{"listen": "127.0.0.1:0", "http": "off", "data-dir": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Start(t.Context(), broker.Options{Config: c, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return b.Addrs()[0].String()
}

// measure runs f for longer and longer, until it has seen records at both ends: a busy machine may do nothing for
// as long as a short run takes.
func measure(t *testing.T, f func(context.Context, bench.Options) (*bench.Result, error), o bench.Options) *bench.Result {
	t.Helper()
	for ; ; o.Duration *= 4 {
		r, err := f(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		seen := r.Ack != nil || r.Fetch != nil || o.Acks == 0
		if r.Kind == "latency" {
			seen = r.EndToEnd != nil && r.Ack != nil
		}
		if r.Records > 0 && seen {
			return r
		}
		if o.Duration > 20*time.Second {
			t.Fatalf("nothing was measured: %+v", r)
		}
	}
}

func TestAgainstABroker(t *testing.T) {
	address := start(t)
	base := bench.Options{Bootstrap: []string{address}, Delete: true, Partitions: 3, Connections: 2, Acks: -1,
		WarmUp: 20 * time.Millisecond, Duration: 200 * time.Millisecond,
		Clocks: map[string]func() (time.Duration, error){"wall": func() (time.Duration, error) { return time.Duration(time.Now().UnixNano()), nil }}}

	for name, change := range map[string]func(*bench.Options){
		"saturated":  func(o *bench.Options) {},
		"paced":      func(o *bench.Options) { o.Rate.Records = 5000 },
		"acks 0":     func(o *bench.Options) { o.Acks = 0 },
		"idempotent": func(o *bench.Options) { o.Idempotent = true },
		"zstd, keys": func(o *bench.Options) { o.Codec, o.Keys = record.Zstd, bench.Zipf },
	} {
		t.Run("produce "+name, func(t *testing.T) {
			o := base
			change(&o)
			r := measure(t, bench.Produce, o)
			if r.Bytes == 0 || r.WireBytes == 0 || (r.Ack == nil) != (o.Acks == 0) || r.ClockSeconds["wall"] <= 0 {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("consume", func(t *testing.T) {
		o := base
		o.Fill, o.BatchSize, o.PartitionMaxBytes = 1<<20, 4096, 4096
		if r := measure(t, bench.Consume, o); r.Fetch == nil {
			t.Errorf("%+v", r)
		}
	})
	t.Run("consume once", func(t *testing.T) {
		o := base
		o.Fill, o.Once, o.RecordSize, o.BatchSize, o.Duration = 1<<20, true, 1000, 10000, time.Minute
		r, err := bench.Consume(t.Context(), o)
		// A request more than what was asked for completes the last batch.
		if err != nil || r.Records < 1<<20/1000 || r.Records > 1<<20/1000+20 {
			t.Fatalf("%v %+v", err, r)
		}
	})
	t.Run("latency", func(t *testing.T) {
		for _, rate := range []bench.Rate{{}, {Records: 2000}} {
			o := base
			o.Rate = rate
			if r := measure(t, bench.Latency, o); r.EndToEnd.Count == 0 || r.Bytes == 0 {
				t.Errorf("%+v", r)
			}
		}
	})
	t.Run("errors", func(t *testing.T) {
		o := base
		o.Topic, o.Delete = "missing", false
		if _, err := bench.Produce(t.Context(), o); !errors.Is(err, kerr.UnknownTopicOrPartition) {
			t.Error(err)
		}
		o.Create, o.Partitions = true, 1
		if _, err := bench.Consume(t.Context(), o); err == nil {
			t.Error("an empty topic was consumed")
		}
		if _, err := bench.Produce(t.Context(), o); !errors.Is(err, kerr.TopicAlreadyExists) {
			t.Error(err)
		}
		o.Create, o.BatchSize = false, 4<<20
		if _, err := bench.Produce(t.Context(), o); !errors.Is(err, kerr.MessageTooLarge) {
			t.Error(err)
		}
	})
}
