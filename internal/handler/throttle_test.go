package handler

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/network"
	"moldau/internal/quota"
	"moldau/internal/vfs"
	"moldau/internal/wire"
	"moldau/test/measure"
)

// limit sets a limit of the client id with which tests ask, 0 removes it.
func (b *broker) limit(t testing.TB, key quota.Key, value float64) {
	t.Helper()
	b.limitOf(t, quota.Entity{ClientID: quota.Named("test")}, key, value)
}

func (b *broker) limitOf(t testing.TB, e quota.Entity, key quota.Key, value float64) {
	t.Helper()
	a := controller.QuotaAlteration{Entity: e, Set: quota.Limits{}.With(key, value)}
	if value == 0 {
		a.Set, a.Remove = quota.Limits{}, []quota.Key{key}
	}
	if r := b.o.Cluster.AlterQuotas(t.Context(), []controller.QuotaAlteration{a}, false); r[0].Code != wire.None {
		t.Fatal(r[0])
	}
}

// reply runs one frame to its end on a connection of its own, and returns the answer's bytes in memory and the reply.
func (b *broker) reply(t testing.TB, frame []byte) ([]byte, network.Reply) {
	t.Helper()
	call, err := b.Start(t.Context(), new(network.Conn), frame, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer call.Release()
	reply := call.Wait(t.Context())
	var out []byte
	for _, p := range reply.Pieces {
		out = append(out, p.Bytes...)
	}
	return out, reply
}

// firstThrottle is for how long n bytes overdraw a full bucket, at one a second: it has half of one.
func firstThrottle(n int) time.Duration { return time.Duration(n)*time.Second - time.Second/2 }

func TestProduceIsThrottled(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 1)
	for i, acks := range []int16{-1, 1, 0} {
		client := fmt.Sprint("client-", i)
		b.limitOf(t, quota.Entity{ClientID: quota.Named(client)}, quota.ProducerByteRate, 1)
		frame := frameAs(client, produceRequest(9, "t", id, acks, batchOf(t, "some records")))
		want := firstThrottle(len(frame)) // before it is changed in place
		out, reply := b.reply(t, frame)
		if reply.Throttle != want || reply.CloseAfter {
			t.Errorf("acks %d: muted for %v, want %v", acks, reply.Throttle, want)
		}
		if acks == 0 {
			if !reply.None {
				t.Error("acks 0: there is an answer")
			}
			continue
		}
		resp := parseResponse(t, kmsg.NewPtrProduceRequest(), 9, out[4:]).(*kmsg.ProduceResponse)
		if resp.ThrottleMillis != int32(want/time.Millisecond) || resp.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Errorf("acks %d: %+v, want %v", acks, resp, want)
		}
	}
	if _, reply := b.reply(t, frameOf(produceRequest(9, "t", id, 1, batchOf(t, "some records")))); reply.Throttle != 0 {
		t.Errorf("a client without a limit is muted for %v", reply.Throttle)
	}
}

func frameAs(client string, req kmsg.Request) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID(client)).AppendRequest(nil, req, testCorrelationID)[4:]
}

