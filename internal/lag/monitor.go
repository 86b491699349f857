package lag

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"moldau/internal/coordinator"
	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/partition"
	"moldau/internal/storage"
)

const (
	fresh      = time.Second      // a look that is no older is good enough
	patience   = 2 * time.Second  // who asks waits so long for a new one
	every      = 15 * time.Second // the background looks so often
	coldReads  = 32               // records that one look of the background reads from the disk
	rateEvery  = 10 * time.Second // between two measurements of the rates; clients commit every five seconds
	rateMemory = 30 * time.Second // after so long a rate has forgotten two thirds of what was before
	warnings   = 20               // lines of the log for one look
)

// Options is what a Monitor needs. All fields are required.
type Options struct {
	Self       int32 // node id of this broker
	Groups     *coordinator.Runtime[*group.Shard]
	Partitions *partition.Manager
	Log        *slog.Logger
	MaxSeries  int // moldau.group.metrics.partitions
}

// Partition is how far a group is behind in one partition. Negative means not known, but for offsets.
type Partition struct {
	Topic     string
	Partition int32
	Committed int64
	End       int64 // the high watermark; -1: not known
	Lag       int64
	Age       time.Duration
	CatchUp   time.Duration
	Danger    *storage.Danger // nil: none; only for groups with members
}

// Group is how far a group is behind. The sums leave out what is not known.
type Group struct {
	Name       string
	Members    int
	Partitions []Partition // sorted by topic and partition
	Lag        int64
	Age        time.Duration // the largest; -1: of one at least it is not known, and of none known to be above 0
	CatchUp    time.Duration // the longest; -1: one at least is not known
	InDanger   int           // partitions
}

// Monitor looks at groups when it is asked, and by itself: one goroutine does. All methods may be called concurrently.
type Monitor struct {
	o    Options
	ask  chan struct{} // capacity 1: somebody wants a look
	stop chan struct{}
	wg   sync.WaitGroup

	mu struct {
		sync.Mutex         // guards the following; a leaf
		groups     []Group // never changed
		looked     time.Time
		next       chan struct{} // closed with the next look
	}

	// The goroutine's own:
	known   map[key]*known
	missing []cold // to be read from the disk
}

type key struct {
	group, topic string
	partition    int32
}

// known is what a Monitor remembers of a committed offset.
type known struct {
	next   int64 // the first record that is not read,
	tsMs   int64 // and its timestamp: -1 for none
	timed  bool  // tsMs is known
	rates  rates
	warned string // the danger that was logged last; "" none
}

// New returns a Monitor that looks by itself until Close.
func New(o Options) *Monitor {
	m := &Monitor{o: o, ask: make(chan struct{}, 1), stop: make(chan struct{})}
	m.mu.next = make(chan struct{})
	m.wg.Add(1)
	go m.startLooking()
	return m
}

// Close waits for the background.
func (m *Monitor) Close() {
	close(m.stop)
	m.wg.Wait()
}

// Groups is how far all groups are behind that this broker coordinates, sorted by name, and when that was found. Where a new look takes too long
// it is the last one: a disk that hangs holds up nobody who asks. It is not to be changed.
func (m *Monitor) Groups(ctx context.Context) ([]Group, time.Time) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for asked := false; ; asked = true {
		m.mu.Lock()
		groups, looked, next := m.mu.groups, m.mu.looked, m.mu.next
		m.mu.Unlock()
		if asked || !looked.IsZero() && time.Since(looked) < fresh {
			return groups, looked
		}
		select {
		case m.ask <- struct{}{}:
		default:
		}
		select {
		case <-next:
		case <-ctx.Done():
		case <-m.stop:
		}
	}
}

func (m *Monitor) startLooking() {
	defer m.wg.Done()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	always := make(chan struct{})
	close(always)
	for {
		more := always
		if len(m.missing) == 0 {
			more = nil
		}
		select {
		case <-m.stop:
			return
		case <-ticker.C:
			m.missing = m.look(time.Now())
		case <-m.ask:
			m.missing = m.look(time.Now())
		case <-more:
			m.readOne()
		}
	}
}

