package storage

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

var (
	seeds    = flag.Int("storage.seeds", 400, "seeds of the model test")
	firstRun = flag.Int64("storage.seed", 1, "first seed of the model test")
	verbose  = flag.Bool("storage.log", false, "print the broker's log lines")
)

// TestModel drives one log with random operations on a disk that loses power, at
// random writes or between operations, that fails or is full, and compares it with the list of everything
// that was appended. The invariants S1 to S13 of the package comment are checked after every restart; rot and S14 have TestModelFlips.
func TestModel(t *testing.T) {
	manySeeds(t, *seeds, func(seed int64) (int, error) { return runModel(seed, vfs.MemOptions{}) })
}

// manySeeds runs seeds from -storage.seed on, an eighth of them in a short run, and ends after a few that fail.
func manySeeds(t *testing.T, n int, run func(seed int64) (steps int, err error)) {
	t.Helper()
	if testing.Short() {
		n = (n + 7) / 8
	}
	steps, failed := 0, 0
	for seed := *firstRun; seed < *firstRun+int64(n) && failed < 3; seed++ {
		k, err := run(seed)
		if steps += k; err != nil {
			failed++
			t.Errorf("seed %d: %v (run it alone: -run '^%s$' -storage.seed=%d -storage.seeds=1)", seed, err, t.Name(), seed)
		}
	}
	t.Logf("%d steps over %d seeds from %d on", steps, n, *firstRun)
}

// TestModelNoticesNoSync proves that the model test has teeth: a disk that ignores syncs must fail it.
func TestModelNoticesNoSync(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes hundreds of seeds until the last is noticed")
	}
	for name, o := range map[string]vfs.MemOptions{
		"file sync": {IgnoreSync: true}, "directory sync": {IgnoreSyncDir: true}, "rename": {TornRename: true},
	} {
		noticed := false
		for seed := int64(1); seed <= 3000 && !noticed; seed++ {
			_, err := runModel(seed, o)
			noticed = err != nil
		}
		if !noticed {
			t.Errorf("a disk without %s was not noticed in 3000 seeds", name)
		}
	}
}

type model struct {
	rnd     *rand.Rand
	mem     *vfs.Mem
	opts    vfs.MemOptions
	dir     *Dir
	log     *Log
	of      *Held
	cfg     LogConfig
	id      wire.UUID
	batches []record.Batch // what was appended, in order
	safe    int64          // the largest Flushed that was seen since the last truncation
	epoch   int32
	pids    map[int64]*modelProducer
	nowMs   int64
	floor   map[int64]int64 // batches of a producer below it may be forgotten: a truncation came between
	trace   []string

	start     int64 // log start that was seen
	tried     int64 // log start that may have come of an operation that was cut off
	compacted int64 // below it a compaction was tried
	committed int64 // the largest high watermark that the log was told
	late      *rand.Rand
	idle      *rand.Rand // its own, too
	quiet     *rand.Rand // and its own
	stopped   *Extent    // what a clean stop left, nil if the last one was none
	disk      *faultyDisk
	reader    *Reader
	refused   []record.Batch // appends at the log end that found no room
	held      []heldPlan     // reads that were begun and not finished
	steps     int
	told      *bytes.Buffer // what the log dir logs, nil: nobody wants to know
	// cutShort: a truncation of a compacted log was cut off by a failure, so that recovery read what
	// compaction had left. Epochs and batches of which nothing is left are then not known any more.
	cutShort bool
}

// faultyDisk lets operations fail.
type faultyDisk struct {
	mu    sync.Mutex // guards the following
	full  bool
	after int // the operation that counts it down to 0 fails with EIO
	reads int // of this many reads of a segment one fails with EIO; 0: none
	// failed: one did. What a failed sync should have written is in memory only, whatever later
	// syncs say; so the machine is restarted, not only the process.
	failed bool
	rnd    *rand.Rand
}

func (f *faultyDisk) rule(op vfs.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch op.Kind {
	case vfs.OpRead, vfs.OpTryRead:
		if f.reads > 0 && strings.HasSuffix(op.Name, logSuffix) && f.rnd.IntN(f.reads) == 0 {
			return syscall.EIO
		}
		return nil
	case vfs.OpWrite, vfs.OpRename, vfs.OpSync, vfs.OpSyncDir, vfs.OpSyncTree, vfs.OpTruncate, vfs.OpRemove:
	default:
		return nil
	}
	if f.after > 0 {
		if f.after--; f.after == 0 {
			f.failed = true
			return syscall.EIO
		}
	}
	if f.full && op.Kind == vfs.OpWrite {
		return vfs.ShortWrite{N: f.rnd.Int64N(max(op.Len, 1)), Err: syscall.ENOSPC}
	}
	if f.full && op.Kind == vfs.OpRename && f.rnd.IntN(2) == 0 {
		return syscall.ENOSPC
	}
	return nil
}

func (f *faultyDisk) set(full bool, after int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full, f.after = full, after
}

// failReads lets one of n reads of a segment fail; 0: none.
func (f *faultyDisk) failReads(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads = n
}

func (f *faultyDisk) takeFailed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	failed := f.failed
	f.failed = false
	return failed
}

func (f *faultyDisk) isFull() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.full
}

type modelProducer struct {
	epoch  int16
	seq    int32
	inTxn  bool
	window []record.Batch // for duplicates
}

var modelTP = TopicPartition{"orders", 3}

func runModel(seed int64, o vfs.MemOptions) (steps int, err error) {
	m := newModel(seed, o)
	defer func() {
		steps = m.steps
		err = m.withTrace(err)
	}()
	if err := m.open(); err != nil {
		return 0, fmt.Errorf("first open: %w", err)
	}
	lives, most := 4, 60
	if m.rnd.IntN(20) == 0 {
		lives, most = 2, 1000 // a log with many segments
	}
	for range lives {
		switch m.rnd.IntN(4) {
		case 0, 1:
			m.mem.PowerLossAfter(1 + m.rnd.IntN(200))
		case 2:
			m.disk.set(false, 1+m.rnd.IntN(300))
		}
		for op := m.rnd.IntN(most); op >= 0; op-- {
			m.steps++
			if err := m.step(); err != nil {
				if errors.Is(err, vfs.ErrPowerLoss) || errors.Is(err, ErrOffline) {
					break
				}
				if errors.Is(err, ErrNoSpace) && m.disk.isFull() {
					continue
				}
				return 0, err
			}
		}
		if m.rnd.IntN(15) == 0 {
			if err := m.recreate(); err != nil {
				return 0, err
			}
		}
		if err := m.restart(); err != nil {
			return 0, err
		}
	}
	m.mem.PowerLossAfter(0)
	if err := m.dir.Close(); err != nil {
		return 0, err
	}
	return 0, m.releaseHeld()
}

