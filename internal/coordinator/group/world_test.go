package group

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// TestWorld runs groups of simulated clients against a shard that crashes, on a clock that only the test moves.
// One seed is one history. GROUP_SEEDS sets how many, GROUP_SEED runs one and prints it.
func TestWorld(t *testing.T) { runWorlds(t, worldClassic) }

// worldKind is who lives in a world.
type worldKind int

const (
	worldClassic worldKind = iota
	worldConsumers
	worldMixed
)

func runWorlds(t *testing.T, kind worldKind) {
	seeds := map[worldKind]uint64{worldClassic: 60, worldConsumers: 40, worldMixed: 25}[kind]
	enough := seeds
	if testing.Short() {
		seeds = 10
	}
	if s := os.Getenv("GROUP_SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = n
	}
	first := uint64(0)
	if s := os.Getenv("GROUP_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, seeds = n, 1
	}
	var total stats
	for seed := first; seed < first+seeds; seed++ {
		w := newWorld(seed, kind)
		w.trace = seeds == 1
		if err := w.run(); err != nil {
			if w.trace {
				t.Log(strings.Join(w.history, "\n"))
			}
			t.Fatalf("GROUP_SEED=%d: %v", seed, err)
		}
		total.add(w.stats)
	}
	t.Logf("%+v", total)
	musts := map[worldKind][]int{worldClassic: {total.Syncs, total.Replaced, total.Deleted, total.Expired}, worldConsumers: {total.Told, total.Deleted, total.Expired},
		worldMixed: {total.Told, total.Upgrades, total.Downgrades}}[kind]
	if seeds >= enough && slices.Contains(append(musts, total.Commits, total.Fetches, total.Crashes, total.Failed, total.Lost, total.Fenced), 0) {
		t.Error("something never happened")
	}
}

type stats struct {
	Events, Joins, Syncs, Commits, Fetches, Crashes, Failed, Lost, Fenced, Replaced, Expired, Deleted int
	Told, Upgrades, Downgrades                                                                        int
}

func (s *stats) add(o stats) {
	s.Events += o.Events
	s.Joins += o.Joins
	s.Syncs += o.Syncs
	s.Commits += o.Commits
	s.Fetches += o.Fetches
	s.Crashes += o.Crashes
	s.Failed += o.Failed
	s.Lost += o.Lost
	s.Fenced += o.Fenced
	s.Replaced += o.Replaced
	s.Expired += o.Expired
	s.Deleted += o.Deleted
	s.Told += o.Told
	s.Upgrades += o.Upgrades
	s.Downgrades += o.Downgrades
}

// call is a request on its way, and what comes of it.
type call struct {
	w      *world
	name   string
	send   func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects
	decide func(fx shard.Effects, resp any) error // when the event has happened: the reply need not be for this call's
	check  func(resp any, pos int) error          // when the reply leaves the server; pos is the end of the log it saw
	done   func(resp any)                         // at the client; nil: it never came
	over   bool
	single bool // it never comes twice
	once   bool // nor after the client has given it up
}

// held is a reply that waits for the high watermark.
type held struct {
	pos  int
	c    *call
	resp any
}

type happening struct {
	at  int64
	seq int
	f   func()
}

type agenda []happening

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].seq < a[j].seq
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(happening)) }
func (a *agenda) Pop() any     { x := (*a)[len(*a)-1]; *a = (*a)[:len(*a)-1]; return x }

// entry is what the model knows about a committed offset, by the end of the log that it was written at.
type entry struct {
	pos    int
	offset int64 // -1: none
	wall   int64
	id     wire.UUID
}

type world struct {
	rnd     *rand.Rand
	now     shard.Time
	agenda  agenda
	seq     int
	err     error
	trace   bool
	history []string
	stats   stats
	calm    bool // no more faults: everybody must come to rest

	cfg     Config
	s       *Shard
	up      bool
	log     []shard.Record
	batches []int // ends of the batches in log
	hw      int
	meta    *Metadata
	held    []held
	parked  map[shard.Ticket]*call
	tickets shard.Ticket

	kind   worldKind
	nexts  []*nextClient
	holds  map[hold]string // what which member was told that it has, and did not give back
	goneAt map[string]int  // end of the log at which a member went
	undos  []undo

	clients []*client
	topics  map[string]wire.UUID
	gone    []Topic
	model   map[string][]entry
	latest  map[string]entry // acknowledged
	counter int64
	owners  map[string]string // by group, incarnation, generation, partition
	newest  map[string]int32  // generation that an owner had, by group and incarnation and member
	assured map[string]int32  // newest generation that somebody was told its assignment of, by group and incarnation
	deleted map[string][]int  // ends of the log at which a group was deleted
}