// cold is a record whose time is on the disk only.
type cold struct {
	k    key
	p    *partition.Partition
	next int64
}

// look goes over all committed offsets and returns records that it would have to read from the disk.
func (m *Monitor) look(now time.Time) (missing []cold) {
	replies, _ := m.o.Groups.DoAll(context.Background(), func(core *group.Shard, now shard.Time, t shard.Ticket) shard.Effects { return core.Committed(now, t) })
	before := m.known // of shards that do not answer, what was known is measured anew
	m.known = make(map[key]*known, len(before))
	var groups []Group
	for _, r := range replies {
		for _, g := range r.([]group.GroupOffsets) {
			x := Group{Name: g.Group, Members: g.Members, Partitions: make([]Partition, 0, len(g.Offsets))}
			for i := range g.Offsets {
				c := &g.Offsets[i]
				k := key{g.Group, c.Topic, c.Partition}
				e := before[k]
				if e == nil {
					e = &known{}
				}
				m.known[k] = e
				row, p, isCold := m.row(e, c, g.Members > 0, now)
				if isCold && len(missing) < coldReads {
					missing = append(missing, cold{k, p, e.next})
				}
				x.add(row)
			}
			groups = append(groups, x)
		}
	}
	slices.SortFunc(groups, func(a, b Group) int { return strings.Compare(a.Name, b.Name) })
	m.warn(groups)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.groups, m.mu.looked = groups, now
	close(m.mu.next)
	m.mu.next = make(chan struct{})
	return missing
}

// row is one committed offset. isCold: the age would have to be read from the disk.
func (m *Monitor) row(e *known, c *group.CommittedOffset, live bool, now time.Time) (row Partition, p *partition.Partition, isCold bool) {
	row = Partition{Topic: c.Topic, Partition: c.Partition, Committed: c.Offset, End: -1, Lag: -1, Age: -1, CatchUp: -1}
	name := c.Topic
	if !c.TopicID.IsZero() {
		name = "" // a namesake is another topic
	}
	p, err := m.o.Partitions.Lookup(name, c.TopicID, c.Partition)
	if err != nil || p.Err() != nil {
		return row, nil, false
	}
	if leader, _ := p.Leader(); leader != m.o.Self {
		return row, nil, false
	}
	start, end := p.Visible()
	row.End, row.Lag = end, max(end-c.Offset, 0)
	e.rates.measure(now, c.Offset, end)
	row.CatchUp = e.rates.catchUp(row.Lag)
	if row.Lag == 0 {
		row.Age = 0
		return row, p, false
	}
	if next := max(c.Offset, start); next != e.next || !e.timed {
		e.next, e.timed = next, false
		ms, err := p.TimestampAt(next, false)
		e.tsMs, e.timed = ms, err == nil
		isCold = errors.Is(err, storage.ErrCold) && p.Used()
	}
	if e.timed && e.tsMs >= 0 {
		row.Age = max(now.Sub(time.UnixMilli(e.tsMs)), 0)
	}
	if live {
		if d, ok := p.InDanger(c.Offset, now.UnixMilli()); ok {
			row.Danger = &d
		}
	}
	return row, p, isCold
}

func (g *Group) add(row Partition) {
	g.Partitions = append(g.Partitions, row)
	g.Lag += max(row.Lag, 0)
	if row.Age > max(g.Age, 0) || row.Age < 0 && g.Age == 0 {
		g.Age = row.Age
	}
	if row.CatchUp < 0 || g.CatchUp < 0 {
		g.CatchUp = -1
	} else {
		g.CatchUp = max(g.CatchUp, row.CatchUp)
	}
	if row.Danger != nil {
		g.InDanger++
	}
}

// readOne reads a record from the disk. The next look shows it.
func (m *Monitor) readOne() {
	c := m.missing[0]
	m.missing = m.missing[1:]
	ms, err := c.p.TimestampAt(c.next, true)
	if e := m.known[c.k]; err == nil && e != nil && e.next == c.next { // else it was deleted or is damaged: its age is not known
		e.tsMs, e.timed = ms, true
	}
}