func (m *model) withTrace(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w\nlast steps:\n  %s", err, strings.Join(m.trace[max(0, len(m.trace)-25):], "\n  "))
}

func newModel(seed int64, o vfs.MemOptions) *model {
	rnd := rand.New(rand.NewPCG(uint64(seed), 7))
	m := &model{rnd: rnd, mem: vfs.NewMemOptions(o), opts: o, id: wire.UUID{1, 2, byte(seed)}, pids: map[int64]*modelProducer{}, floor: map[int64]int64{}, nowMs: time.Now().UnixMilli(), reader: newReader("model")}
	m.cfg = LogConfig{
		SegmentBytes: int64(4000 + rnd.IntN(20_000)), IndexIntervalBytes: int64(rnd.IntN(3000)), SegmentIndexBytes: int64(64 + rnd.IntN(4000)),
		FlushMessages: []int64{1, 1, 5, math.MaxInt64}[rnd.IntN(4)], MaxInflatedBytes: 1 << 20,
	}
	m.disk = &faultyDisk{rnd: rand.New(rand.NewPCG(uint64(seed), 8))}
	m.cfg.CleanupDelete, m.cfg.RetentionAge, m.cfg.RetentionBytes = rnd.IntN(2) == 0, -1, -1
	m.cfg.FileDeleteDelay = []time.Duration{0, time.Hour}[rnd.IntN(2)]
	if m.cfg.CleanupDelete {
		m.cfg.RetentionBytes = int64(rnd.IntN(40_000))
		m.cfg.RetentionAge = []time.Duration{-1, time.Duration(rnd.IntN(60)) * time.Second}[rnd.IntN(2)]
	}
	m.cfg.CleanupCompact = rnd.IntN(2) == 0
	m.cfg.DeleteRetention = time.Duration(rnd.IntN(10)) * time.Second
	if rnd.IntN(4) == 0 {
		m.cfg.MinCompactionLag = time.Duration(rnd.IntN(30)) * time.Second
	}
	if rnd.IntN(4) == 0 {
		m.cfg.MaxCompactionLag = time.Duration(1+rnd.IntN(30)) * time.Second
	}
	if rnd.IntN(4) == 0 {
		m.cfg.SegmentAge = time.Duration(1+rnd.IntN(60)) * time.Second
	}
	return m
}

func (m *model) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *model) open() error {
	log := slog.New(slog.DiscardHandler)
	if m.told != nil {
		log = slog.New(slog.NewTextHandler(m.told, nil))
	}
	if *verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	dir, err := OpenDir(Options{FS: vfs.NewFault(m.mem, m.disk.rule), Path: "/data/log", MetaDir: "/data/meta", Log: log, PoisonBuffers: true, PointBytes: int64(3000 + m.rnd.IntN(30_000)), OpenFiles: 1 + m.rnd.IntN(3), IndexBytes: 64, PadFrom: 1, QuietRound: time.Hour, PadBytes: []int64{-1, 700, 4 << 10}[(int(m.id[2])+m.steps)%3], JournalBytes: []int64{-1, 32 << 10, 128 << 10}[m.rnd.IntN(3)]})
	if err != nil {
		return err
	}
	m.dir = dir
	if m.log, err = m.openLog(); err == nil {
		m.log.SetCommitted(m.log.Flushed())
		m.committed = max(m.committed, m.log.Flushed())
	}
	return err
}

// openLog opens the log at once, or some time after the start, with the recovery in the background before, beside or without it.
func (m *model) openLog() (*Log, error) {
	stopped := m.stopped
	m.stopped = nil
	if m.late == nil {
		m.late = rand.New(rand.NewPCG(uint64(m.id[2]), 14)) // its own, so that a seed means the same operations
	}
	cfg := m.cfg // what a log has been given does not change; m.cfg does
	if m.late.IntN(3) == 0 {
		m.of = &Held{}
		if err := m.dir.Hold(m.of, modelTP, m.id, &cfg, flushedFunc(func() {})); err != nil {
			return nil, err
		}
		return m.of.Open()
	}
	h := &Held{}
	m.of = h
	if err := m.dir.Hold(h, modelTP, m.id, &cfg, flushedFunc(func() {})); err != nil {
		return nil, err
	}
	x := h.Extent()
	if stopped != nil && h.Log() == nil && x != *stopped {
		return nil, fmt.Errorf("a closed log is said to have %+v, the stop left %+v", x, *stopped)
	}
	how := m.late.IntN(3)
	if how > 0 {
		m.dir.Recover()
	}
	for how == 1 && !m.dir.Recovery().Ended && m.dir.Err() == nil {
		time.Sleep(10 * time.Microsecond)
	}
	m.note("opened late: %d", how)
	return h.Open()
}

// restart ends the process in one of several ways, opens the log again and checks it.
func (m *model) restart() error {
	m.disk.set(false, 0)
	m.safe = max(m.safe, m.log.Flushed())
	m.tried = max(m.tried, m.log.Start())
	end := m.log.End()
	how, kept := m.rnd.IntN(3), m.safe
	m.stopped = nil
	if m.disk.takeFailed() {
		how = 1
	}
	if err := m.checkHeld(); err != nil {
		return err
	}
	switch {
	case how == 0:
		m.note("clean stop at %d", end)
		left := Extent{m.log.Start(), end, m.log.SizeBytes(), m.log.Segments(), m.log.DamagedSegments()}
		if err := m.dir.Close(); err == nil && m.dir.Err() == nil {
			m.safe, m.stopped = end, &left
			if err := m.releaseHeld(); err != nil {
				return err
			}
			m.mem = m.mem.Clone()
			break
		}
		fallthrough
	case how == 1:
		m.note("power loss at %d, flushed %d", end, m.safe)
		old := m.dir
		m.mem = m.mem.Crash(m.rnd)
		old.Close()
	default:
		m.note("kill at %d", end)
		old := m.dir
		if m.dir.Err() == nil {
			kept = end // a kill loses nothing that was written, unless the power goes next
		}
		m.mem = m.mem.Clone()
		old.Close()
	}
	m.held = nil // of a process that is gone
	if m.rnd.IntN(6) == 0 {
		// A disk that does not give the bytes ends the start and changes nothing.
		m.disk.failReads(1 + m.rnd.IntN(4))
		err := m.open()
		m.note("a recovery could not read: %v", err)
		if err == nil {
			m.safe = max(m.safe, m.log.Flushed())
		}
		m.disk.failReads(0)
		old := m.dir
		m.mem = m.mem.Clone()
		old.Close()
	}
	if m.rnd.IntN(3) == 0 {
		// Losing power while recovery writes must be no worse than losing it once.
		m.mem.PowerLossAfter(1 + m.rnd.IntN(25))
		err := m.open()
		m.note("recovery was interrupted: %v", err)
		if err == nil {
			m.safe = max(m.safe, m.log.Flushed())
		}
		old := m.dir
		m.mem = m.mem.Crash(m.rnd)
		if err == nil {
			old.Close()
		}
		kept = m.safe
	}
	m.safe = max(m.safe, kept)
	if err := wantClean(m.mem, "/data/log", "/data/meta"); err != nil {
		return err
	}
	if err := m.open(); err != nil {
		return fmt.Errorf("open after restart: %w", err)
	}
	return m.check()
}

