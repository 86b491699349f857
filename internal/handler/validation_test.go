package handler

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/network"
	"moldau/internal/record"
	"moldau/internal/wire"
)

// emptied is a compressed batch that says it has a record, and has none.
func emptied(t testing.TB) record.Batch {
	t.Helper()
	b := record.NewBuilder(record.None)
	b.Add(time.Now().UnixMilli(), []byte("key"), []byte("value"))
	whole, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	out, err := record.Recompress(whole[:record.HeaderSize:record.HeaderSize], record.LZ4, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func compressed(t testing.TB) record.Batch {
	t.Helper()
	b := record.NewBuilder(record.LZ4)
	b.Add(time.Now().UnixMilli(), []byte("key"), []byte("value"))
	out, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// onConn produces a batch and returns the code.
func (b *broker) onConn(t testing.TB, conn *network.Conn, topic string, batch record.Batch) wire.Code {
	t.Helper()
	req := produceRequest(9, topic, wire.UUID{}, 1, append(record.Batch(nil), batch...))
	call, err := b.Start(t.Context(), conn, frameOf(req), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer call.Release()
	var out []byte
	for _, p := range call.Wait(t.Context()).Pieces {
		out = append(out, p.Bytes...)
	}
	return wire.Code(parseResponse(t, req, 9, out[4:]).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
}

// With moldau.produce.validation=header the first batches of a connection are walked, and those after an error; of the others a
// sample is. Topics whose rules need the records are always walked.
func TestValidationByHeader(t *testing.T) {
	b := newBroker(t, "moldau.produce.validation=header")
	b.withTopic(t, "t", 1)
	b.withTopic(t, "compacted", 1, "cleanup.policy=compact")
	b.withTopic(t, "recoded", 1, "compression.type=zstd")
	b.withTopic(t, "early", 1, "message.timestamp.before.max.ms=3600000")
	good, bad := compressed(t), emptied(t)
	conn := new(network.Conn)
	trusted := func(c *network.Conn) {
		t.Helper()
		for range walkFirst {
			if code := b.onConn(t, c, "t", good); code != wire.None {
				t.Fatalf("a good batch: %v", code)
			}
		}
	}
	for range 3 {
		if code := b.onConn(t, conn, "t", bad); code == wire.None {
			t.Fatal("the first batches of a connection are not walked")
		}
	}
	trusted(conn)
	in := 0
	for b.onConn(t, conn, "t", bad) == wire.None { // until the sample has it
		if in++; in > 100_000 {
			t.Fatal("there is no sample")
		}
	}
	if code := b.onConn(t, conn, "t", bad); code == wire.None {
		t.Error("a batch after an error is not walked")
	}
	for range 20 { // that none of twenty connections lets one in is less likely than a broken machine
		c := new(network.Conn)
		trusted(c)
		for b.onConn(t, c, "t", bad) == wire.None {
			in++
		}
	}
	if in == 0 {
		t.Error("every batch is walked")
	}
	for _, topic := range []string{"compacted", "recoded", "early"} {
		for range 10 {
			c := new(network.Conn)
			trusted(c)
			if code := b.onConn(t, c, topic, bad); code == wire.None {
				t.Fatalf("%s: a batch without its records was let in", topic)
			}
		}
	}

	full := newBroker(t)
	full.withTopic(t, "t", 1)
	c := new(network.Conn)
	for range 4 * walkFirst {
		if full.onConn(t, c, "t", good) != wire.None || full.onConn(t, c, "t", bad) == wire.None {
			t.Fatal("by default not every batch is walked")
		}
	}
}
