package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// producer sends to all topics until its load ends, and then until everything is acknowledged.
type producer struct {
	id     int
	client *kgo.Client
	model  *model
	rnd    *rand.Rand
	clock  time.Time // of its records: it runs ahead, so that segment.ms rolls
}

func newProducer(s *scenario, id int, one bool) (*producer, error) {
	opts := []kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(400), kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(minSegment),
		kgo.RecordRetries(1 << 30), kgo.UnknownTopicRetries(-1)}
	if one {
		id += repeats
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()))
	}
	client, err := s.client(opts...)
	return &producer{id, client, &s.model, rand.New(rand.NewPCG(s.seed, uint64(2+id))), time.Now().Add(-time.Hour)}, err
}

func (p *producer) run(ctx, load context.Context) {
	for load.Err() == nil && p.model.failure() == nil {
		places := p.model.places()
		for range 1 + p.rnd.IntN(8) {
			at := places[p.rnd.IntN(len(places))]
			p.clock = p.clock.Add(time.Duration(p.rnd.IntN(20)) * time.Millisecond)
			r := &kgo.Record{Topic: at.topic, Partition: at.partition, Timestamp: p.clock.Truncate(time.Millisecond),
				Value: value(p.id, p.model.number(at, p.id), p.rnd.IntN(400))}
			p.client.Produce(ctx, r, func(r *kgo.Record, err error) {
				switch {
				case err == nil:
					p.model.ack(r, sumOf(r))
				case ctx.Err() == nil:
					p.model.fail(lossf("producer %d, %s-%d: %v", p.id, r.Topic, r.Partition, err))
				}
			})
		}
		time.Sleep(time.Duration(p.rnd.IntN(1000)) * time.Microsecond)
	}
	if err := p.client.Flush(ctx); err != nil {
		p.model.fail(fmt.Errorf("producer %d is stuck with %d records in flight: %w", p.id, p.client.BufferedProduceRecords(), err))
	}
}

// administrator creates topics, changes their configuration, and deletes some.
type administrator struct {
	client *kadm.Client
	model  *model
	rnd    *rand.Rand
	named  int
}

const (
	maxTopics  = 8
	minSegment = 2048 // bytes, of segments and so of batches
)

func (a *administrator) run(ctx, load context.Context) {
	for load.Err() == nil && a.model.failure() == nil {
		var err error
		switch n := a.rnd.IntN(6); {
		case n < 2 && a.named < maxTopics:
			err = a.create(ctx)
		case n < 4:
			err = a.alter(ctx)
		default:
			err = a.createAndDelete(ctx)
		}
		if err != nil && ctx.Err() == nil {
			a.model.fail(err)
		}
		time.Sleep(time.Duration(5+a.rnd.IntN(20)) * time.Millisecond)
	}
}

// create makes a topic that stays.
func (a *administrator) create(ctx context.Context) error {
	t, err := a.makeTopic(ctx, fmt.Sprintf("topic-%d", a.named))
	if err != nil {
		return err
	}
	a.named++
	a.model.addTopic(t)
	return nil
}

func (a *administrator) makeTopic(ctx context.Context, name string) (*topic, error) {
	t := &topic{name: name, partitions: int32(1 + a.rnd.IntN(3)), configs: map[string]string{
		"internal.segment.bytes": fmt.Sprint(minSegment + a.rnd.IntN(20_000)), "index.interval.bytes": fmt.Sprint(a.rnd.IntN(2000)),
		"retention.ms": "-1",
	}, tried: map[string][]string{}}
	if a.rnd.IntN(2) == 0 {
		t.configs["segment.ms"] = fmt.Sprint(100 + a.rnd.IntN(1000))
	}
	set := map[string]*string{}
	for k, v := range t.configs {
		set[k] = &v
	}
	for {
		r, err := a.client.CreateTopic(ctx, t.partitions, 1, set, name)
		switch {
		case err == nil:
			t.id = r.ID
			return t, nil
		case errors.Is(err, kerr.TopicAlreadyExists):
			// An earlier try was carried out, and its answer lost.
			if d, err := a.client.ListTopics(ctx, name); err == nil && d[name].Err == nil {
				t.id = d[name].ID
				return t, nil
			}
		case ctx.Err() != nil:
			return nil, fmt.Errorf("creating topic %s: %w", name, err)
		}
	}
}