// recreate deletes the log, mostly with a stop in the middle, and makes one anew under the same name and another topic id: it is empty,
// whatever is left of the old one.
func (m *model) recreate() error {
	m.disk.set(false, 0)
	if m.rnd.IntN(3) > 0 {
		m.mem.PowerLossAfter(1 + m.rnd.IntN(20))
	}
	err := m.log.Delete()
	m.note("delete: %v", err)
	old := m.dir
	if m.disk.takeFailed() || m.rnd.IntN(2) == 0 {
		m.mem = m.mem.Crash(m.rnd)
	} else {
		m.mem = m.mem.Clone()
	}
	old.Close()
	m.held = nil
	m.id[3]++
	m.batches, m.refused, m.pids, m.floor = nil, nil, map[int64]*modelProducer{}, map[int64]int64{}
	m.safe, m.start, m.tried, m.compacted, m.committed, m.cutShort = 0, 0, 0, 0, 0, false
	if err := m.open(); err != nil {
		return fmt.Errorf("open after the deletion of its namesake: %w", err)
	}
	if err := m.dir.RemoveDeleted(); err != nil {
		return fmt.Errorf("remove what was deleted: %w", err)
	}
	if m.log.Start() != 0 || m.log.End() != 0 {
		return fmt.Errorf("S9: a new log has the offsets %d to %d of its namesake", m.log.Start(), m.log.End())
	}
	for range m.rnd.IntN(5) {
		if err := m.append(); err != nil {
			return err
		}
	}
	return nil
}

// findRefused: of a batch that found no room all bytes may be there after all, where those that are missing are
// zeros that a longer write left.
func (m *model) findRefused(end int64) error {
	p, err := m.log.Read(m.modelEnd(), end, 1, true, 0)
	if err != nil {
		return err
	}
	got, next, err := planBatches(p)
	if err != nil {
		return err
	}
	for _, b := range m.refused {
		if bytes.Equal(b, got) && next == end {
			if last := len(m.batches) - 1; last >= 0 && m.batches[last].BaseOffset() == b.BaseOffset() {
				m.batches = m.batches[:last] // what came in its place, and is lost
			}
			m.batches = append(m.batches, b)
			return nil
		}
	}
	return fmt.Errorf("S4: log ends at %d, only %d was appended", end, m.modelEnd())
}

// forgetRefused lets go of the batches that were refused and whose place has durably gone to others.
func (m *model) forgetRefused() {
	flushed := m.log.Flushed()
	m.refused = slices.DeleteFunc(m.refused, func(b record.Batch) bool { return b.BaseOffset() < flushed })
}

// preferRefused: what was written last may be lost, and a batch at the same offset that had found no room be there.
func (m *model) preferRefused() error {
	last := len(m.batches) - 1
	if last < 0 || len(m.refused) == 0 || m.batches[last].BaseOffset() < m.log.Start() {
		return nil
	}
	p, err := m.log.Read(m.batches[last].BaseOffset(), m.log.End(), 1, true, 0)
	if err != nil {
		return err
	}
	got, _, err := planBatches(p)
	for _, b := range m.refused {
		if bytes.Equal(b, got) {
			m.batches[last] = b
		}
	}
	return err
}

func (m *model) modelEnd() int64 {
	if len(m.batches) == 0 {
		return 0
	}
	return m.batches[len(m.batches)-1].NextOffset()
}

// check compares the reopened log with the model and then lets the model go on from there.
func (m *model) check() error {
	end := m.log.End()
	if end < m.safe {
		return fmt.Errorf("S4: log ends at %d, flushed was %d", end, m.safe)
	}
	if end > m.modelEnd() {
		if err := m.findRefused(end); err != nil {
			return err
		}
	}
	if m.log.Flushed() != end {
		return fmt.Errorf("S3: recovery gives %d records as flushed of %d", m.log.Flushed(), end)
	}
	for len(m.batches) > 0 && m.modelEnd() > end {
		m.batches = m.batches[:len(m.batches)-1]
	}
	if m.modelEnd() < end {
		// What came in the place of a batch that was refused is lost, and the bytes of that one are back.
		if err := m.findRefused(end); err != nil {
			return err
		}
	}
	if m.modelEnd() != end {
		return fmt.Errorf("S1: log ends at %d inside a batch, the model at %d", end, m.modelEnd())
	}
	if err := m.preferRefused(); err != nil {
		return err
	}
	m.safe, m.committed = end, min(m.committed, end)
	start := m.log.Start()
	if start < m.start || start > max(m.tried, m.start) || start > end {
		return fmt.Errorf("S12: log start is %d, it was %d and at most %d was asked for", start, m.start, m.tried)
	}
	m.start = start
	if err := m.readAll(); err != nil {
		return err
	}
	// S5, S6: epochs and producers are the fold of the batches.
	var epochs epochs
	ps := newProducers()
	for _, b := range m.batches {
		if _, err := epochs.assign(b.LeaderEpoch(), b.BaseOffset()); err != nil {
			return err
		}
		ps.apply(b, 0)
	}
	epochs.cutHead(start)
	withoutEnd := func(entries []EpochEntry) []EpochEntry {
		return slices.DeleteFunc(slices.Clone(entries), func(e EpochEntry) bool { return e.StartOffset == end })
	}
	if got := m.log.Epochs(); !m.cutShort && !slices.Equal(withoutEnd(got), withoutEnd(epochs.entries)) {
		return fmt.Errorf("S5: epochs %v, the batches say %v", got, epochs.entries)
	}
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	for _, p := range m.log.mu.producers.byID {
		p.seenMs = 0
	}
	defer func() {
		for _, p := range m.log.mu.producers.byID {
			p.seenMs = time.Now().UnixMilli()
		}
	}()
	if !reflect.DeepEqual(m.log.mu.producers.byID, ps.byID) {
		for id, p := range ps.byID {
			if q := m.log.mu.producers.byID[id]; !m.sameProducer(id, p, q) {
				return fmt.Errorf("S6: producer %d is %+v, the batches say %+v", id, q, p)
			}
		}
		if len(m.log.mu.producers.byID) != len(ps.byID) {
			return fmt.Errorf("S6: the log knows producers that no batch is of")
		}
	}
	m.pids = map[int64]*modelProducer{}
	for _, b := range m.batches {
		m.learn(b)
	}
	return m.checkAborted(m.log.mu.aborted)
}

