package handler

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/record"
	"moldau/internal/wire"
)

// incremental is the next fetch of a session.
func incremental(id wire.UUID, session, epoch int32, wait time.Duration) *kmsg.FetchRequest {
	req := fetchRequest(13, "", id)
	req.SessionID, req.SessionEpoch, req.MaxWaitMillis = session, epoch, int32(wait.Milliseconds())
	return req
}

// openSession makes a session of the first partitions of a topic.
func (b *broker) openSession(t testing.TB, id wire.UUID, partitions int) int32 {
	t.Helper()
	req := fetchRequest(13, "", id, make([]int64, partitions)...)
	req.SessionEpoch = 0
	resp := b.fetch(t, req)
	if resp.SessionID == 0 {
		t.Fatal("no session")
	}
	return resp.SessionID
}

func (b *broker) fetchLater(t testing.TB, req *kmsg.FetchRequest) chan *kmsg.FetchResponse {
	answered := make(chan *kmsg.FetchResponse, 1)
	go func() { answered <- b.fetch(t, req) }()
	return answered
}

// parkedFetch is fetchLater, and waits until the fetch is parked.
func (b *broker) parkedFetch(t testing.TB, req *kmsg.FetchRequest) chan *kmsg.FetchResponse {
	t.Helper()
	answered := b.fetchLater(t, req)
	for {
		b.sessions.mu.Lock()
		f := b.sessions.mu.byID[req.SessionID]
		b.sessions.mu.Unlock()
		f.mu.Lock()
		parked := f.parked && f.epoch == nextEpoch(req.SessionEpoch)
		f.mu.Unlock()
		if parked {
			return answered
		}
		time.Sleep(20 * time.Microsecond)
	}
}

// TestFetchLooksAtNews: what is not news is not looked at, and news wakes the fetch that waits.
func TestFetchLooksAtNews(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 50)
	session := b.openSession(t, id, 50)
	if r := b.fetch(t, incremental(id, session, 1, 0)); len(r.Topics) != 0 {
		t.Fatalf("no news, and the answer is %+v", r)
	}
	f := b.sessions.mu.byID[session]
	if len(f.queue) != 0 {
		t.Fatalf("%d partitions without news are to be looked at", len(f.queue))
	}
	answered := b.parkedFetch(t, incremental(id, session, 2, time.Hour))
	records := make([][]byte, 8)
	records[7] = batchOf(t, "v")
	b.produce(t, produceRequest(13, "t", id, 1, records...))
	r := <-answered
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 || r.Topics[0].Partitions[0].Partition != 7 || len(r.Topics[0].Partitions[0].RecordBatches) == 0 {
		t.Fatalf("one partition has news and the answer is %+v", r)
	}
	if len(f.queue) != 1 {
		t.Fatalf("%d partitions are to be looked at, expected the one whose records were sent", len(f.queue))
	}
	if r := b.fetch(t, incremental(id, session, 3, 0)); len(r.Topics) != 1 || len(r.Topics[0].Partitions[0].RecordBatches) == 0 {
		t.Fatal("records that the client has not asked to pass are not sent again")
	}
}

// TestFetchSessionHasOneFetch: the latest fetch of a session is the one that counts, and a session that ends
// wakes the fetch that waits.
func TestFetchSessionHasOneFetch(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 2)
	session := b.openSession(t, id, 2)
	first := b.parkedFetch(t, incremental(id, session, 1, time.Hour))
	second := b.parkedFetch(t, incremental(id, session, 2, time.Hour))
	if r := <-first; wire.Code(r.ErrorCode) != wire.InvalidFetchSessionEpoch {
		t.Fatalf("the older fetch is answered with %v", wire.Code(r.ErrorCode))
	}
	b.produce(t, produceRequest(13, "t", id, 1, nil, batchOf(t, "v")))
	if r := <-second; r.ErrorCode != 0 || len(r.Topics) != 1 || r.Topics[0].Partitions[0].Partition != 1 {
		t.Fatalf("the newer fetch is answered with %+v", r)
	}
	req := incremental(id, session, 3, time.Hour)
	for i := range 2 {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = int32(i), int64(i), 1<<20
		if i == 0 {
			req.Topics = append(req.Topics, kmsg.FetchRequestTopic{TopicID: id})
		}
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, p)
	}
	third := b.parkedFetch(t, req)
	end := fetchRequest(13, "", id)
	end.SessionID = session
	b.fetch(t, end)
	if r := <-third; wire.Code(r.ErrorCode) != wire.FetchSessionIDNotFound {
		t.Fatalf("a fetch whose session ended is answered with %v", wire.Code(r.ErrorCode))
	}
	p, err := b.o.Partitions.Lookup("t", wire.UUID{}, 0)
	if err != nil || p.Watches() != 0 {
		t.Fatalf("%d watches are left (%v)", p.Watches(), err)
	}
}