const worldTopics, worldPartitions = 3, 3

func newWorld(seed uint64, kind worldKind) *world {
	w := &world{kind: kind, rnd: rand.New(rand.NewPCG(seed, 77)), now: shard.Time{MonoMs: 10_000, WallMs: 1_700_000_000_000},
		parked: map[shard.Ticket]*call{}, topics: map[string]wire.UUID{}, model: map[string][]entry{}, latest: map[string]entry{},
		owners: map[string]string{}, newest: map[string]int32{}, assured: map[string]int32{}, deleted: map[string][]int{}}
	w.cfg = testConfig()
	w.cfg.MinSessionTimeoutMs = 1000
	w.cfg.OffsetsRetentionMs = 60_000
	w.cfg.RetentionCheckIntervalMs = 10_000
	w.cfg.InitialRebalanceDelayMs = []int64{0, 500, 3000}[w.rnd.IntN(3)]
	w.cfg.MaxSize = []int{3, 100, 100}[w.rnd.IntN(3)]
	for i := range worldTopics {
		w.topics[fmt.Sprintf("t%d", i)] = wire.UUID{1, byte(i)}
	}
	w.renew()
	w.load()
	if kind != worldClassic {
		w.peopleNext()
		w.in(100, w.faults)
		w.in(200, w.admin)
		w.in(1, w.replicate)
		return w
	}
	groups := 1 + w.rnd.IntN(2)
	for i := range 3 + w.rnd.IntN(4) {
		c := &client{process: process{w: w, n: i, group: fmt.Sprintf("g%d", w.rnd.IntN(groups)), frozenMs: 40_000}, version: []int16{3, 5, 8, 9}[w.rnd.IntN(4)]}
		if c.version >= 5 && w.rnd.IntN(3) == 0 {
			id := fmt.Sprintf("i%d", w.rnd.IntN(3))
			c.instance = &id
		}
		w.clients = append(w.clients, c)
		w.in(w.rnd.Int64N(10_000), c.start)
	}
	w.in(100, w.faults)
	w.in(200, w.admin)
	w.in(1, w.replicate)
	return w
}

func (w *world) in(ms int64, f func()) {
	w.seq++
	heap.Push(&w.agenda, happening{w.now.MonoMs + ms, w.seq, f})
}

func (w *world) say(format string, args ...any) {
	if w.trace {
		w.history = append(w.history, fmt.Sprintf("%7d ", w.now.MonoMs)+fmt.Sprintf(format, args...))
	}
}

func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("at %d: %s", w.now.MonoMs, fmt.Sprintf(format, args...))
		w.say("FAILED %v", w.err)
	}
}

func (w *world) run() (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.say("%v", p)
			err = fmt.Errorf("panic: %v", p)
			if w.trace {
				panic(p)
			}
		}
	}()
	end := w.now.MonoMs + 60_000 + w.rnd.Int64N(120_000)
	w.until(end)
	w.calm = true
	w.until(end + 120_000)
	if w.err == nil {
		w.checkFold()
		w.checkCompaction()
		w.checkRest()
	}
	return w.err
}

func (w *world) until(end int64) {
	for w.err == nil {
		next := int64(1 << 62)
		if len(w.agenda) > 0 {
			next = w.agenda[0].at
		}
		if w.up {
			if d := w.s.Deadline(); d <= next && d <= end {
				w.advance(d)
				w.event(nil)
				continue
			}
		}
		if next > end {
			w.advance(end)
			return
		}
		w.advance(next)
		heap.Pop(&w.agenda).(happening).f()
	}
}

func (w *world) advance(to int64) {
	if by := to - w.now.MonoMs; by > 0 {
		w.now.MonoMs += by
		w.now.WallMs += by
	}
}