// checkAborted says that got, the transaction index, has every aborted transaction of the batches, and none besides. Of those that compaction
// may have touched it says nothing, and of those that began below the log start only that they are there.
func (m *model) checkAborted(got []AbortedTxn) error {
	from, ps := max(m.log.Start(), m.compacted), newProducers()
	var want []AbortedTxn
	for _, b := range m.batches {
		if a, ok := ps.apply(b, 0); ok {
			want = append(want, a)
		}
	}
	has := func(list []AbortedTxn, a AbortedTxn) bool {
		return slices.ContainsFunc(list, func(x AbortedTxn) bool {
			return x.ProducerID == a.ProducerID && x.FirstOffset == a.FirstOffset && x.LastOffset == a.LastOffset
		})
	}
	for _, a := range want {
		if a.LastOffset >= m.log.Start() && a.FirstOffset >= m.compacted && !has(got, a) {
			return fmt.Errorf("S6: the transaction index is %v, of the batches %v is missing (start %d, compacted %d)", got, a, m.log.Start(), m.compacted)
		}
	}
	for _, a := range got {
		if a.FirstOffset >= from && !has(want, a) {
			return fmt.Errorf("S6: the transaction index has %v, the batches do not say so (start %d, compacted %d)", a, m.log.Start(), m.compacted)
		}
	}
	return nil
}

// sameProducer compares what the batches say of a producer with what the log knows.
// After a truncation the log may have forgotten batches that were no longer among
// the last five before it, or that compaction has removed, and know an older one in their place; none of
// them can be in flight.
func (m *model) sameProducer(id int64, want, got *producer) bool {
	if got == nil {
		return false
	}
	w := *want
	w.window = nil
	for _, b := range want.window {
		i := slices.IndexFunc(got.window, func(g batchMark) bool { return g.lastOffset == b.lastOffset })
		if i < 0 && (m.cutShort || b.firstOffset() < m.floor[id]) {
			continue
		}
		if i == 0 || i > 0 && (b.lastOffset < m.compacted || m.floor[id] > 0) {
			// Kafka's snapshot has the producer's newest time, which may be a marker's; and the newest record of a
			// batch may have been removed.
			b.tsMs = got.window[i].tsMs
		}
		w.window = append(w.window, b)
	}
	known := slices.DeleteFunc(slices.Clone(got.window), func(g batchMark) bool {
		return (m.cutShort || g.lastOffset < m.floor[id]) && !slices.ContainsFunc(want.window, func(b batchMark) bool { return b.lastOffset == g.lastOffset })
	})
	return slices.Equal(w.window, known) &&
		w.epoch == got.epoch && w.txnFirstOffset == got.txnFirstOffset && (m.compacted > 0 || w.lastTsMs == got.lastTsMs)
}

func (m *model) learn(b record.Batch) {
	p := m.pids[b.ProducerID()]
	if b.ProducerID() < 0 {
		return
	}
	if p == nil {
		p = &modelProducer{}
		m.pids[b.ProducerID()] = p
	}
	if b.ProducerEpoch() != p.epoch {
		*p = modelProducer{epoch: b.ProducerEpoch()}
	}
	if b.Control() {
		p.inTxn = false
		return
	}
	p.inTxn = p.inTxn || b.Transactional()
	p.seq = next32(b.LastSequence())
	p.window = append(p.window, b)
	for len(p.window) > windowBatches || len(p.window) > 0 && (m.cutShort && p.window[0].BaseOffset() < m.compacted || p.window[0].BaseOffset() < m.floor[b.ProducerID()]) {
		p.window = p.window[1:]
	}
}

// read is one of the ways in which the log is read: waiting for the disk, or not, with pages that leave memory meanwhile.
func (m *model) read(from, limit int64, maxBytes int) (Plan, error) {
	copyBytes := m.rnd.IntN(2) * CopyBelow
	if m.rnd.IntN(3) == 0 {
		m.mem.Evict(func(string) bool { return true })
	}
	if m.rnd.IntN(2) == 0 {
		return m.log.Read(from, limit, maxBytes, true, copyBytes)
	}
	return readPatiently(m.reader, m.log, from, limit, maxBytes, copyBytes)
}

// actual reads the log from its start in pieces.
func (m *model) actual() (out []record.Batch, err error) {
	for at := m.log.Start(); at < m.log.End(); {
		p, err := m.read(at, m.log.End(), 1+m.rnd.IntN(5000))
		if err != nil {
			return nil, fmt.Errorf("read at %d: %w", at, err)
		}
		buf, next, err := planBatches(p)
		if err != nil {
			return nil, fmt.Errorf("read at %d: %w", at, err)
		}
		for len(buf) > 0 {
			b, rest, err := record.Parse(buf)
			if err != nil {
				return nil, err
			}
			out, buf = append(out, b), rest
		}
		at = next
	}
	return out, nil
}

// readAll reads the whole log and compares: where no compaction was, every byte, else what it must keep.
func (m *model) readAll() error {
	got, err := m.actual()
	if err != nil {
		return err
	}
	var history []record.Batch
	for _, b := range m.batches {
		if b.LastOffset() >= m.log.Start() {
			history = append(history, b)
		}
	}
	i := len(history)
	for i > 0 && history[i-1].BaseOffset() >= m.compacted {
		i--
	}
	j := len(got)
	for j > 0 && got[j-1].BaseOffset() >= m.compacted {
		j--
	}
	if !slices.EqualFunc(history[i:], got[j:], func(a, b record.Batch) bool { return bytes.Equal(a, b) }) {
		return fmt.Errorf("S1: from offset %d on, where nothing was compacted, the log has other bytes than were appended (%d batches, %d appended)",
			m.compacted, len(got)-j, len(history)-i)
	}
	if i == 0 && j == 0 {
		return nil
	}
	return m.checkCompacted(history, got)
}