// A fetch may overdraw the bucket: else a batch that is larger would never be read. One that finds it overdrawn is answered empty at once, takes nothing, and what it
// would have got comes with a later one: also in a session, and also when the session would begin with it.
func TestFetchIsThrottled(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 2)
	b.reply(t, frameOf(produceRequest(13, "", id, 1, batchOf(t, "a"), batchOf(t, "b"))))
	for _, version := range []int16{4, 12, 18} {
		full := fetchRequest(version, "t", id, 0, 0)
		b.limit(t, quota.ConsumerByteRate, 0)
		whole, _ := b.reply(t, frameOf(full))
		counted := len(whole) - 4 // without the header, with four bytes of size
		if version >= 12 {
			counted--
		}
		client := fmt.Sprint("client-", version)
		b.limitOf(t, quota.Entity{ClientID: quota.Named(client)}, quota.ConsumerByteRate, 1)
		began := time.Now()
		for n := range 3 {
			out, reply := b.reply(t, frameAs(client, full))
			resp := parseResponse(t, full, version, out[4:]).(*kmsg.FetchResponse)
			if n == 0 {
				// With one byte a second nobody may ask for more, so there is one batch: see fetch.max.bytes.
				got := len(out) - 4
				if version >= 12 {
					got--
				}
				if want := firstThrottle(got); reply.Throttle != want || resp.ThrottleMillis != int32(want/time.Millisecond) || got < counted/4 || got > counted {
					t.Errorf("v%d: the first is muted for %v, want %v, and has %d bytes of %d", version, reply.Throttle, want, got, counted)
				}
				continue
			}
			// Nothing was charged, so the third waits as long as the second, but for the time that has passed.
			if reply.Throttle <= 0 || reply.Throttle > firstThrottle(counted) || len(resp.Topics) != 0 || resp.ThrottleMillis != int32(reply.Throttle/time.Millisecond) || resp.ErrorCode != 0 {
				t.Errorf("v%d: muted for %v, at most %v; %+v", version, reply.Throttle, firstThrottle(counted), resp)
			}
		}
		for _, u := range b.QuotaUsage() {
			if u.Payer.ClientID.Name() == client && time.Since(began) < 10*time.Second && (u.PerSecond <= 0 || u.PerSecond > float64(counted)/10 || u.Throttled != 3) {
				t.Errorf("used by one fetch of at most %d bytes: %+v", counted, u)
			}
		}
	}

	b.limit(t, quota.ConsumerByteRate, 1)
	b.fetch(t, fetchRequest(13, "", id, 0)) // overdraws
	first := fetchRequest(13, "", id, 0, 0)
	first.SessionEpoch = 0
	if resp := b.fetch(t, first); resp.SessionID != 0 || resp.ThrottleMillis == 0 {
		t.Errorf("a throttled fetch has made a session: %+v", resp)
	}
	b.limit(t, quota.ConsumerByteRate, 0)
	session := b.fetch(t, first).SessionID
	if session == 0 {
		t.Fatal("no session")
	}
	next := fetchRequest(13, "", id, 1, 1)
	next.SessionID, next.SessionEpoch = session, 1
	if resp := b.fetch(t, next); resp.ThrottleMillis != 0 || len(resp.Topics) != 0 {
		t.Errorf("%+v", resp)
	}
	b.reply(t, frameOf(produceRequest(13, "", id, 1, batchOf(t, "c"), batchOf(t, "d"))))
	b.limit(t, quota.ConsumerByteRate, 1)
	next.Topics, next.SessionEpoch = nil, 2
	if resp := b.fetch(t, next); resp.ThrottleMillis == 0 || len(resp.Topics) != 0 || resp.SessionID != session {
		t.Errorf("throttled in a session: %+v", resp)
	}
	b.limit(t, quota.ConsumerByteRate, 0)
	next.SessionEpoch = 3
	if resp := b.fetch(t, next); len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 2 {
		t.Errorf("what was held back does not come: %+v", resp)
	}
}

// A fetch does not overdraw the bucket by much, however much it asks for.
func TestFetchAsksForNoMoreThanHalfTheBucket(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 1)
	for range 20 {
		b.reply(t, frameOf(produceRequest(13, "", id, 1, batchOf(t, string(make([]byte, 1000))))))
	}
	b.limit(t, quota.ConsumerByteRate, 20_000)
	resp := b.fetch(t, fetchRequest(13, "", id, 0))
	if n := len(resp.Topics[0].Partitions[0].RecordBatches); resp.ThrottleMillis != 0 || n > 5000 || n < 3000 {
		t.Errorf("%d bytes, throttled for %d ms", n, resp.ThrottleMillis)
	}
}