// event lets the shard do one thing: c, or Tick.
func (w *world) event(c *call) {
	w.stats.Events++
	var fx shard.Effects
	if c == nil {
		fx = w.s.Tick(w.now)
	} else {
		w.tickets++
		w.parked[w.tickets] = c
		fx = c.send(w.s, w.now, w.tickets)
	}
	if len(fx.Records) > 0 && !w.calm && w.rnd.IntN(40) == 0 {
		w.stats.Failed++
		w.say("the log refuses %d records", len(fx.Records))
		code := []wire.Code{wire.NotEnoughReplicas, wire.KafkaStorageError, wire.MessageTooLarge}[w.rnd.IntN(3)]
		before := len(fx.Replies)
		fx = w.s.Failed(w.now, fx, code)
		if len(fx.Records) > 0 || len(fx.Replies) < before {
			w.fail("Failed: %d records, %d of %d replies", len(fx.Records), len(fx.Replies), before)
		}
	} else if len(fx.Records) > 0 {
		w.append(fx.Records, c)
	}
	for _, r := range fx.Replies {
		rc := w.parked[r.Ticket]
		if rc == nil {
			w.fail("a reply to ticket %d, which nobody waits for", r.Ticket)
			return
		}
		delete(w.parked, r.Ticket)
		if rc.decide != nil {
			if err := rc.decide(fx, r.Response); err != nil {
				w.fail("%s: %v", rc.name, err)
			}
		}
		if r.Early {
			w.release(held{0, rc, r.Response})
		} else {
			w.held = append(w.held, held{len(w.log), rc, r.Response})
		}
	}
	if w.hw == len(w.log) {
		w.commit(w.hw)
	}
	if w.stats.Events%100 == 0 {
		w.checkFold()
	} else if w.isNext() {
		if err := consistent(w.s); err != nil {
			w.fail("%v", err)
		}
	}
}

// append writes a batch and replays it.
func (w *world) append(records []shard.Record, c *call) {
	for _, r := range records {
		if w.isNext() {
			w.nextRecord(r)
		}
		var k kmsg.OffsetCommitKey
		var gk kmsg.GroupMetadataKey
		switch {
		case r.Key[1] == keyOffset && k.ReadFrom(r.Key) == nil:
			if r.Value == nil {
				w.tombstone(k, len(w.log)+len(records), c)
			}
		case r.Key[1] == keyGroup && gk.ReadFrom(r.Key) == nil:
			if r.Value == nil {
				w.deleted[gk.Group] = append(w.deleted[gk.Group], len(w.log)+len(records))
				w.stats.Deleted++
			}
		case w.isNext() && r.Key[1] == keyConsumer:
			if k, err := parseKey(r.Key); err == nil && r.Value == nil {
				w.deleted[string(k.group)] = append(w.deleted[string(k.group)], len(w.log)+len(records))
				w.stats.Deleted++
			}
		case w.isNext():
		default:
			w.fail("record %x", r.Key)
		}
	}
	for _, r := range records {
		w.log = append(w.log, shard.Record{Key: slices.Clone(r.Key), Value: slices.Clone(r.Value)})
		if err := w.s.Replay(r); err != nil {
			w.fail("replay: %v", err)
		}
	}
	w.batches = append(w.batches, len(w.log))
}

// tombstone is an offset that goes: by a request, with its topic, or because its time is over and nobody uses it.
func (w *world) tombstone(k kmsg.OffsetCommitKey, pos int, c *call) {
	key := offsetKey(k.Group, k.Topic, k.Partition)
	es := w.model[key]
	if len(es) == 0 || es[len(es)-1].offset < 0 {
		w.fail("a tombstone for %s, which has no offset", key)
		return
	}
	old := es[len(es)-1]
	w.model[key] = append(es, entry{pos: pos, offset: -1})
	if c != nil || len(w.s.sweeps.queue) > 0 && w.s.sweeps.queue[0].ticket != 0 {
		return
	}
	if slices.ContainsFunc(w.gone, func(t Topic) bool { return t.Name == k.Topic && t.ID == old.id }) {
		return
	}
	w.stats.Expired++
	if w.now.WallMs-old.wall < w.cfg.OffsetsRetentionMs {
		w.fail("%s expires after %d ms", key, w.now.WallMs-old.wall)
	}
	if cg := w.s.groups[k.Group].consumer; cg != nil && cg.subscribes(k.Topic) {
		w.fail("%s expires while it is in use", key)
	}
	if cl := w.s.groups[k.Group].classic; cl != nil && cl.state != empty {
		for _, m := range cl.order {
			var sub kmsg.ConsumerMemberMetadata
			if b, _ := m.metadata(cl.protocol); sub.ReadFrom(b) != nil || slices.Contains(sub.Topics, k.Topic) || cl.state != stable {
				w.fail("%s expires while it is in use", key)
			}
		}
	}
}