// lastBatch is the last batch that begins in p.
func lastBatch(p []byte) (last record.Header, pos int, err error) {
	for at := 0; len(p)-at >= record.HeaderSize; {
		h, err := record.HeaderOf(p[at:])
		if err != nil {
			return nil, at, err
		}
		last, pos = h, at
		at += h.Size()
	}
	if last == nil || pos+last.Size() < len(p) {
		return nil, 0, record.ErrShort // or the first bytes of another one are behind it
	}
	return last, pos, nil
}

// planBatches returns the whole batches of a plan and the offset behind them.
func planBatches(p Plan) ([]byte, int64, error) {
	if p.Len() == 0 {
		return nil, 0, errors.New("the plan is empty")
	}
	defer p.Release()
	buf := slices.Clone(p.Bytes)
	if p.Region.File != nil {
		buf = make([]byte, p.Region.Len)
		if _, err := p.Region.File.ReadAt(buf, p.Region.Off); err != nil {
			return nil, 0, err
		}
	}
	n, next := 0, int64(-1)
	for rest := buf; len(rest) > 0; {
		b, r, err := record.Parse(rest)
		if errors.Is(err, record.ErrShort) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		n, next, rest = n+len(b), b.NextOffset(), r
	}
	if next < 0 {
		return nil, 0, errors.New("no whole batch in the plan")
	}
	return buf[:n], next, nil
}

func (m *model) step() error {
	if m.idle == nil {
		m.idle = rand.New(rand.NewPCG(uint64(m.id[2]), 15))
	}
	if m.idle.IntN(30) == 0 {
		if err := m.closeIdle(); err != nil {
			return err
		}
	}
	if m.quiet == nil {
		m.quiet = rand.New(rand.NewPCG(uint64(m.id[2]), 16))
	}
	if m.quiet.IntN(8) == 0 {
		if err := m.cutExcess(); err != nil {
			return err
		}
	}
	m.nowMs += int64(m.rnd.IntN(3000))
	switch k := m.rnd.IntN(100); {
	case k < 40:
		return m.append()
	case k < 54:
		return m.appendBurst()
	case k < 58:
		m.epoch++
	case k < 66:
		return m.flush()
	case k < 70:
		return m.log.savePoint()
	case k < 75:
		return m.readSome()
	case k < 79:
		return m.lookUpTime()
	case k < 82:
		return m.truncate()
	case k < 85:
		return m.raiseStart()
	case k < 88:
		return m.retain()
	case k < 93:
		return m.compact()
	case k < 94:
		m.dir.removeDoomed(time.Now().Add(time.Duration(m.rnd.IntN(2)) * 2 * time.Hour))
	case k < 95:
		if m.rnd.IntN(3) == 0 {
			return m.readBadDisk()
		}
		m.disk.set(!m.disk.isFull() && m.rnd.IntN(2) == 0, 0)
		m.note("the disk is full: %v", m.disk.isFull())
	case k < 96:
		m.reconfigure()
	case k < 97:
		return m.scrub()
	case k < 98:
		return m.hold()
	default:
		return m.retrySend()
	}
	return nil
}

// reconfigure changes what the log obeys from now on.
func (m *model) reconfigure() {
	m.cfg.SegmentBytes = int64(4000 + m.rnd.IntN(20_000))
	m.cfg.IndexIntervalBytes = int64(m.rnd.IntN(3000))
	m.cfg.FlushMessages = []int64{1, 5, math.MaxInt64}[m.rnd.IntN(3)]
	m.cfg.FlushInterval = []time.Duration{0, time.Millisecond}[m.rnd.IntN(2)]
	m.log.SetConfig(m.cfg)
	m.note("segment.bytes %d, flush.messages %d, flush.ms %v", m.cfg.SegmentBytes, m.cfg.FlushMessages, m.cfg.FlushInterval)
}

// scrub reads what is closed: nothing is damaged, and no index is wrong.
func (m *model) scrub() error {
	m.dir.scrubber.mu.rate = 1 << 40
	before := m.dir.ScrubStats()
	done := m.dir.scrubber.pass(m.rnd.Int())
	if _, err := m.mem.Stat("/"); err != nil {
		return err
	}
	stats, damage := m.dir.ScrubStats(), m.log.Damage()
	m.note("scrub of %d segments", stats.Segments-before.Segments)
	if !done || len(damage) > 0 || stats.Indexes > before.Indexes {
		return fmt.Errorf("S14: nothing is damaged; the scrub (done %v) found %v and %d indexes that do not fit", done, damage, stats.Indexes-before.Indexes)
	}
	return nil
}

// readBadDisk: while the disk does not give some bytes, readers and the cleaner get errors; afterwards everything is as before.
func (m *model) readBadDisk() error {
	m.disk.failReads(1 + m.rnd.IntN(3))
	_, err := m.actual()
	if err == nil && m.rnd.IntN(2) == 0 {
		err = m.lookUpTime()
	}
	if m.cfg.CleanupCompact && m.rnd.IntN(2) == 0 {
		m.commit()
		if c, cerr := m.log.compactable(m.nowMs); cerr == nil {
			m.compacted = max(m.compacted, c.end)
			_, _, cerr = m.log.compact(m.nowMs, keySlotBytes*40, 0.9, &pacer{})
			m.note("compaction on a bad disk: %v", cerr)
		}
	}
	if m.rnd.IntN(2) == 0 {
		m.dir.scrubber.mu.rate = 1 << 40
		m.dir.scrubber.pass(0)
	}
	m.disk.failReads(0)
	m.note("reads on a bad disk: %v; damage %d", err, len(m.log.Damage()))
	if err := m.dir.Err(); err != nil {
		return err
	}
	m.dir.scrubber.mu.rate = 1 << 40
	m.dir.scrubber.pass(0)
	if _, err := m.mem.Stat("/"); err != nil {
		return err
	}
	if d := m.log.Damage(); len(d) > 0 {
		return fmt.Errorf("S14: the disk is well again, and the log still knows of %v", d)
	}
	return m.readAll()
}

