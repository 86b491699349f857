package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// member is one member of a group. What it is told and what it reports is described in members_test.go. A partition is assigned when
// sarama starts a claim for it, and revoked when the claim has ended. Sarama's groups cannot seek.
type member struct {
	topic string
	group sarama.ConsumerGroup

	mu      sync.Mutex // guards what follows, and standard output
	session sarama.ConsumerGroupSession
	next    map[int32]int64 // what to commit, by partition owned
}

func runMember(version sarama.KafkaVersion, bootstrap, group, topic, name, assignor, sessionMs string) error {
	ms, err := strconv.Atoi(sessionMs)
	if err != nil {
		return err
	}
	strategies := map[string]sarama.BalanceStrategy{
		"range": sarama.NewBalanceStrategyRange(), "cooperative-sticky": sarama.NewBalanceStrategyCooperativeSticky(),
	}
	if strategies[assignor] == nil {
		return fmt.Errorf("assignor %s is not known", assignor)
	}
	c := sarama.NewConfig()
	c.Version = version
	c.ClientID = name
	c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{strategies[assignor]}
	c.Consumer.Group.Session.Timeout = time.Duration(ms) * time.Millisecond
	c.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Enable = false
	c.Consumer.MaxWaitTime = 100 * time.Millisecond
	c.Consumer.Return.Errors = true
	g, err := sarama.NewConsumerGroup([]string{bootstrap}, group, c)
	if err != nil {
		return err
	}
	m := &member{topic: topic, group: g, next: map[int32]int64{}}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() {
		for err := range g.Errors() {
			m.say("error", map[string]any{"error": err.Error()})
		}
	})
	running.Go(func() {
		for ctx.Err() == nil {
			if err := g.Consume(ctx, []string{topic}, m); err != nil && !errors.Is(err, sarama.ErrClosedConsumerGroup) {
				m.say("error", map[string]any{"error": err.Error()})
			}
		}
	})
	for in := bufio.NewScanner(os.Stdin); in.Scan() && in.Text() != "leave"; {
		words := strings.Fields(in.Text())
		if err := m.obey(words); err != nil {
			return err
		}
		m.say("done", map[string]any{"command": words[0]})
	}
	cancel()
	if err := g.Close(); err != nil {
		return err
	}
	running.Wait()
	m.say("left", nil)
	return nil
}

func (m *member) say(event string, rest map[string]any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sayLocked(event, rest)
}

func (m *member) sayLocked(event string, rest map[string]any) {
	line := map[string]any{"t": time.Now().UnixMicro(), "event": event}
	maps.Copy(line, rest)
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
}

func (m *member) obey(words []string) error {
	partitions := func() map[string][]int32 {
		p, _ := strconv.Atoi(words[1])
		return map[string][]int32{m.topic: {int32(p)}}
	}
	switch words[0] {
	case "commit": // sarama has one kind, which waits; its errors come by the channel
		m.mu.Lock()
		defer m.mu.Unlock()
		for p, offset := range m.next {
			m.session.MarkOffset(m.topic, p, offset, "")
		}
		m.session.Commit()
		m.sayLocked("committed", map[string]any{"offsets": m.next})
	case "pause":
		m.group.Pause(partitions())
	case "resume":
		m.group.Resume(partitions())
	default:
		return fmt.Errorf("cannot %s", strings.Join(words, " "))
	}
	return nil
}

func (m *member) Setup(s sarama.ConsumerGroupSession) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.session = s
	return nil
}

func (m *member) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (m *member) ConsumeClaim(_ sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	p := claim.Partition()
	m.say("assigned", map[string]any{"partitions": []int32{p}})
	for r := range claim.Messages() {
		m.mu.Lock()
		m.sayLocked("read", map[string]any{"partition": p, "offset": r.Offset})
		m.next[p] = r.Offset + 1
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sayLocked("revoked", map[string]any{"partitions": []int32{p}})
	delete(m.next, p)
	return nil
}