// alter changes one configuration of a topic.
func (a *administrator) alter(ctx context.Context) error {
	topics := a.model.list()
	name, v := topics[a.rnd.IntN(len(topics))].name, fmt.Sprint(1<<40+int64(a.rnd.Uint32()))
	a.model.mu.Lock()
	tried := a.model.topics[name].tried
	tried["retention.bytes"] = append(tried["retention.bytes"], v)
	a.model.mu.Unlock()
	for {
		r, err := a.client.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "retention.bytes", Value: &v}}, name)
		if err == nil && len(r) == 1 && r[0].Err == nil {
			a.model.mu.Lock()
			defer a.model.mu.Unlock()
			t := a.model.topics[name]
			t.configs["retention.bytes"] = v
			a.model.altered++
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("configuring topic %s: %w", name, ctx.Err())
		}
	}
}

// createAndDelete makes a topic with data that is not to come back.
func (a *administrator) createAndDelete(ctx context.Context) error {
	name := fmt.Sprintf("gone-%d", a.rnd.Uint32())
	if _, err := a.makeTopic(ctx, name); err != nil {
		return err
	}
	for {
		_, err := a.client.DeleteTopic(ctx, name)
		if err == nil || errors.Is(err, kerr.UnknownTopicOrPartition) { // again after an answer that was lost
			a.model.mu.Lock()
			defer a.model.mu.Unlock()
			a.model.deleted[name] = true
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("deleting topic %s: %w", name, err)
		}
	}
}

// consumer reads everything from the beginning on, through all cuts.
type consumer struct {
	client *kgo.Client
	model  *model
	mu     sync.Mutex // guards seen
	seen   map[place][]uint64
	known  map[string]bool // topics that it reads; only run uses it
}

func newConsumer(s *scenario) (*consumer, error) {
	c := &consumer{model: &s.model, seen: map[place][]uint64{}, known: map[string]bool{}}
	var err error
	c.client, err = s.client(kgo.ConsumePartitions(c.fresh()), kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxWait(50*time.Millisecond))
	return c, err
}

// fresh are the partitions of topics that are new since the last call.
func (c *consumer) fresh() map[string]map[int32]kgo.Offset {
	out := map[string]map[int32]kgo.Offset{}
	for _, t := range c.model.list() {
		if c.known[t.name] {
			continue
		}
		c.known[t.name] = true
		out[t.name] = map[int32]kgo.Offset{}
		for p := range t.partitions {
			out[t.name][p] = kgo.NewOffset().At(0)
		}
	}
	return out
}

func (c *consumer) run(ctx context.Context) {
	defer c.client.Close()
	for ctx.Err() == nil {
		if more := c.fresh(); len(more) > 0 {
			c.client.AddConsumePartitions(more)
		}
		poll, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		fs := c.client.PollFetches(poll)
		fs.EachError(func(topic string, p int32, err error) {
			if poll.Err() == nil || !errors.Is(err, poll.Err()) {
				c.model.fail(lossf("consumer, %s-%d: %v", topic, p, err))
			}
		})
		cancel()
		c.mu.Lock()
		fs.EachRecord(func(r *kgo.Record) {
			at := place{r.Topic, r.Partition}
			if want := int64(len(c.seen[at])); r.Offset != want {
				c.model.fail(lossf("consumer, %s: offset %d, expected %d", at, r.Offset, want))
			}
			c.seen[at] = append(c.seen[at], sumOf(r))
		})
		c.mu.Unlock()
	}
}

func (c *consumer) has(ends map[place]int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at, end := range ends {
		if int64(len(c.seen[at])) < end {
			return false
		}
	}
	return true
}

func (c *consumer) all() map[place][]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// verify asks a broker that has just started for what was acknowledged: no waiting and no trying again hides an answer.
func (s *scenario) verify(ctx context.Context) error {
	// What is asked for was acknowledged before the question.
	acked, topics, deleted := s.model.lastAcked(), s.model.list(), s.model.deletions()
	client, err := s.client()
	if err != nil {
		return err
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	list, err := adm.ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("listing topics: %w", err)
	}
	for _, t := range topics {
		got := list[t.name]
		if got.Err != nil || got.ID != t.id || len(got.Partitions) != int(t.partitions) {
			return lossf("topic %s was acknowledged with id %v and %d partitions; now: %v, %d partitions, %v", t.name, t.id, t.partitions, got.ID, len(got.Partitions), got.Err)
		}
	}
	for name := range list {
		if deleted[name] {
			return lossf("topic %s was deleted and is back", name)
		}
	}
	var names []string
	for _, t := range topics {
		names = append(names, t.name)
	}
	configs, err := adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return fmt.Errorf("describing topics: %w", err)
	}
	for _, t := range topics {
		if err := s.verifyConfigs(t, configs); err != nil {
			return err
		}
	}
	ends, err := s.ends(ctx)
	if err != nil {
		return err
	}
	for at, last := range acked {
		if ends[at] <= last {
			return lossf("%s ends at offset %d, and %d was acknowledged", at, ends[at], last)
		}
	}
	return nil
}