// closeIdle closes the log as one that nobody uses, mostly, and opens it again: it is what it was.
func (m *model) closeIdle() error {
	h, old := m.of, m.log
	if m.idle.IntN(4) == 0 { // it changes after its files were written
		now, err := old.leave()
		m.note("left at %d: %v", old.End(), err)
		if err != nil {
			return err
		}
		if err := m.append(); err != nil {
			return err
		}
		if old.End() > now.end.offset && h.close(old, now) {
			return fmt.Errorf("S18: a log was closed that has changed")
		}
		return nil
	}
	closed := m.dir.closeAll([]*Held{h})
	m.note("close at %d: %d", old.End(), closed)
	if closed == 0 {
		return m.dir.Err() // it knows what is written nowhere, or there was no room
	}
	want := Extent{old.Start(), old.End(), old.SizeBytes(), old.Segments(), 0}
	if got := h.Extent(); got != want && want.Segments > 0 {
		return fmt.Errorf("S18: a log that was closed is said to have %+v, it has %+v", got, want)
	}
	l, err := h.Open()
	if errors.Is(err, syscall.EIO) {
		m.note("open a log that was closed, on a disk that fails: %v", err) // who tries later has the log as it was left
		return fmt.Errorf("%w: %w", ErrOffline, err)
	}
	if err != nil {
		return fmt.Errorf("open a log that was closed: %w", err)
	}
	m.log = l
	l.SetCommitted(old.committed.Load())
	if l.End() != old.End() || l.Start() != old.Start() || l.gaps.Load() != old.gaps.Load() {
		return fmt.Errorf("S18: a log that was closed at %d to %d has %d to %d now", old.Start(), old.End(), l.Start(), l.End())
	}
	if m.idle.IntN(2) == 0 {
		return nil
	}
	m.tried = max(m.tried, l.Start())
	return m.check()
}

// cutExcess makes the rounds that cut off what is behind the log end (S19): the second one in a row does it at the latest.
func (m *model) cutExcess() error {
	rounds := 1 + m.quiet.IntN(2)
	left := 0
	for range rounds {
		left = cutRound(m.dir)
	}
	v := m.log.view.Load()
	if err := m.dir.Err(); err != nil || left > 0 || len(v.segments) == 0 {
		m.note("%d rounds of cuts: left %d, %v", rounds, left, err)
		if err == nil && rounds == 2 && left > 0 {
			return errors.New("S19: the log is not cut")
		}
		return err
	}
	last := v.segments[len(v.segments)-1]
	info, err := m.mem.Stat(last.path(logSuffix))
	m.note("%d rounds of cuts: %d bytes", rounds, info.Size)
	if err != nil {
		return err
	}
	if info.Size != last.size.Load() {
		return fmt.Errorf("S19: the file of a quiet log has %d bytes, its batches %d", info.Size, last.size.Load())
	}
	return nil
}

// heldPlan is a read that goes on while the log changes (S8).
type heldPlan struct {
	Plan
	want []byte
}

// hold begins a read, and ends some that were begun.
func (m *model) hold() error {
	for len(m.held) > 3 || len(m.held) > 0 && m.rnd.IntN(3) == 0 {
		h := m.held[0]
		m.held = m.held[1:]
		if err := h.check(); err != nil {
			return err
		}
		h.Release()
	}
	if m.log.Start() == m.log.End() {
		return nil
	}
	at := m.log.Start() + m.rnd.Int64N(m.log.End()-m.log.Start())
	p, err := m.log.Read(at, m.log.End(), 1+m.rnd.IntN(20_000), true, m.rnd.IntN(2)*CopyBelow)
	if err != nil || p.Len() == 0 {
		return err
	}
	want := slices.Clone(p.Bytes)
	if p.Region.File != nil {
		want = make([]byte, p.Region.Len)
		if _, err := p.Region.File.ReadAt(want, p.Region.Off); err != nil {
			return err
		}
	}
	m.held = append(m.held, heldPlan{p, want})
	m.note("a read of %d bytes from %d on is held", len(want), at)
	return nil
}

func (h *heldPlan) check() error {
	got := h.Bytes
	if h.Region.File != nil {
		got = make([]byte, h.Region.Len)
		if _, err := h.Region.File.ReadAt(got, h.Region.Off); err != nil {
			return fmt.Errorf("S8: a read that was held: %w", err)
		}
	}
	if !bytes.Equal(got, h.want) {
		return fmt.Errorf("S8: a read from offset %d that was held gives other bytes now", h.BaseOffset)
	}
	return nil
}

// checkHeld looks at the reads that are held, as long as there is power.
func (m *model) checkHeld() error {
	for _, h := range m.held {
		if err := h.check(); err != nil && !errors.Is(err, vfs.ErrPowerLoss) {
			return err
		}
	}
	return nil
}

func (m *model) releaseHeld() error {
	err := m.checkHeld()
	for _, h := range m.held {
		h.Release()
	}
	m.held = nil
	return err
}

// commit lets the high watermark rise to where it may be.
func (m *model) commit() {
	defer func() { m.committed = max(m.committed, m.log.committed.Load()) }()
	top := m.log.Flushed()
	if !m.cfg.FlushPolicy() && m.rnd.IntN(2) == 0 {
		top = m.log.End() // then nobody waits for the disk
	}
	m.log.SetCommitted(top - m.rnd.Int64N(top+1)*int64(m.rnd.IntN(2))/8)
}

func (m *model) raiseStart() error {
	m.commit()
	top := m.log.committed.Load()
	to := min(m.log.Start()+m.rnd.Int64N(30), top)
	m.tried = max(m.tried, to)
	err := m.log.RaiseStart(to)
	m.note("raise start to %d: %v", to, err)
	if err != nil {
		return err
	}
	if m.log.Start() < to {
		return fmt.Errorf("S12: start is %d after it was raised to %d", m.log.Start(), to)
	}
	m.start = m.log.Start()
	if _, err := m.log.Read(to-1, m.log.End(), 1, true, 0); !errors.Is(err, ErrOffsetRange) {
		return fmt.Errorf("read below the start: %v", err)
	}
	return nil
}

func (m *model) retain() error {
	m.commit()
	m.tried = max(m.tried, m.log.committed.Load())
	bytes, err := m.log.retain(m.nowMs)
	m.note("retention took %d bytes, start %d: %v", bytes, m.log.Start(), err)
	if err != nil {
		return err
	}
	m.start = m.log.Start()
	return m.readAll()
}

func (m *model) compact() error {
	if !m.cfg.CleanupCompact {
		return nil
	}
	m.commit()
	for range 1 + m.rnd.IntN(3) {
		c, err := m.log.compactable(m.nowMs)
		if err != nil {
			return err
		}
		m.compacted = max(m.compacted, c.end)
		stats, done, err := m.log.compact(m.nowMs, int64(keySlotBytes*(8+m.rnd.IntN(40))), 0.9, &pacer{})
		m.note("compaction of %d to %d: %v %+v %v", c.dirty, c.end, done, stats, err)
		if err != nil {
			return err
		}
	}
	return m.readAll()
}

