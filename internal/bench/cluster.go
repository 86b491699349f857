package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topic is the topic of a run: where each of its partitions is led.
type topic struct {
	name      string
	leaders   map[int32]string // address by partition
	created   bool
	authority *conn // whom to ask about topics
}

// brokers are the addresses that lead partitions, sorted.
func (t *topic) brokers() []string {
	return slices.Compact(slices.Sorted(maps.Values(t.leaders)))
}

// ledBy are the partitions that an address leads, sorted.
func (t *topic) ledBy(address string) []int32 {
	var list []int32
	for p, a := range t.leaders {
		if a == address {
			list = append(list, p)
		}
	}
	slices.Sort(list)
	return list
}

// openTopic finds the topic, or creates it, and waits until its leaders serve.
func (o *Options) openTopic(ctx context.Context) (*topic, error) {
	c, err := o.bootstrap(ctx)
	if err != nil {
		return nil, err
	}
	t := &topic{name: o.Topic, authority: c}
	if t.name == "" {
		t.name, o.Create = "moldau-bench-"+randomName(), true
	}
	if o.Create {
		if err := o.createTopic(ctx, t); err != nil {
			c.Close()
			return nil, err
		}
	}
	if err := o.waitForLeaders(ctx, t); err != nil {
		return nil, errors.Join(err, o.closeTopic(ctx, t))
	}
	return t, nil
}

// closeTopic deletes the topic where that is wished, even when ctx has ended, and closes the connection.
func (o *Options) closeTopic(ctx context.Context, t *topic) error {
	defer t.authority.Close()
	if !o.Delete {
		return nil
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.Timeout)
	defer cancel()
	c, err := o.bootstrap(limited)
	if err != nil {
		return fmt.Errorf("topic %s was not deleted: %w", t.name, err)
	}
	defer c.Close()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TopicNames, req.TimeoutMillis = []string{t.name}, int32(o.Timeout.Milliseconds())
	resp, err := ask[*kmsg.DeleteTopicsResponse](limited, c, req)
	if err != nil {
		return fmt.Errorf("topic %s was not deleted: %w", t.name, err)
	}
	for _, r := range resp.Topics {
		if err := refused("DeleteTopics", t.name, -1, r.ErrorCode, r.ErrorMessage); err != nil {
			return err
		}
	}
	return nil
}

func randomName() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// bootstrap connects to the first of the given brokers that answers.
func (o *Options) bootstrap(ctx context.Context) (*conn, error) {
	var all error
	for _, address := range o.Bootstrap {
		c, err := o.connect(ctx, address)
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		all = errors.Join(all, err)
	}
	return nil, all
}

// createTopic asks the broker at hand, which passes it on to the controller.
func (o *Options) createTopic(ctx context.Context, t *topic) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = int32(o.Timeout.Milliseconds())
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.name, o.Partitions, o.Replicas
	for _, key := range slices.Sorted(maps.Keys(o.Configs)) {
		value := o.Configs[key]
		rc := kmsg.NewCreateTopicsRequestTopicConfig()
		rc.Name, rc.Value = key, &value
		rt.Configs = append(rt.Configs, rc)
	}
	req.Topics = append(req.Topics, rt)
	resp, err := ask[*kmsg.CreateTopicsResponse](ctx, t.authority, req)
	if err != nil {
		return err
	}
	for _, r := range resp.Topics {
		if err := refused("CreateTopics", t.name, -1, r.ErrorCode, r.ErrorMessage); err != nil {
			return err
		}
	}
	t.created = true
	return nil
}

const leaderPoll = 20 * time.Millisecond

// waitForLeaders returns when every partition has a leader that says so itself. A topic that was there before
// and is not found is an error at once.
func (o *Options) waitForLeaders(ctx context.Context, t *topic) error {
	until := time.Now().Add(o.Timeout)
	for {
		err := o.readLeaders(ctx, t)
		if err == nil {
			err = o.leadersServe(ctx, t)
		}
		if err == nil {
			return nil
		}
		var code *kerr.Error
		transient := errors.As(err, &code) && code.Retriable && (t.created || code != kerr.UnknownTopicOrPartition)
		if !transient || time.Now().After(until) || ctx.Err() != nil {
			return err
		}
		time.Sleep(leaderPoll)
	}
}

func (o *Options) readLeaders(ctx context.Context, t *topic) error {
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &t.name
	req.Topics, req.AllowAutoTopicCreation = append(req.Topics, rt), false
	resp, err := ask[*kmsg.MetadataResponse](ctx, t.authority, req)
	if err != nil {
		return err
	}
	addresses := map[int32]string{}
	for _, b := range resp.Brokers {
		addresses[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	leaders := map[int32]string{}
	for _, rt := range resp.Topics {
		if err := refused("Metadata", t.name, -1, rt.ErrorCode, nil); err != nil {
			return err
		}
		for _, p := range rt.Partitions {
			address, ok := addresses[p.Leader]
			if !ok {
				return &BrokerError{API: "Metadata", Topic: t.name, Partition: p.Partition, Err: kerr.LeaderNotAvailable}
			}
			leaders[p.Partition] = address
		}
	}
	if len(leaders) == 0 || t.created && len(leaders) < int(o.Partitions) {
		return &BrokerError{API: "Metadata", Topic: t.name, Partition: -1, Err: kerr.LeaderNotAvailable}
	}
	t.leaders = leaders
	return nil
}

// leadersServe asks every leader for an offset: one that has not heard of its partition refuses.
func (o *Options) leadersServe(ctx context.Context, t *topic) error {
	for _, address := range t.brokers() {
		c, err := o.connect(ctx, address)
		if err != nil {
			return fmt.Errorf("the leader of %s cannot be reached where it is advertised: %w", t.name, err)
		}
		_, err = listOffsets(ctx, c, t.name, t.ledBy(address), latest)
		c.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// The timestamps with a meaning in ListOffsets.
const (
	latest   = -1
	earliest = -2
)

// listOffsets returns the first or the next offset of partitions.
func listOffsets(ctx context.Context, c *conn, topic string, partitions []int32, at int64) (map[int32]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	for _, p := range partitions {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = p, at
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.ReplicaID, req.Topics = -1, append(req.Topics, rt)
	resp, err := ask[*kmsg.ListOffsetsResponse](ctx, c, req)
	if err != nil {
		return nil, err
	}
	offsets := map[int32]int64{}
	for _, rt := range resp.Topics {
		for _, p := range rt.Partitions {
			if err := refused("ListOffsets", topic, p.Partition, p.ErrorCode, nil); err != nil {
				return nil, err
			}
			offsets[p.Partition] = p.Offset
		}
	}
	if len(offsets) != len(partitions) {
		return nil, fmt.Errorf("ListOffsets at %s: %d partitions were asked for, %d answered", c.address, len(partitions), len(offsets))
	}
	return offsets, nil
}

// initProducer gets a producer id.
func initProducer(ctx context.Context, c *conn) (id int64, epoch int16, err error) {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.ProducerID, req.ProducerEpoch = -1, -1
	resp, err := ask[*kmsg.InitProducerIDResponse](ctx, c, req)
	if err != nil {
		return 0, 0, err
	}
	return resp.ProducerID, resp.ProducerEpoch, refused("InitProducerId", "", -1, resp.ErrorCode, nil)
}