func offsetKey(group, topic string, p int32) string { return fmt.Sprintf("%s %s-%d", group, topic, p) }

// commit moves the high watermark, and releases who waits for it.
func (w *world) commit(hw int) {
	w.hw = hw
	for len(w.held) > 0 && w.held[0].pos <= hw {
		h := w.held[0]
		w.held = w.held[1:]
		w.release(h)
	}
}

func (w *world) release(h held) {
	if w.trace {
		w.say("  %s is answered: %s", h.c.name, brief(h.resp))
	}
	if h.c.check != nil {
		if err := h.c.check(h.resp, h.pos); err != nil {
			w.fail("%s: %v", h.c.name, err)
		}
	}
	w.deliver(h.c, h.resp)
}

func (w *world) deliver(c *call, resp any) {
	if !w.calm && w.rnd.IntN(40) == 0 {
		return // lost on the way back
	}
	w.in(w.delay(), func() {
		if !c.over {
			c.over = true
			c.done(resp)
		}
	})
}

func (w *world) delay() int64 {
	if !w.calm && w.rnd.IntN(30) == 0 {
		return w.rnd.Int64N(30_000)
	}
	return 1 + w.rnd.Int64N(40)
}

// call sends a request, which may be lost, late, or come twice.
func (w *world) call(c *call, timeoutMs int64) {
	c.w = w
	times := 1
	if !w.calm {
		switch w.rnd.IntN(30) {
		case 0:
			times = 0
		case 1:
			times = 2
		}
	}
	crashes := w.stats.Crashes
	for i := range times {
		c := c
		if w.isNext() && i > 0 {
			if c.once || c.single {
				continue
			}
			lost := *c // on a connection that the client has given up
			lost.check, lost.done, lost.name = nil, func(any) {}, c.name+" (given up)"
			c = &lost
		}
		w.in(w.delay(), func() {
			if c.once && c.over {
				return // a server may well find it later: nobody can tell such a join from one anew, see TestConsumerWorld
			}
			if w.up && w.stats.Crashes == crashes { // a connection does not outlive the server
				w.say("%s", c.name)
				w.event(c)
			}
		})
	}
	w.in(timeoutMs, func() {
		if !c.over {
			c.over = true
			c.done(nil)
		}
	})
}

// replicate is what moves the high watermark.
func (w *world) replicate() {
	if w.up && w.hw < len(w.log) {
		i, found := slices.BinarySearch(w.batches, w.hw)
		if found {
			i++
		}
		n := i + w.rnd.IntN(len(w.batches)-i)
		w.commit(w.batches[n])
	}
	if ms := int64(1); w.calm || w.rnd.IntN(50) > 0 {
		w.in(ms+w.rnd.Int64N(30), w.replicate)
	} else {
		w.in(ms+w.rnd.Int64N(3000), w.replicate)
	}
}