func (m *model) newBatch(pid int64) record.Batch {
	b := record.NewBuilder(record.Codec(m.rnd.IntN(5)))
	b.ProducerID = pid
	ts := m.nowMs - int64(m.rnd.IntN(5000))
	for n := 1 + m.rnd.IntN(4); n > 0; n-- {
		value := make([]byte, m.rnd.IntN(700))
		fill(m.rnd, value)
		if m.rnd.IntN(5) == 0 {
			value = nil // a tombstone
		}
		b.Add(ts+int64(m.rnd.IntN(2000)), []byte{byte(m.rnd.IntN(12))}, value)
	}
	if p := m.pids[pid]; pid >= 0 {
		b.ProducerEpoch, b.BaseSequence = 0, 0
		if p != nil {
			b.ProducerEpoch, b.BaseSequence = p.epoch, p.seq
			b.Transactional = p.inTxn
		}
		if p == nil || !p.inTxn {
			b.Transactional = m.rnd.IntN(4) == 0
		}
	}
	out, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return out
}

func (m *model) append() error {
	pid := int64(m.rnd.IntN(5)) - 1
	b := m.newBatch(pid)
	if p := m.pids[pid]; p != nil && p.inTxn && m.rnd.IntN(3) == 0 {
		kind := record.ControlType(m.rnd.IntN(2))
		marker, err := record.NewEndMarker(record.EndMarker{Type: kind, CoordinatorEpoch: 1}, pid, p.epoch, m.nowMs)
		if err != nil {
			return err
		}
		b = marker
	} else if p != nil && !p.inTxn && m.rnd.IntN(10) == 0 {
		*p = modelProducer{epoch: p.epoch + 1}
		b = m.newBatch(pid)
	}
	return m.appendBatch(b)
}

func (m *model) appendBatch(b record.Batch) error {
	a, err := m.log.Append(b, AppendOptions{LeaderEpoch: m.epoch, NowMs: m.nowMs})
	m.note("append %d bytes of producer %d epoch %d seq %d at %d: %v", len(b), b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), a.BaseOffset, err)
	if err != nil {
		if m.dir.Err() == nil {
			if errors.Is(err, ErrNoSpace) && m.disk.isFull() {
				b.SetBaseOffset(m.modelEnd())
				b.SetLeaderEpoch(m.epoch)
				m.refused = append(m.refused, b)
				return nil
			}
			return fmt.Errorf("append refused: %w", err)
		}
		// A write that failed may still be on the disk after the power is back; nothing after it can be.
		b.SetBaseOffset(m.modelEnd())
		b.SetLeaderEpoch(m.epoch)
		m.batches = append(m.batches, b)
		return err
	}
	if a.Duplicate || a.BaseOffset != m.modelEnd() {
		return fmt.Errorf("S1: appended at %d (duplicate %v), expected %d", a.BaseOffset, a.Duplicate, m.modelEnd())
	}
	m.batches = append(m.batches, b)
	m.forgetRefused()
	m.learn(b)
	return nil
}

// appendBurst appends several batches together, with a repeated one or one out of sequence among them at times.
func (m *model) appendBurst() error {
	if m.disk.isFull() {
		return m.append()
	}
	before := map[int64]*modelProducer{}
	for id, p := range m.pids {
		c := *p
		c.window = slices.Clone(p.window)
		before[id] = &c
	}
	var entries []Entry
	var want []record.Batch // nil: out of sequence
	end, last := m.modelEnd(), -1
	for range 2 + m.rnd.IntN(12) {
		pid := int64(m.rnd.IntN(3)) - 1
		b := m.newBatch(pid)
		p := m.pids[pid]
		known := p != nil && len(p.window) > 0
		switch {
		case known && m.rnd.IntN(8) == 0:
			old := p.window[m.rnd.IntN(len(p.window))]
			b = append(record.Batch{}, old...)
			want = append(want, old)
		case known && m.rnd.IntN(8) == 0:
			gap := record.NewBuilder(record.None)
			gap.ProducerID, gap.ProducerEpoch, gap.BaseSequence, gap.Transactional = pid, p.epoch, next32(next32(p.seq)), b.Transactional()
			gap.Add(m.nowMs, nil, nil)
			var err error
			if b, err = gap.Finish(); err != nil {
				return err
			}
			want = append(want, nil)
		default:
			b.SetBaseOffset(end)
			m.learn(b)
			end, last = b.NextOffset(), len(entries)
			want = append(want, b)
		}
		entries = append(entries, Entry{Batch: b, Options: AppendOptions{LeaderEpoch: m.epoch, NowMs: m.nowMs}})
	}
	m.log.AppendAll(entries)
	m.note("append %d batches at %d, the end is to be %d", len(entries), m.modelEnd(), end)
	end = m.modelEnd()
	for i := range entries {
		e, fresh := &entries[i], want[i] != nil && &want[i][0] == &entries[i].Batch[0]
		switch {
		case want[i] == nil:
			if !errors.Is(e.Err, ErrOutOfOrder) && m.dir.Err() == nil {
				return fmt.Errorf("S6: entry %d, out of sequence, was answered with %+v, %v", i, e.At, e.Err)
			}
		case e.Err != nil && m.dir.Err() != nil:
			// As in appendBatch: what should have been written may be on the disk, from its beginning on.
			m.pids = before
			for j := i; j <= last; j++ {
				if b := entries[j].Batch; want[j] != nil && &want[j][0] == &b[0] {
					b.SetBaseOffset(end)
					b.SetLeaderEpoch(m.epoch)
					m.batches, end = append(m.batches, b), b.NextOffset()
				}
			}
			return e.Err
		case e.Err != nil || e.At.Duplicate == fresh || e.At.BaseOffset != want[i].BaseOffset() || e.At.LastOffset != want[i].LastOffset():
			return fmt.Errorf("S1: entry %d was answered with %+v, %v; expected %d, repeated %v", i, e.At, e.Err, want[i].BaseOffset(), !fresh)
		case fresh:
			if e.At.BaseOffset != end {
				return fmt.Errorf("S1: entry %d is at %d, expected %d", i, e.At.BaseOffset, end)
			}
			m.batches, end = append(m.batches, e.Batch), e.Batch.NextOffset()
		}
	}
	if last >= 0 {
		m.forgetRefused()
	}
	return nil
}

