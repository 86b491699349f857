package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/record"
)

// Kafka's protocol says how many records a group is behind, but not since when. That is the timestamp of the first record that
// it has not read, which is fetched, as a consumer would.

// nextRecord is a record that a group has not read.
type nextRecord struct {
	topic     string
	partition int32
	offset    int64
}

type onePartition struct {
	topic     string
	partition int32
}

func (n nextRecord) of() onePartition { return onePartition{n.topic, n.partition} }

// recordTimes remembers timestamps between two looks at the same group.
type recordTimes map[nextRecord]int64

// fillLag finds out the lag of partitions in records and in seconds. What was not found out is nil, with the reason.
func (cl *client) fillLag(ctx context.Context, rows []*groupOffset, seen recordTimes) {
	names := map[string]bool{}
	for _, r := range rows {
		names[r.Topic] = true
	}
	if len(names) == 0 {
		return
	}
	topics := sortedKeys(names)
	starts := cl.offsets(ctx, topics, cl.adm.ListStartOffsets)
	ends := cl.offsets(ctx, topics, cl.adm.ListEndOffsets)
	wanted := map[nextRecord]*ageOf{}
	for _, r := range rows {
		r.Start, r.End = known(starts, r.Topic, r.Partition), known(ends, r.Topic, r.Partition)
		if r.Committed == nil || r.End == nil {
			continue
		}
		lag := max(0, *r.End-*r.Committed)
		r.Lag = &lag
		if lag == 0 {
			r.LagSeconds = new(float64)
			continue
		}
		next := nextRecord{r.Topic, r.Partition, *r.Committed}
		if r.Start != nil {
			next.offset = max(next.offset, *r.Start)
		}
		if wanted[next] == nil {
			wanted[next] = &ageOf{}
		}
		wanted[next].rows = append(wanted[next].rows, r)
	}
	for next, a := range wanted {
		if ms, ok := seen[next]; ok {
			a.timestampMs, a.found = ms, true
		}
	}
	cl.fetchTimes(ctx, wanted)
	clear(seen) // offsets that have passed are of no use
	now := time.Now()
	for next, a := range wanted {
		switch {
		case !a.found:
			a.problem = cmpText(a.problem, "the partition has no leader that answers")
		case a.timestampMs < 0:
			a.problem = "the record has no timestamp"
		}
		if seen != nil && a.found {
			seen[next] = a.timestampMs
		}
		for _, r := range a.rows {
			if r.LagProblem = a.problem; a.problem == "" {
				age := max(0, now.Sub(time.UnixMilli(a.timestampMs)).Seconds())
				r.LagSeconds = &age
			}
		}
	}
}

func cmpText(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// ageOf is what is found out about a record.
type ageOf struct {
	rows        []*groupOffset
	timestampMs int64
	found       bool
	problem     string
}

// fetchTimes asks the leaders for the records whose timestamps are not known.
func (cl *client) fetchTimes(ctx context.Context, wanted map[nextRecord]*ageOf) {
	missing := map[string]bool{}
	for next, a := range wanted {
		if !a.found {
			missing[next.topic] = true
		}
	}
	if len(missing) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, cl.timeout)
	defer cancel()
	meta, err := cl.adm.Metadata(ctx, sortedKeys(missing)...)
	if err != nil {
		return
	}
	byLeader := map[int32][]nextRecord{}
	for next, a := range wanted {
		if leader := meta.Topics[next.topic].Partitions[next.partition]; !a.found && leader.Err == nil {
			byLeader[leader.Leader] = append(byLeader[leader.Leader], next)
		}
	}
	for _, leader := range slices.Sorted(maps.Keys(byLeader)) {
		cl.fetchFrom(ctx, leader, byLeader[leader], meta.Topics, wanted)
	}
}

// peekBytes is what is fetched of a partition: a broker sends a larger batch only of the first one that has records.
const peekBytes = 32 << 10