// TestFetchSessionTellsTheLogStart: that records were deleted is news, though not for a fetch that waits.
func TestFetchSessionTellsTheLogStart(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 2)
	b.produce(t, produceRequest(13, "t", id, 1, batchOf(t, "a"), batchOf(t, "b")))
	req := fetchRequest(13, "", id, 1, 1)
	req.SessionEpoch = 0
	session := b.fetch(t, req).SessionID
	if r := b.fetch(t, incremental(id, session, 1, 0)); len(r.Topics) != 0 {
		t.Fatalf("no news, and the answer is %+v", r)
	}
	p, err := b.o.Partitions.Lookup("t", wire.UUID{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.DeleteRecords(1); err != nil {
		t.Fatal(err)
	}
	r := b.fetch(t, incremental(id, session, 2, 0))
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 || r.Topics[0].Partitions[0].LogStartOffset != 1 {
		t.Fatalf("the log start of one partition moved and the answer is %+v", r)
	}
}

// TestFetchSessionFollowsTheName: a session that names topics by name goes on with a topic that was made anew.
func TestFetchSessionFollowsTheName(t *testing.T) {
	b := newBroker(t)
	b.withTopic(t, "t", 1)
	full := fetchRequest(12, "t", wire.UUID{}, 0)
	full.SessionEpoch = 0
	session := b.fetch(t, full).SessionID
	next := func(epoch int32) wire.Code {
		req := fetchRequest(12, "t", wire.UUID{})
		req.SessionID, req.SessionEpoch = session, epoch
		r := b.fetch(t, req)
		if len(r.Topics) != 1 {
			return -1
		}
		return wire.Code(r.Topics[0].Partitions[0].ErrorCode)
	}
	if got := next(1); got != -1 {
		t.Fatalf("nothing happened: %v", got)
	}
	b.o.Cluster.DeleteTopics(t.Context(), []controller.TopicRef{{ID: b.o.Cluster.Image().Topic("t").ID}})
	b.publish()
	if got := next(2); got != wire.UnknownTopicOrPartition {
		t.Fatalf("the topic is deleted: %v", got)
	}
	id := b.withTopic(t, "t", 1)
	if got := next(3); got != wire.None {
		t.Fatalf("the topic is there again: %v", got)
	}
	b.produce(t, produceRequest(12, "t", id, 1, batchOf(t, "v")))
	if got := next(4); got != wire.None {
		t.Fatalf("records of the new topic: %v", got)
	}
}

// TestFetchSessionLosesNothing: a consumer in a session, whose fetches wait as long as there is nothing, gets every
// record in order, whatever is produced meanwhile and whatever it drops and takes up again.
func TestFetchSessionLosesNothing(t *testing.T) {
	const partitions, each = 12, 60
	for _, sets := range [][]string{nil, {"log.flush.interval.messages=1"}, {"log.flush.interval.messages=7", "log.flush.interval.ms=3600000"}} {
		b := newBroker(t, sets...)
		id := b.withTopic(t, "t", partitions)
		var producers sync.WaitGroup
		for k := range 3 {
			producers.Go(func() {
				rnd := rand.New(rand.NewPCG(1, uint64(k)))
				for i := range each {
					for _, p := range rnd.Perm(partitions) {
						if p%3 == k {
							records := make([][]byte, partitions)
							records[p] = batchOf(t, fmt.Sprint(i))
							req := produceRequest(13, "t", id, 1, records...)
							req.Topics[0].Partitions = req.Topics[0].Partitions[p : p+1]
							b.produce(t, req)
						}
					}
				}
			})
		}
		session, epoch := b.openSession(t, id, partitions), int32(0)
		rnd := rand.New(rand.NewPCG(2, 2))
		var offsets [partitions]int64
		changed := map[int]bool{} // to be named by the next fetch
		for left := partitions; left > 0; {
			epoch++
			req := incremental(id, session, epoch, time.Hour)
			req.MaxBytes = int32(100 + rnd.IntN(2000))
			rt := kmsg.FetchRequestTopic{TopicID: id}
			for p := range changed {
				rp := kmsg.NewFetchRequestTopicPartition()
				rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = int32(p), offsets[p], 1<<20
				rt.Partitions = append(rt.Partitions, rp)
			}
			clear(changed)
			if len(rt.Partitions) > 0 {
				req.Topics = append(req.Topics, rt)
			}
			if p := rnd.IntN(4 * partitions); p < partitions {
				ft := kmsg.NewFetchRequestForgottenTopic()
				ft.TopicID, ft.Partitions = id, []int32{int32(p)}
				req.ForgottenTopics = append(req.ForgottenTopics, ft)
				changed[p] = true // taken up again
				req.MaxWaitMillis = 1
			}
			for _, topic := range b.fetch(t, req).Topics {
				for _, p := range topic.Partitions {
					i := int(p.Partition)
					for rest := p.RecordBatches; len(rest) > 0; {
						batch, r, err := record.Parse(rest)
						if err != nil {
							break // cut
						}
						if batch.BaseOffset() != offsets[i] {
							t.Fatalf("partition %d: offset %d, expected %d", i, batch.BaseOffset(), offsets[i])
						}
						offsets[i], rest = batch.NextOffset(), r
						changed[i] = true
						if offsets[i] == each {
							left--
						}
					}
				}
			}
		}
		producers.Wait()
	}
}