// retrySend repeats a batch that the producer sent before, or leaves one out.
func (m *model) retrySend() error {
	for pid := range int64(4) {
		p := m.pids[pid]
		if p == nil || len(p.window) == 0 || m.rnd.IntN(3) == 0 {
			continue
		}
		old := p.window[m.rnd.IntN(len(p.window))]
		again := append(record.Batch{}, old...)
		a, err := m.log.Append(again, AppendOptions{LeaderEpoch: m.epoch, NowMs: m.nowMs})
		if err != nil && m.dir.Err() != nil {
			return err
		}
		if err != nil || !a.Duplicate || a.BaseOffset != old.BaseOffset() || a.LastOffset != old.LastOffset() {
			return fmt.Errorf("S6: repeated batch of producer %d at %d was answered with %+v, %v", pid, old.BaseOffset(), a, err)
		}
		skipped := m.newBatch(pid)
		b := record.NewBuilder(record.None)
		b.ProducerID, b.ProducerEpoch, b.BaseSequence, b.Transactional = pid, p.epoch, next32(next32(p.seq)), skipped.Transactional()
		b.Add(m.nowMs, nil, nil)
		gap, err := b.Finish()
		if err != nil {
			return err
		}
		if _, err := m.log.Append(gap, AppendOptions{LeaderEpoch: m.epoch, NowMs: m.nowMs}); !errors.Is(err, ErrOutOfOrder) && m.dir.Err() == nil {
			return fmt.Errorf("S6: a gap in the sequence of producer %d was answered with %v", pid, err)
		}
		return nil
	}
	return nil
}

func (m *model) flush() error {
	end := m.log.End()
	m.log.RequestFlush(end)
	for m.log.Flushed() < end {
		if err := m.dir.Err(); err != nil {
			return err
		}
		time.Sleep(10 * time.Microsecond)
	}
	m.safe = max(m.safe, m.log.Flushed())
	m.note("flushed %d", m.safe)
	return nil
}

func (m *model) readSome() error {
	batches, err := m.actual()
	if err != nil || len(batches) == 0 {
		return err
	}
	find := func(at int64) (record.Batch, bool) {
		i := slices.IndexFunc(batches, func(b record.Batch) bool { return b.LastOffset() >= at })
		if i < 0 {
			return nil, false
		}
		return batches[i], true
	}
	at := m.log.Start() + m.rnd.Int64N(m.log.End()-m.log.Start())
	p, err := m.read(at, m.log.End(), 1)
	if err != nil {
		return fmt.Errorf("read at %d: %w", at, err)
	}
	got, _, err := planBatches(p)
	if b, ok := find(at); err != nil || !ok || !bytes.Equal(got, b) {
		return fmt.Errorf("S7: read at %d gave other bytes than the batch at %d: %w", at, b.BaseOffset(), err)
	}
	limit := batches[m.rnd.IntN(len(batches))].BaseOffset()
	p, err = m.read(at, limit, 1<<20)
	if err != nil {
		return err
	}
	if b, ok := find(at); at < limit && ok && b.BaseOffset() < limit {
		_, next, err := planBatches(p)
		if err != nil || next > limit {
			return fmt.Errorf("read from %d with limit %d reached %d: %w", at, limit, next, err)
		}
	} else if p.Len() > 0 {
		return fmt.Errorf("read from %d with limit %d is not empty", at, limit)
	}
	return nil
}

func (m *model) lookUpTime() error {
	want := m.nowMs - int64(m.rnd.IntN(40_000))
	var expected *record.Record
	newest := int64(-1)
	var newestAt int64
	batches, err := m.actual()
	if err != nil {
		return err
	}
	for _, b := range batches {
		err := b.Each(0, func(r record.Record) error {
			if r.Offset < m.log.Start() {
				return nil
			}
			if r.TimestampMs >= want && expected == nil {
				expected = &record.Record{Offset: r.Offset, TimestampMs: r.TimestampMs}
			}
			if r.TimestampMs > newest {
				newest, newestAt = r.TimestampMs, r.Offset
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	got, ok, err := m.log.ByTimestamp(want, m.log.End())
	if err != nil {
		return err
	}
	if ok != (expected != nil) || ok && (got.Offset != expected.Offset || got.TimestampMs != expected.TimestampMs) {
		return fmt.Errorf("S7: by time %d found %+v %v, expected %+v", want, got, ok, expected)
	}
	got, ok, err = m.log.MaxTimestamp()
	if err != nil {
		return err
	}
	if ok && (got.Offset != newestAt || got.TimestampMs != newest) || ok != (newest >= 0) {
		return fmt.Errorf("S7: max timestamp found %+v %v, expected %d at %d", got, ok, newest, newestAt)
	}
	return nil
}

func (m *model) truncate() error {
	if len(m.batches) == 0 {
		return nil
	}
	i := max(0, len(m.batches)-1-m.rnd.IntN(10))
	to := m.batches[i].BaseOffset()
	if to < m.start || m.disk.isFull() {
		return nil
	}
	if m.compacted > 0 && to < m.committed {
		return nil // nothing that is committed is ever cut off, and only that is compacted
	}
	m.log.committed.Store(min(m.log.committed.Load(), to))
	// Who reads what is cut off reads what was never committed.
	m.held = slices.DeleteFunc(m.held, func(h heldPlan) bool {
		b, _, err := lastBatch(h.want)
		cut := err != nil || b.NextOffset() > to
		if cut {
			h.Release()
		}
		return cut
	})
	before := maps.Clone(m.floor)
	for id, p := range m.pids {
		m.floor[id] = to
		if len(p.window) > 0 {
			m.floor[id] = min(to, p.window[0].BaseOffset())
		}
	}
	err := m.log.Truncate(to)
	m.note("truncate to %d: %v", to, err)
	m.safe = min(m.safe, to)
	if err != nil {
		m.cutShort = m.cutShort || m.compacted > 0
		// The cut may not have happened: what an earlier one made the log forget is still forgotten.
		for id, floor := range before {
			m.floor[id] = max(m.floor[id], floor)
		}
		return err
	}
	m.batches, m.refused = m.batches[:i], nil
	m.pids = map[int64]*modelProducer{}
	for _, b := range m.batches {
		m.learn(b)
	}
	m.safe = to
	if m.log.End() != to || m.log.Flushed() != to {
		return fmt.Errorf("S2: after truncation to %d the log ends at %d, flushed %d", to, m.log.End(), m.log.Flushed())
	}
	m.log.mu.Lock()
	err = m.checkAborted(m.log.mu.aborted)
	m.log.mu.Unlock()
	if err != nil {
		return err
	}
	return m.readAll()
}

func fill(rnd *rand.Rand, p []byte) {
	for i := range p {
		p[i] = byte(rnd.Uint32())
	}
}