// fetchFrom asks one broker until it has sent a record of each partition; each answer has one at least.
func (cl *client) fetchFrom(ctx context.Context, leader int32, list []nextRecord, topics kadm.TopicDetails, wanted map[nextRecord]*ageOf) {
	slices.SortFunc(list, func(a, b nextRecord) int {
		if c := strings.Compare(a.topic, b.topic); c != 0 {
			return c
		}
		return int(a.partition - b.partition)
	})
	for idle := 0; len(list) > 0 && ctx.Err() == nil && idle < 3; {
		req := kmsg.NewPtrFetchRequest()
		req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = -1, 500, 1, 16<<20, -1
		asked := map[onePartition]int64{} // offsets: two groups may want two of one partition, one after the other
		for _, next := range list {
			if _, twice := asked[next.of()]; twice {
				continue
			}
			asked[next.of()] = next.offset
			if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != next.topic {
				t := kmsg.NewFetchRequestTopic()
				t.Topic, t.TopicID = next.topic, topics[next.topic].ID
				req.Topics = append(req.Topics, t)
			}
			p := kmsg.NewFetchRequestTopicPartition()
			p.Partition, p.FetchOffset, p.PartitionMaxBytes = next.partition, next.offset, peekBytes
			t := &req.Topics[len(req.Topics)-1]
			t.Partitions = append(t.Partitions, p)
		}
		raw, err := cl.Broker(int(leader)).RetriableRequest(ctx, req)
		if err != nil {
			for _, next := range list {
				wanted[next].problem = oneLine(cl.explain(err, "", fmt.Sprintf("broker %d", leader)))
			}
			return
		}
		resp := raw.(*kmsg.FetchResponse)
		if resp.ErrorCode != 0 {
			return
		}
		answers := map[onePartition]*kmsg.FetchResponseTopicPartition{}
		for i := range resp.Topics {
			name := resp.Topics[i].Topic
			for t := range topics {
				if name == "" && [16]byte(topics[t].ID) == resp.Topics[i].TopicID {
					name = t
				}
			}
			for j := range resp.Topics[i].Partitions {
				answers[onePartition{name, resp.Topics[i].Partitions[j].Partition}] = &resp.Topics[i].Partitions[j]
			}
		}
		before := len(list)
		list = slices.DeleteFunc(list, func(next nextRecord) bool {
			answer := answers[next.of()]
			return asked[next.of()] == next.offset && answer != nil && wanted[next].take(answer, next.offset)
		})
		if idle++; len(list) < before {
			idle = 0
		}
	}
}

// take reads an answer and reports whether there is no more to ask.
func (a *ageOf) take(answer *kmsg.FetchResponseTopicPartition, offset int64) (done bool) {
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		a.problem = oneLine(explain(err, "", ""))
		return true
	}
	if len(answer.RecordBatches) == 0 {
		a.problem = "the broker sent no record in time"
		return false
	}
	ms, err := firstTime(answer.RecordBatches, offset)
	if err != nil {
		a.problem = oneLine(err)
		return true
	}
	a.timestampMs, a.found, a.problem = ms, true, ""
	return true
}

// firstTime is the timestamp of the first record at or behind offset. The last batch may be cut off; then it is that of its first record.
func firstTime(p []byte, offset int64) (int64, error) {
	for len(p) > 0 {
		h, err := record.HeaderOf(p)
		if err != nil {
			return -1, err
		}
		b, rest, err := record.Parse(p)
		switch {
		case h.LastOffset() < offset && err == nil:
			p = rest
			continue
		case err == nil && (h.LogAppendTime() || h.Count() == 0), h.LastOffset() < offset:
			return h.MaxTimestampMs(), nil
		case errors.Is(err, record.ErrShort):
			return h.BaseTimestampMs(), nil
		case err != nil:
			return -1, err
		}
		ms, found := h.MaxTimestampMs(), errors.New("found")
		err = b.Each(record.DefaultMaxInflatedBytes, func(r record.Record) error {
			if r.Offset < offset {
				return nil
			}
			ms = r.TimestampMs
			return found
		})
		if err != nil && err != found {
			return -1, err
		}
		return ms, nil
	}
	return -1, errors.New("the broker sent no whole record")
}

// lagLooks are looks at the lag of a group, the oldest first.
type lagLooks []lagLook

type lagLook struct {
	at  time.Time
	lag int64
}

// lagMemory is over how long the rate is measured at which a group catches up.
const lagMemory = time.Minute

// add takes a look and returns in how many seconds the group will have read all if it goes on like this; nil while its lag does not fall.
func (l *lagLooks) add(now time.Time, lag int64) *float64 {
	for len(*l) > 1 && now.Sub((*l)[1].at) >= lagMemory {
		*l = (*l)[1:]
	}
	*l = append(*l, lagLook{now, lag})
	first := (*l)[0]
	if lag == 0 {
		return new(float64)
	}
	if fell := first.lag - lag; fell > 0 {
		seconds := float64(lag) / float64(fell) * now.Sub(first.at).Seconds()
		return &seconds
	}
	return nil
}

// ageText is how far behind somebody is in time, for people.
func ageText(seconds *float64) string {
	if seconds == nil {
		return "-"
	}
	d := time.Duration(*seconds * float64(time.Second))
	if d < 24*time.Hour {
		return d.Round(time.Second).String()
	}
	hours := int64(d.Round(time.Hour) / time.Hour)
	return fmt.Sprintf("%dd%dh", hours/24, hours%24)
}