// verifyConfigs finds every acknowledged value, or one whose change was begun afterwards: several may have been since t was copied.
func (s *scenario) verifyConfigs(t topic, all kadm.ResourceConfigs) error {
	got, err := all.On(t.name, nil)
	if err != nil || got.Err != nil {
		return lossf("configuration of topic %s: %v %v", t.name, err, got.Err)
	}
	for key, want := range t.configs {
		i := slices.IndexFunc(got.Configs, func(c kadm.Config) bool { return c.Key == key })
		if i < 0 || got.Configs[i].MaybeValue() != want {
			now := s.model.list()
			j := slices.IndexFunc(now, func(u topic) bool { return u.name == t.name })
			later := now[j].tried[key]
			later = later[slices.Index(later, want)+1:] // all, if want is from the creation
			if i >= 0 && slices.Contains(later, got.Configs[i].MaybeValue()) {
				continue
			}
			return lossf("topic %s: %s=%s was acknowledged and is not there: %+v", t.name, key, want, got.Configs)
		}
	}
	return nil
}

// ends are the log ends. Nothing hides a partition that is offline; only one of a topic that has just been created is asked again.
func (s *scenario) ends(ctx context.Context) (map[place]int64, error) {
	for {
		ends, err := s.askEnds(ctx)
		if (errors.Is(err, kerr.NotLeaderForPartition) || errors.Is(err, kerr.UnknownTopicOrPartition)) && ctx.Err() == nil {
			continue
		}
		return ends, err
	}
}

func (s *scenario) askEnds(ctx context.Context) (map[place]int64, error) {
	client, err := s.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	for _, t := range s.model.list() {
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = t.name
		for p := range t.partitions {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = p, -1, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	got, err := client.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("listing offsets: %w", err)
	}
	out := map[place]int64{}
	for _, t := range got.(*kmsg.ListOffsetsResponse).Topics {
		for _, p := range t.Partitions {
			at := place{t.Topic, p.Partition}
			switch err := kerr.ErrorForCode(p.ErrorCode); err {
			case nil:
			case kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition:
				return nil, fmt.Errorf("%s: %w", at, err)
			default:
				return nil, lossf("%s: %v", at, err)
			}
			out[at] = p.Offset
		}
	}
	return out, nil
}

// readAll reads every partition with a client of its own.
func (s *scenario) readAll(ctx context.Context, ends map[place]int64) (map[place][]stored, error) {
	from := map[string]map[int32]kgo.Offset{}
	left := int64(0)
	for at, end := range ends {
		if from[at.topic] == nil {
			from[at.topic] = map[int32]kgo.Offset{}
		}
		from[at.topic][at.partition] = kgo.NewOffset().At(0)
		left += end
	}
	client, err := s.client(kgo.ConsumePartitions(from), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	out := map[place][]stored{}
	for left > 0 && err == nil {
		fs := client.PollFetches(ctx)
		fs.EachError(func(topic string, p int32, e error) { err = lossf("reading %s-%d: %v", topic, p, e) })
		fs.EachRecord(func(r *kgo.Record) {
			at := place{r.Topic, r.Partition}
			rec, e := parse(r)
			if e == nil && r.Offset != int64(len(out[at])) {
				e = lossf("%s: offset %d comes after %d", at, r.Offset, len(out[at])-1)
			}
			if e != nil && err == nil {
				err = e
			}
			out[at] = append(out[at], rec)
			left--
		})
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%d records of %d cannot be read: %w", left, sum(ends), ctx.Err())
	}
	return out, err
}

func sum(ends map[place]int64) (n int64) {
	for _, end := range ends {
		n += end
	}
	return n
}