// The time of threads is charged for every API, and each that has a place for it says so in its answer; at most one sample's.
func TestRequestsAreThrottled(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 1)
	b.limit(t, quota.RequestPercentage, 1e-9)
	for _, r := range rows() {
		req := r.key.Request()
		switch r.key {
		case kmsg.SASLHandshake, kmsg.SASLAuthenticate:
			continue
		case kmsg.Produce:
			req = produceRequest(13, "", id, 1, batchOf(t, "r"))
		case kmsg.Fetch:
			req = fetchRequest(13, "", id, 0)
		case kmsg.ApiVersions:
			req.(*kmsg.ApiVersionsRequest).ClientSoftwareName, req.(*kmsg.ApiVersionsRequest).ClientSoftwareVersion = "x", "1"
		}
		version := r.max
		if req.GetVersion() > 0 {
			version = req.GetVersion()
		}
		req.SetVersion(version)
		out, reply := b.reply(t, frameOf(req))
		if reply.Throttle != time.Second {
			t.Errorf("%s: muted for %v", r.key.Name(), reply.Throttle)
		}
		if resp, ok := parseResponse(t, req, version, out[4:]).(kmsg.ThrottleResponse); ok {
			if ms, _ := resp.Throttle(); ms != 1000 {
				t.Errorf("%s: the answer says %d ms", r.key.Name(), ms)
			}
		}
	}
	if _, reply := b.reply(t, frameOf(produceRequest(13, "", id, 0, batchOf(t, "r")))); reply.Throttle != 0 {
		t.Errorf("acks 0: muted for %v", reply.Throttle)
	}
}

// Who has not said yet who he is uses nothing of what ANONYMOUS may.
func TestStrangersAreOnNobodysAccount(t *testing.T) {
	b := newBroker(t)
	b.limitOf(t, quota.Entity{User: quota.Default}, quota.RequestPercentage, 1e-9)
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 3, "x", "1"
	for phase, want := range map[phase]time.Duration{greeting: 0, known: time.Second} {
		conn := new(network.Conn)
		conn.SetState(&connState{session: &session{sasl: true, phase: phase, principal: "User:ANONYMOUS"}})
		call, err := b.Start(t.Context(), conn, frameOf(req), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if got := call.Wait(t.Context()).Throttle; got != want {
			t.Errorf("phase %d: throttled for %v, want %v", phase, got, want)
		}
		call.Release()
	}
}

// Quotas cost no allocation.
func TestQuotasDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	b := newBrokerOn(t, vfs.OS(), t.TempDir())
	for k := range quota.ConnectionCreationRate {
		b.limitOf(t, quota.Entity{User: quota.Default, ClientID: quota.Default}, k, 1e15)
	}
	id := b.withTopic(t, "p", 1)
	if n := measure.Allocations(300, 1, b.producing(t, produceFrame(t, id, -1, 1, 1<<10))); n > 1 {
		t.Errorf("a produce request allocates %v times", n)
	}
	if n := measure.Allocations(300, 0, b.fetching(t, 64, 64, 1<<10)); n > 0 {
		t.Errorf("a fetch allocates %v times", n)
	}
	if len(b.QuotaUsage()) != 3 { // produce, fetch, and the time of both
		t.Errorf("%+v", b.QuotaUsage())
	}
}

// Many connections charge at once, under rules that change, and nothing is lost of what they were charged.
func TestChargesOfManyConnections(t *testing.T) {
	b := newBroker(t, "quota.window.size.seconds=3600")
	id := b.withTopic(t, "t", 1)
	b.limitOf(t, quota.Entity{User: quota.Default}, quota.ProducerByteRate, 1e12)
	const connections, requests = 32, 50
	sizes := make([]int, connections)
	var wg sync.WaitGroup
	for i := range connections {
		wg.Go(func() {
			conn := new(network.Conn)
			for range requests {
				frame := frameAs(fmt.Sprint("client-", i), produceRequest(13, "", id, 1, batchOf(t, "x")))
				sizes[i] += len(frame)
				call, err := b.Start(t.Context(), conn, frame, time.Now())
				if err != nil {
					t.Error(err)
					return
				}
				if reply := call.Wait(t.Context()); reply.Throttle != 0 {
					t.Errorf("throttled for %v", reply.Throttle)
				}
				call.Release()
			}
		})
	}
	for i := range 20 { // about others
		b.limitOf(t, quota.Entity{User: quota.Named("nobody")}, quota.ProducerByteRate, float64(i+1))
	}
	wg.Wait()
	total := 0
	for _, n := range sizes {
		total += n
	}
	u := b.QuotaUsage()
	if len(u) != 1 || u[0].Payer != (quota.Entity{User: quota.Named("ANONYMOUS")}) {
		t.Fatalf("%+v", u)
	}
	if got, want := u[0].PerSecond, float64(total)/36000; got < want*0.99 || got > want*1.01 {
		t.Errorf("%v bytes a second, want %v", got, want)
	}
}