func (w *world) faults() {
	if w.calm {
		if !w.up {
			w.load()
		}
		return
	}
	if w.up {
		w.crash()
	} else {
		w.load()
	}
	w.in(1+w.rnd.Int64N([]int64{40_000, 3000}[btoi(!w.up)]), w.faults)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// crash loses what is not in the log, and of the log what is not committed, or a part of it.
func (w *world) crash() {
	w.checkFold()
	w.stats.Crashes++
	ends := []int{w.hw}
	for _, e := range w.batches {
		if e > w.hw {
			ends = append(ends, e)
		}
	}
	n := ends[w.rnd.IntN(len(ends))]
	w.say("CRASH: %d of %d records remain, %d committed", n, len(w.log), w.hw)
	w.stats.Lost += len(w.log) - n
	w.log = w.log[:n]
	w.batches = slices.DeleteFunc(w.batches, func(e int) bool { return e > n })
	for len(w.undos) > 0 && w.undos[len(w.undos)-1].pos > n {
		u := w.undos[len(w.undos)-1]
		w.holds[u.h] = u.by
		w.undos = w.undos[:len(w.undos)-1]
	}
	for k, pos := range w.goneAt {
		if pos > n {
			delete(w.goneAt, k)
		}
	}
	for key, es := range w.model {
		w.model[key] = slices.DeleteFunc(es, func(e entry) bool { return e.pos > n })
	}
	for g, ps := range w.deleted {
		w.deleted[g] = slices.DeleteFunc(ps, func(p int) bool { return p > n })
	}
	w.held = nil
	w.up = false
	w.parked = map[shard.Ticket]*call{}
}

func (w *world) load() {
	w.s = New(w.cfg, w.meta, func(out []byte) {
		for i := range out {
			out[i] = byte(w.rnd.Uint32())
		}
	})
	for _, r := range w.log {
		if err := w.s.Replay(r); err != nil {
			w.fail("load: %v", err)
		}
	}
	w.hw = len(w.log)
	w.tickets += 1000
	w.now.WallMs += w.rnd.Int64N(1000)
	w.up = true
	w.s.Loaded(w.now)
	// Every offset that was acknowledged is there.
	for key, e := range w.latest {
		es := w.model[key]
		if i := slices.IndexFunc(es, func(x entry) bool { return x.pos == e.pos && x.offset == e.offset }); i < 0 {
			w.fail("the commit of %s at %d was acknowledged and is lost", key, e.offset)
		}
	}
	w.checkFold()
}

func (w *world) checkFold() {
	if !w.up {
		return
	}
	if live, folded := compareFold(w.s, w.log); live != folded {
		w.fail("state is not the fold of its log\nstate:\n%s\nfold:\n%s", live, folded)
	}
	if err := consistent(w.s); err != nil {
		w.fail("%v", err)
	}
}

// checkCompaction folds random compactions of the log.
func (w *world) checkCompaction() {
	_, want := compareFold(w.s, w.log)
	last := map[string]int{}
	for i, r := range w.log {
		last[string(r.Key)] = i
	}
	for range 3 {
		keep := w.rnd.Float64()
		dropTombstones := w.rnd.IntN(2) == 0
		var log []shard.Record
		for i, r := range w.log {
			switch isLast := last[string(r.Key)] == i; {
			case isLast && r.Value == nil && dropTombstones && w.rnd.IntN(2) == 0:
				// with it go the older ones of its key
				log = slices.DeleteFunc(log, func(x shard.Record) bool { return string(x.Key) == string(r.Key) })
			case isLast || w.rnd.Float64() < keep:
				log = append(log, r)
			}
		}
		if _, got := compareFold(w.s, log); got != want {
			w.fail("a compaction folds to something else\n%s\nwhole log:\n%s", got, want)
		}
	}
}

// checkRest is whether everybody has found its place in the end.
func (w *world) checkRest() {
	for t, c := range w.parked {
		w.fail("ticket %d of %s is never answered", t, c.name)
	}
	room := w.cfg.MaxSize > len(w.clients)
	for _, c := range w.clients {
		if c.state == clientRunning && room && !c.synced {
			w.fail("client %d of group %s is not at rest: %+v", c.n, c.group, c)
		}
	}
	w.checkNextRest()
	for id, g := range w.s.groups {
		if st := g.state(); st != "Stable" && st != "Empty" {
			w.fail("group %s ends in %s", id, st)
		}
	}
}

// incarnation tells a group from one of the same name that was deleted, at an end of the log.
func (w *world) incarnation(group string, pos int) string {
	n := 0
	for _, p := range w.deleted[group] {
		if p <= pos {
			n++
		}
	}
	return fmt.Sprintf("%s/%d", group, n)
}

func brief(resp any) string {
	switch r := resp.(type) {
	case *kmsg.JoinGroupResponse:
		return fmt.Sprintf("join %v generation %d id %s leader %s members %d skip %v", wire.Code(r.ErrorCode), r.Generation, r.MemberID, r.LeaderID, len(r.Members), r.SkipAssignment)
	case *kmsg.SyncGroupResponse:
		return fmt.Sprintf("sync %v %q", wire.Code(r.ErrorCode), r.MemberAssignment)
	case *kmsg.HeartbeatResponse:
		return fmt.Sprintf("heartbeat %v", wire.Code(r.ErrorCode))
	}
	return fmt.Sprintf("%+v", resp)
}
