//go:build clients && linux

package clients

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestGroupScale: a group of MEMBERS members (default 60) comes to rest, with each protocol, one leaves it and comes back; then there are MANY
// groups (default 200) of one member. It reports what that costs the broker in memory and processor time, and how long the heartbeats of two
// groups that have nothing to do with it take meanwhile: one is in the same partition of __consumer_offsets, one in another. With
// GROUP_SCALE=kafka the same load goes to Apache Kafka before. It asserts no figure.
func TestGroupScale(t *testing.T) {
	t.Parallel()
	members, groups := int(envInt(t, "MEMBERS", 60)), int(envInt(t, "MANY", 200))
	if os.Getenv("GROUP_SCALE") == "kafka" && !targetKafka {
		t.Run("kafka", func(t *testing.T) { groupScale(t, true, members, groups) })
	}
	t.Run("broker", func(t *testing.T) { groupScale(t, targetKafka, members, groups) })
}

// scaleRun is the load on one broker.
type scaleRun struct {
	*testing.T
	b     *broker
	http  string // of Moldau
	topic string
	probe atomic.Pointer[phase]
}

// phase is what the two probes have seen in a part of the run.
type phase struct {
	mu   sync.Mutex // guards what follows
	took [2][]time.Duration
}

func groupScale(t *testing.T, kafka bool, members, groups int) {
	props := []string{"group.consumer.min.session.timeout.ms=1000", "group.consumer.max.session.timeout.ms=600000", "group.consumer.session.timeout.ms=300000"}
	r := &scaleRun{T: t, topic: "scale"}
	r.b = newBrokerOf(t, kafka, props...)
	if !kafka {
		bin, err := moldau()
		must(t, err)
		r.http = freeAddr(t)
		r.b.command = []string{bin, "server", "--data-dir", r.b.dir, "--listen", r.b.addr, "--http", r.http}
		for _, p := range props {
			r.b.command = append(r.b.command, "--set", p)
		}
	}
	r.b.start()
	const small, few = "scale-small", 4
	r.b.createTopic(r.topic, int32(members))
	r.b.createTopic(small, few)
	r.awaitCoordinator()

	ctx, stop := context.WithCancel(t.Context())
	var probing sync.WaitGroup
	defer probing.Wait()
	defer stop()
	r.probe.Store(&phase{})
	const big = "scale-next"
	for i, same := range []bool{true, false} {
		name := probeGroup(consumerOffsetsPartition(big), same)
		m := r.newClassic(name)
		m.become(t, func() bool { return true })
		probing.Go(func() { r.probes(ctx, i, m) })
	}
	r.measure("nothing, for 3 s", 1, func() { time.Sleep(3 * time.Second) })

	crowd := make([]*nextMember, members)
	conns := make([]*rawConn, members)
	for i := range conns {
		conns[i] = r.dial()
	}
	heap := r.liveBytes()
	r.measure(fmt.Sprintf("%d members of one group come to rest (consumer protocol)", members), members, func() {
		for i := range crowd {
			crowd[i] = &nextMember{conn: conns[i], group: big, id: fmt.Sprintf("member-%d-of-the-group", i), topics: []string{r.topic}}
		}
		r.restNext(big, crowd)
	})
	t.Logf("  %d bytes of live heap for each member", (r.liveBytes()-heap)/int64(members))
	beats := 20 * members
	r.measure(fmt.Sprintf("%d heartbeats of that group", beats), beats, func() { r.beatAll(crowd, 20) })
	r.measure("one of them leaves and comes back", members, func() {
		must(t, crowd[1].leave())
		r.restNext(big, crowd)
	})
	r.measure("10 descriptions of that group", 10, func() {
		for range 10 {
			r.describeNext(big)
		}
	})

	const old = "scale-classic"
	elders := make([]*classicMember, members)
	for i := range elders {
		elders[i] = r.newClassic(old)
	}
	heap = r.liveBytes()
	r.measure(fmt.Sprintf("%d members of one group come to rest (classic protocol)", members), members, func() { r.restClassic(elders) })
	t.Logf("  %d bytes of live heap for each member", (r.liveBytes()-heap)/int64(members))
	r.measure(fmt.Sprintf("%d heartbeats of that group", beats), beats, func() {
		parallel(t, elders, func(m *classicMember) error {
			for range 20 {
				if _, err := m.heartbeat(); err != nil {
					return err
				}
			}
			return nil
		})
	})
	r.measure("one of them leaves and comes back", members, func() {
		must(t, elders[1].leave())
		r.restClassic(elders)
	})

	singles := make([]*nextMember, groups)
	for i := range singles {
		singles[i] = &nextMember{conn: conns[i%len(conns)], group: fmt.Sprintf("group-%d-of-many", i), id: "its-only-member-" + strconv.Itoa(i), topics: []string{small}}
	}
	lanes := make([][]*nextMember, len(conns)) // members that share a connection
	for i, m := range singles {
		lanes[i%len(lanes)] = append(lanes[i%len(lanes)], m)
	}
	each := func(times int) {
		parallel(t, lanes, func(lane []*nextMember) error {
			for range times {
				for _, m := range lane {
					if err := m.heartbeat(); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	heap = r.liveBytes()
	r.measure(fmt.Sprintf("%d groups of one member begin (consumer protocol)", groups), groups, func() { each(1) })
	for _, m := range singles {
		if len(m.owns) != 1 {
			t.Fatalf("%s has %v", m.id, m.owns)
		}
	}
	t.Logf("  %d bytes of live heap for each group, whose member has %d partitions", (r.liveBytes()-heap)/int64(groups), few)
	r.measure(fmt.Sprintf("%d heartbeats of those groups", 5*groups), 5*groups, func() { each(5) })
	r.measure("10 lists of all groups", 10, func() {
		for range 10 {
			req := kmsg.NewPtrListGroupsRequest()
			req.Version = 5
			resp, err := conns[0].ask(req)
			must(t, err)
			if n := len(resp.(*kmsg.ListGroupsResponse).Groups); n < groups {
				t.Errorf("%d groups are listed", n)
			}
		}
	})
	r.measure("one group begins", 1, func() {
		late := &nextMember{conn: conns[0], group: "one-more", id: "late", topics: []string{small}}
		must(t, late.heartbeat())
	})
}

// probeGroup is a name whose group is in a partition of __consumer_offsets, or in another one.
func probeGroup(partition int32, same bool) string {
	for i := 0; ; i++ {
		if name := fmt.Sprintf("probe-%d", i); (consumerOffsetsPartition(name) == partition) == same {
			return name
		}
	}
}

// awaitCoordinator makes __consumer_offsets and waits until it is served.
func (r *scaleRun) awaitCoordinator() {
	c := r.b.client()
	var o kadm.Offsets
	o.AddOffset(r.topic, 0, 0, -1)
	for until := time.Now().Add(startPatience); ; time.Sleep(50 * time.Millisecond) {
		err := kadm.NewClient(c).CommitAllOffsets(deadline(r, time.Minute), "first", o)
		if err == nil {
			return
		}
		if time.Now().After(until) {
			r.Fatal(err)
		}
	}
}

// probes sends heartbeats of a group that has nothing to do with the load.
func (r *scaleRun) probes(ctx context.Context, i int, m *classicMember) {
	for tick := time.NewTicker(5 * time.Millisecond); ctx.Err() == nil; {
		p := r.probe.Load()
		began := time.Now()
		code, err := m.heartbeat()
		took := time.Since(began)
		if err == nil {
			err = code
		}
		if err != nil {
			if ctx.Err() == nil {
				r.Errorf("a heartbeat of %s: %v", m.group, err)
			}
			return
		}
		p.mu.Lock()
		p.took[i] = append(p.took[i], took)
		p.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// measure reports what f costs the broker: per is how many things it does.
func (r *scaleRun) measure(what string, per int, f func()) {
	p := &phase{}
	r.probe.Store(p)
	cpu, began := cpuTime(r, r.b.pid()), time.Now()
	f()
	took, used := time.Since(began), cpuTime(r, r.b.pid())-cpu
	r.probe.Store(&phase{})
	p.mu.Lock()
	defer p.mu.Unlock()
	quantiles := func(d []time.Duration) string {
		if len(d) == 0 {
			return "none"
		}
		slices.Sort(d)
		at := func(q float64) time.Duration { return d[int(q*float64(len(d)-1))].Round(10 * time.Microsecond) }
		return fmt.Sprintf("%v / %v / %v of %d", at(0.5), at(0.99), at(1), len(d))
	}
	r.Logf("%s: %v, %v of a processor, %v for each; heartbeats elsewhere, p50/p99/max: same partition %s, another %s", what, took.Round(time.Millisecond), used,
		(used / time.Duration(per)).Round(time.Microsecond), quantiles(p.took[0]), quantiles(p.took[1]))
}

var usedHeap = regexp.MustCompile(`garbage-first heap.* used (\d+)K`)

// liveBytes is what the broker's heap holds after a collection.
func (r *scaleRun) liveBytes() int64 {
	if r.b.kafka {
		pid := strconv.Itoa(r.b.pid())
		run(r, toolPatience, nil, "jcmd", pid, "GC.run")
		found := usedHeap.FindStringSubmatch(run(r, toolPatience, nil, "jcmd", pid, "GC.heap_info").stdout)
		if found == nil {
			r.Fatal("jcmd does not tell the heap")
		}
		kib, err := strconv.ParseInt(found[1], 10, 64)
		must(r, err)
		return kib << 10
	}
	get := func(path string) string {
		resp, err := http.Get("http://" + r.http + path)
		must(r, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(r, err)
		return string(body)
	}
	for range 3 { // what is pooled lives until the second collection after its last use
		get("/debug/pprof/heap?gc=1")
	}
	for line := range strings.Lines(get("/metrics")) {
		if text, ok := strings.CutPrefix(line, "go_memstats_heap_alloc_bytes "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			must(r, err)
			return int64(n)
		}
	}
	r.Fatal("no go_memstats_heap_alloc_bytes")
	return 0
}

// parallel does something with each, a few at a time.
func parallel[T any](t testing.TB, all []T, do func(T) error) {
	t.Helper()
	next := make(chan T)
	var errs atomic.Pointer[error]
	var working sync.WaitGroup
	for range 8 * runtime.GOMAXPROCS(0) {
		working.Go(func() {
			for x := range next {
				if err := do(x); err != nil {
					errs.Store(&err)
				}
			}
		})
	}
	for _, x := range all {
		next <- x
	}
	close(next)
	working.Wait()
	if err := errs.Load(); err != nil {
		t.Fatal(*err)
	}
}

// nextMember speaks the consumer protocol, and gives back at once what it is to give back. Several may share a connection.
type nextMember struct {
	conn      *rawConn
	group, id string
	topics    []string
	epoch     int32
	owns      []kmsg.ConsumerGroupHeartbeatRequestTopic
	news      bool // it has to say what it has
}

func (m *nextMember) heartbeat() error {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, m.group, m.id, m.epoch
	if m.epoch == 0 {
		m.owns = nil
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames = 300_000, m.topics
	}
	if m.epoch == 0 || m.news {
		req.Topics = append([]kmsg.ConsumerGroupHeartbeatRequestTopic{}, m.owns...)
	}
	resp, err := m.conn.ask(req)
	if err != nil {
		return err
	}
	a := resp.(*kmsg.ConsumerGroupHeartbeatResponse)
	if err := kerr.ErrorForCode(a.ErrorCode); err != nil {
		return fmt.Errorf("heartbeat of %s: %w", m.id, err)
	}
	m.epoch, m.news = a.MemberEpoch, a.Assignment != nil
	if a.Assignment != nil {
		m.owns = nil
		for _, of := range a.Assignment.Topics {
			m.owns = append(m.owns, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: of.TopicID, Partitions: of.Partitions})
		}
	}
	return nil
}

func (m *nextMember) leave() error {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, m.group, m.id, -1
	resp, err := m.conn.ask(req)
	m.epoch = 0
	return errors.Join(err, kerr.ErrorForCode(resp.(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode))
}

func (r *scaleRun) beatAll(all []*nextMember, times int) {
	parallel(r, all, func(m *nextMember) error {
		for range times {
			if err := m.heartbeat(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *scaleRun) describeNext(group string) *kmsg.ConsumerGroupDescribeResponseGroup {
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Version, req.Groups = 1, []string{group}
	resp, err := dial(r, r.b.addr).ask(req)
	must(r, err)
	return &resp.(*kmsg.ConsumerGroupDescribeResponse).Groups[0]
}

// restNext sends heartbeats of all members until the group is stable, and demands that each has what it is to have.
func (r *scaleRun) restNext(group string, all []*nextMember) {
	rounds := 0
	for until := time.Now().Add(5 * time.Minute); ; rounds++ {
		r.beatAll(all, 1)
		d := r.describeNext(group)
		if d.State == "Stable" && len(d.Members) == len(all) {
			break
		}
		if time.Now().After(until) {
			r.Fatalf("%s is %s with %d members", group, d.State, len(d.Members))
		}
		time.Sleep(20 * time.Millisecond)
	}
	has := map[int32]string{}
	for _, m := range all {
		for _, of := range m.owns {
			for _, p := range of.Partitions {
				if has[p] != "" {
					r.Errorf("partition %d is had by %s and %s", p, has[p], m.id)
				}
				has[p] = m.id
			}
		}
	}
	if len(has) != len(all) {
		r.Errorf("%d of %d partitions are assigned", len(has), len(all))
	}
	r.Logf("  %d rounds of heartbeats", rounds+1)
}

// classicMember speaks the classic protocol, on a connection of its own.
type classicMember struct {
	conn       *rawConn
	group, id  string
	generation int32
	synced     bool
}

func (r *scaleRun) newClassic(group string) *classicMember {
	return &classicMember{conn: r.dial(), group: group}
}

// dial gives a connection that has been used: what it costs is not the group's.
func (r *scaleRun) dial() *rawConn {
	c := dial(r, r.b.addr)
	_, err := c.ask(kmsg.NewPtrApiVersionsRequest())
	must(r, err)
	return c
}

// join takes part in one rebalance. A leader gives nobody anything: that is between the members.
func (m *classicMember) join() error {
	m.synced = false
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.ProtocolType, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 9, m.group, m.id, "consumer", 300_000, 300_000
	sub := kmsg.NewConsumerMemberMetadata()
	sub.Version, sub.Topics = 1, []string{"scale"}
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: sub.AppendTo(nil)}}
	resp, err := m.conn.ask(req)
	if err != nil {
		return err
	}
	j := resp.(*kmsg.JoinGroupResponse)
	switch err := kerr.ErrorForCode(j.ErrorCode); {
	case errors.Is(err, kerr.MemberIDRequired):
		m.id = j.MemberID
		return m.join()
	case errors.Is(err, kerr.RebalanceInProgress):
		return nil
	case err != nil:
		return err
	}
	m.id, m.generation = j.MemberID, j.Generation
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Version, sync.Group, sync.MemberID, sync.Generation, sync.ProtocolType, sync.Protocol = 5, m.group, m.id, m.generation, j.ProtocolType, j.Protocol
	if j.LeaderID == m.id {
		a := kmsg.NewConsumerMemberAssignment()
		for i := range j.Members {
			sync.GroupAssignment = append(sync.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: j.Members[i].MemberID, MemberAssignment: a.AppendTo(nil)})
		}
	}
	if resp, err = m.conn.ask(sync); err != nil {
		return err
	}
	switch err := kerr.ErrorForCode(resp.(*kmsg.SyncGroupResponse).ErrorCode); {
	case errors.Is(err, kerr.RebalanceInProgress), errors.Is(err, kerr.IllegalGeneration):
		return nil
	case err != nil:
		return err
	}
	m.synced = true
	return nil
}

// heartbeat gives what the broker says, nil for nothing.
func (m *classicMember) heartbeat() (code, err error) {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 4, m.group, m.id, m.generation
	resp, err := m.conn.ask(req)
	if err != nil {
		return nil, err
	}
	return kerr.ErrorForCode(resp.(*kmsg.HeartbeatResponse).ErrorCode), nil
}

func (m *classicMember) leave() error {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group, req.Members = 5, m.group, []kmsg.LeaveGroupRequestMember{{MemberID: m.id}}
	resp, err := m.conn.ask(req)
	m.id, m.synced = "", false
	return errors.Join(err, kerr.ErrorForCode(resp.(*kmsg.LeaveGroupResponse).ErrorCode))
}

// become joins, and again whenever it is told to, until done.
func (m *classicMember) become(t testing.TB, done func() bool) {
	for until := time.Now().Add(10 * time.Minute); !m.synced || !done(); {
		err := error(nil)
		if !m.synced {
			err = m.join()
		} else if code, beatErr := m.heartbeat(); beatErr != nil || code != nil {
			m.synced, err = false, beatErr
		} else {
			time.Sleep(100 * time.Millisecond)
		}
		if err == nil && time.Now().After(until) {
			err = errors.New("it takes too long")
		}
		if err != nil {
			t.Errorf("%s of %s: %v", m.id, m.group, err)
			return
		}
	}
}

// restClassic lets all members join until all are in one generation.
func (r *scaleRun) restClassic(all []*classicMember) {
	var rested atomic.Bool
	var living sync.WaitGroup
	for _, m := range all {
		living.Go(func() { m.become(r, rested.Load) })
	}
	c := r.b.client()
	defer c.Close()
	for until := time.Now().Add(5 * time.Minute); !rested.Load(); time.Sleep(50 * time.Millisecond) {
		d, err := kadm.NewClient(c).DescribeGroups(deadline(r, time.Minute), all[0].group)
		if g := d[all[0].group]; err == nil && g.State == "Stable" && len(g.Members) == len(all) || r.Failed() {
			rested.Store(true)
		}
		if time.Now().After(until) {
			r.Errorf("the group is not stable: %v", err)
			break
		}
	}
	rested.Store(true)
	living.Wait()
}