// warn tells of dangers that are new.
func (m *Monitor) warn(groups []Group) {
	said, more := 0, 0
	for i := range groups {
		g := &groups[i]
		for j := range g.Partitions {
			row := &g.Partitions[j]
			e := m.known[key{g.Name, row.Topic, row.Partition}]
			kind, message := describe(row.Danger)
			if kind == e.warned {
				continue
			}
			if e.warned = kind; kind == "" {
				continue
			}
			if said++; said > warnings {
				more++
				continue
			}
			m.o.Log.Warn(message, "group", g.Name, "topic", row.Topic, "partition", row.Partition, "committed", row.Committed, "end", row.End, "lag", row.Lag, "danger", Detail(row.Danger))
		}
	}
	if more > 0 {
		m.o.Log.Warn("more groups are about to lose records to retention, see moldau_consumergroup_at_risk in /metrics", "partitions", more)
	}
}

// Kinds of danger, in metrics and the log.
const (
	deleted = "deleted"
	byTime  = "time"
	bySize  = "size"
)

// Kind is deleted, time or size.
func Kind(d *storage.Danger) string {
	switch {
	case d == nil:
		return ""
	case d.Gone > 0:
		return deleted
	case d.ByTime && (!d.BySize || d.Left <= 0):
		return byTime
	case d.BySize:
		return bySize
	}
	return byTime
}

func describe(d *storage.Danger) (kind, message string) {
	switch kind = Kind(d); kind {
	case deleted:
		message = "records were deleted before the group had read them: it goes on where auto.offset.reset of its consumers says; raise retention.ms or retention.bytes of the topic, or make the consumers faster"
	case byTime:
		message = "the group is about to lose records that it has not read to retention.ms: raise it (moldau topic alter TOPIC --set retention.ms=...), or make the consumers faster"
	case bySize:
		message = "the group is about to lose records that it has not read to retention.bytes: raise it (moldau topic alter TOPIC --set retention.bytes=...), or make the consumers faster"
	}
	return kind, message
}

// Detail says how near a danger is.
func Detail(d *storage.Danger) string {
	switch Kind(d) {
	case deleted:
		return fmt.Sprintf("%d offsets are gone", d.Gone)
	case byTime:
		return fmt.Sprintf("the segment may be deleted in %s", max(d.Left, 0).Round(time.Second))
	}
	return fmt.Sprintf("the segment may be deleted after %d more bytes", max(d.LeftBytes, 0))
}

// rates are how many records a second a group reads and producers write.
type rates struct {
	at             time.Time
	committed, end int64
	read, written  float64
	known, falls   bool // measured; the lag fell in the last measurement
}

// measure takes the offsets of a moment. Who goes back begins anew.
func (r *rates) measure(now time.Time, committed, end int64) {
	dt := now.Sub(r.at)
	switch {
	case r.at.IsZero() || committed < r.committed || end < r.end || dt < 0:
		*r = rates{at: now, committed: committed, end: end}
		return
	case dt < rateEvery:
		return
	}
	read, written := float64(committed-r.committed)/dt.Seconds(), float64(end-r.end)/dt.Seconds()
	if share := 1 - math.Exp(-dt.Seconds()/rateMemory.Seconds()); r.known {
		read, written = r.read+share*(read-r.read), r.written+share*(written-r.written)
	}
	*r = rates{at: now, committed: committed, end: end, read: read, written: written, known: true, falls: end-committed < r.end-r.committed}
}

// longest is when a group that hardly gains is said to catch up.
const longest = 365 * 24 * time.Hour

// catchUp is how long it takes to read lag records while more are written; -1 unless it becomes less.
func (r *rates) catchUp(lag int64) time.Duration {
	gain := r.read - r.written
	switch {
	case lag == 0:
		return 0
	case !r.known || !r.falls || gain <= 0 || float64(lag)/gain > longest.Seconds():
		return -1
	}
	return time.Duration(float64(lag) / gain * float64(time.Second))
}
