package storage

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// scrubber is the one goroutine that reads the segments of a log dir, so that damage on the disk is found before a
// consumer finds it: closed ones, and of the last one what is below Flushed. It reads slowly and one piece at a time, and drops from the page cache what it alone has brought there. A
// pass begins at a random log, because how far it came is forgotten when the broker stops; what it found is not.
//
// A segment that nobody reads is read from the disk. Of one that is in the page cache the cached bytes are checked, which
// are those that readers get.
type scrubber struct {
	dir  *Dir
	wake chan struct{} // capacity 1: the rate changed, or something is suspect
	stop chan struct{}
	mu   struct {
		sync.Mutex       // guards the following; a leaf
		rate       int64 // bytes per second, 0: off
		started    bool
		suspects   []suspect // looked at first
		stats      ScrubStats
	}
	wg sync.WaitGroup
}

// suspect is a segment in which somebody has met damage.
type suspect struct {
	log *Log
	seg *segment
}

// maxSuspects bounds what waits; the pass finds the rest.
const maxSuspects = 100

// scrubEvery is the time from the beginning of one pass to that of the next, unless a pass takes longer.
const scrubEvery = 24 * time.Hour

// scrubDelay keeps the scrub from a broker that has just started.
const scrubDelay = time.Minute

// ScrubStats is what the scrub of a log dir has done since its opening.
type ScrubStats struct {
	ReadBytes int64   // of segments
	Segments  int64   // that were checked
	Passes    int64   // that ended
	Indexes   int64   // and other derived files that did not fit their segment and were put in order
	Progress  float64 // of the pass under way, 0 to 1; 1 between passes
}

func newScrubber(d *Dir) *scrubber {
	return &scrubber{dir: d, wake: make(chan struct{}, 1), stop: make(chan struct{})}
}

// Scrub begins to check the segments in the background at a rate in bytes per second, or changes the rate; 0 suspends it.
func (d *Dir) Scrub(bytesPerSecond int64) {
	s := d.scrubber
	s.mu.Lock()
	same := s.mu.started && s.mu.rate == bytesPerSecond
	start := !s.mu.started
	s.mu.rate, s.mu.started = bytesPerSecond, true
	s.mu.Unlock()
	if start {
		s.wg.Add(1)
		go s.startWork()
	} else if !same {
		s.poke()
	}
}

// ScrubStats returns the figures of now.
func (d *Dir) ScrubStats() ScrubStats {
	s := d.scrubber
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.stats
}

func (s *scrubber) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// suspect has a segment looked at before all others, also between passes. It never waits.
func (s *scrubber) suspect(l *Log, seg *segment) {
	s.mu.Lock()
	x := suspect{l, seg}
	known := len(s.mu.suspects) >= maxSuspects || slices.Contains(s.mu.suspects, x)
	if !known {
		s.mu.suspects = append(s.mu.suspects, x)
	}
	s.mu.Unlock()
	if !known {
		s.poke()
	}
}

func (s *scrubber) rate() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.rate
}

func (s *scrubber) startWork() {
	defer s.wg.Done()
	next := time.Now().Add(scrubDelay)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Until(next))
		due := timer.C
		if s.rate() <= 0 {
			due = nil // the next rate wakes it
		}
		select {
		case <-s.stop:
			return
		case <-s.wake:
		case <-due:
		}
		if s.rate() <= 0 {
			continue
		}
		if s.lookAtSuspects(); time.Now().Before(next) {
			continue
		}
		if begun := time.Now(); s.pass(rand.Int()) {
			next = begun.Add(scrubEvery)
		}
	}
}

// lookAtSuspects checks what somebody else has met.
func (s *scrubber) lookAtSuspects() {
	for {
		s.mu.Lock()
		if len(s.mu.suspects) == 0 {
			s.mu.Unlock()
			return
		}
		x := s.mu.suspects[0]
		s.mu.suspects = s.mu.suspects[1:]
		s.mu.Unlock()
		if !s.segment(x.log, x.seg) {
			return
		}
	}
}

// pass checks every segment once, from the start-th log on, and reports whether it came to the end.
func (s *scrubber) pass(start int) bool {
	logs := s.dir.held()
	slices.SortFunc(logs, func(a, b *Held) int {
		return cmp.Or(strings.Compare(a.tp.Topic, b.tp.Topic), cmp.Compare(a.tp.Partition, b.tp.Partition))
	})
	total, done := int64(0), int64(0)
	for _, h := range logs {
		total += h.Extent().Bytes
	}
	s.progress(0)
	for i := range logs {
		h := logs[(start%len(logs)+i)%len(logs)]
		l := h.useFor((*manifestEntry).hasClosed)
		if l == nil {
			switch good, err := s.resting(h); {
			case errors.Is(err, errInterrupted):
				return false
			case good || err != nil:
				done += h.Extent().Bytes
				s.progress(float64(done) / float64(max(total, 1)))
				continue
			}
			if l, _ = h.use(); l == nil {
				continue // use has said so
			}
		}
		whole := s.log(l, func(bytes int64) {
			done += bytes
			s.progress(float64(done) / float64(max(total, 1)))
		})
		if h.Done(); !whole {
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.stats.Passes++
	s.mu.stats.Progress = 1
	return true
}

// log checks every segment of l, tells the bytes of each, and reports whether it came to the end.
func (s *scrubber) log(l *Log, checked func(bytes int64)) bool {
	for _, seg := range l.view.Load().segments {
		s.lookAtSuspects()
		if !s.segment(l, seg) {
			return false
		}
		checked(seg.size.Load())
	}
	return true
}

// resting checks the one segment of a log that nobody has opened since a stop. Where it is not good the log is opened, and looked at
// as others are.
func (s *scrubber) resting(h *Held) (good bool, err error) {
	e := s.dir.manifest.entry(h.key())
	if e == nil {
		return true, nil
	}
	pt, _ := e.decode()
	if pt == nil || pt.pos == 0 {
		return true, nil
	}
	f, err := s.dir.fs.Open(path.Join(h.Path(), segmentFile(pt.segment, logSuffix)), vfs.ReadOnly)
	if err != nil {
		return false, nil // Open says what is wrong, or the topic was deleted
	}
	defer f.Close()
	f.Advise(0, 0, vfs.Random)
	polite, known := &politeFile{File: f, s: s}, epochs{entries: pt.epochs}
	w := &walk{file: polite, size: pt.pos, next: pt.segment, limit: pt.offset, gaps: e.cleaned().gaps, epoch: known.at}
	good = true
	err = w.run(func(record.Header, int64) error { return nil }, func(Damage) error {
		good = false // protection: scrub of what nobody opens
		return nil
	})
	polite.drop()
	if err == nil && good {
		s.mu.Lock()
		s.mu.stats.Segments++
		s.mu.Unlock()
	}
	return good, err
}

func (s *scrubber) progress(share float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.stats.Progress = min(share, 1)
}

// segment checks one segment, unless nothing of it is flushed or it has left its log. It reports false if the scrubber is to stop.
func (s *scrubber) segment(l *Log, seg *segment) bool {
	err := s.check(l, seg)
	switch {
	case err == nil:
		s.mu.Lock()
		s.mu.stats.Segments++
		s.mu.Unlock()
	case errors.Is(err, errInterrupted):
		return false
	case errors.Is(err, errNotClosed), seg.retired(), l.Err() != nil:
	default:
		s.dir.log.Warn("segment could not be checked; it is tried again in the next pass", "partition", l.tp.String(), "file", seg.path(logSuffix), "error", err)
	}
	return true
}

// errNotClosed says that there is nothing in the segment that has to stay as it is.
var errNotClosed = errors.New("the segment has left its log, or nothing of it is flushed")

func (s *scrubber) check(l *Log, seg *segment) error {
	v := l.view.Load()
	i := slices.Index(v.segments, seg)
	safe := l.safe.Load()
	if i < 0 || i < len(v.segments)-1 && v.segments[i+1].base <= v.logStart && seg.damaged.Load() == nil {
		return errNotClosed // below the log start only damage is looked at again: while it is known, truncations are refused
	}
	if i == len(v.segments)-1 && (safe.seg != seg || safe.pos == 0) {
		return errNotClosed
	}
	// An index that is only in memory yet is written first, so that there is one to compare, and so that what is wrong with it is mended.
	saved := l.saveIndex(seg)
	// A descriptor of its own: advice holds for a descriptor, and readers want other advice.
	f, err := s.dir.fs.Open(seg.path(logSuffix), vfs.ReadOnly)
	if err != nil {
		return err
	}
	defer f.Close()
	f.Advise(0, 0, vfs.Random) // else the kernel reads ahead, and what it has read would look as if others needed it
	polite := &politeFile{File: f, s: s}
	w := l.walkOf(v, i, polite)
	if i == len(v.segments)-1 {
		// What is flushed changes only by a truncation, and scrubbed looks again.
		w.size, w.limit = safe.pos, safe.offset
	}
	var found damages
	index, txns := newIndexCheck(seg), newTxnCheck(seg.base) // after the point: what one writes later would look wrong
	err = w.run(func(h record.Header, pos int64) error {
		index.batch(h, pos)
		return txns.batch(polite, h, pos)
	}, func(d Damage) error {
		d.File = seg.path(logSuffix)
		found = append(found, d)
		index.damage(d)
		return nil
	})
	polite.drop()
	if err != nil {
		return err
	}
	if !saved {
		index = nil
	}
	return l.scrubbed(seg, found, index, txns)
}

// scrubbed makes known what a check has found, if it still is so: the log may have changed under the check.
func (l *Log) scrubbed(seg *segment, found damages, index *indexCheck, txns *txnCheck) error {
	l.files.Lock()
	defer l.files.Unlock()
	v := l.view.Load()
	i := slices.Index(v.segments, seg)
	if i < 0 || seg.retired() {
		return errNotClosed
	}
	confirmed := found[:0]
	for _, d := range found {
		if d.Err = l.stillDamaged(v, i, d.Pos, d.End, d.First); d.Err != nil {
			confirmed = append(confirmed, d)
		}
	}
	if err := l.setDamage(seg, confirmed); err != nil { // protection: damage is made known
		return err
	}
	if i == len(v.segments)-1 {
		if len(confirmed) == 0 || l.Err() != nil {
			return nil // its index is in memory
		}
		l.mu.Lock()
		err := l.closeDamagedLocked()
		l.mu.Unlock()
		if err != nil {
			return err
		}
		return l.savePointFiles()
	}
	if index == nil || l.dir.offline() != nil {
		return nil
	}
	if err := l.mendIndex(seg, index); err != nil {
		return err
	}
	if len(confirmed) == 0 {
		if err := l.mendTxnIndex(seg, v.segments[i+1].base, txns); err != nil {
			return err
		}
	}
	return l.mendSnapshot(v.segments[i+1].base)
}

// saveIndex writes the index files of a rolled segment, if no point has done so yet, and says whether they are there.
func (l *Log) saveIndex(seg *segment) bool {
	l.files.Lock() // no point is half way
	defer l.files.Unlock()
	l.mu.Lock()
	unsaved := slices.ContainsFunc(l.mu.seals, func(s sealing) bool { return s.seg == seg })
	l.mu.Unlock()
	return !unsaved || l.savePointFiles() == nil
}

// mendIndex writes the index files of a closed segment anew if they do not fit it: a wrong one hides records.
func (l *Log) mendIndex(seg *segment, index *indexCheck) error {
	why := index.wrong()
	if why == nil {
		return nil
	}
	if seg.damaged.Load() == nil {
		l.dir.log.Warn("index does not fit its segment and is made anew from it", "partition", l.tp.String(), "file", why.File, "pos", why.Pos, "reason", why.Err.Error())
	}
	x := index.fresh()
	for suffix, data := range map[string][]byte{indexSuffix: x.appendOffsets(nil, 0), timeSuffix: x.appendTimes(nil, 0)} {
		name := path.Base(seg.path(suffix))
		if err := writeAtomic(l.dir.fs, l.path, name, data); err != nil {
			return l.dir.failed(err)
		}
	}
	seg.idx.Lock()
	seg.idx.sparse = nil // it is read from the files again
	seg.idx.known = false
	seg.idx.Unlock()
	return l.mended(nil)
}

// pay waits for as long as n bytes take at the rate in force. errInterrupted: the scrubber is to stop, or not to work now.
func (s *scrubber) pay(n int64) error {
	s.mu.Lock()
	s.mu.stats.ReadBytes += n
	s.mu.Unlock()
	for owed := float64(n); owed > 0; {
		rate := float64(s.rate())
		if rate <= 0 {
			return errInterrupted
		}
		step := min(owed, rate) // at most a second, for the rate may change
		owed -= step
		timer := time.NewTimer(time.Duration(step / rate * float64(time.Second)))
		select {
		case <-s.stop:
			timer.Stop()
			return errInterrupted
		case <-timer.C:
		}
	}
	return nil
}

// politeFile is a file that the scrubber reads: slowly, and without pushing from the page cache what others need.
type politeFile struct {
	vfs.File
	s         *scrubber
	cold      bool // the range was read from the disk: nobody else needed it
	off, size int64
}

// ReadAt pays before it reads.
func (f *politeFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.s.pay(int64(len(p))); err != nil {
		return 0, err
	}
	f.drop()
	n, err := f.File.TryReadAt(p, off)
	if blocks := errors.Is(err, vfs.ErrWouldBlock); blocks || errors.Is(err, errors.ErrUnsupported) {
		var k int
		k, err = f.File.ReadAt(p[n:], off+int64(n))
		f.cold = blocks && n <= pageBytes // a page may be left of the range before
		n += k
	}
	f.off, f.size = off, int64(n)
	return n, err
}

// pageBytes is the unit of the page cache.
const pageBytes = 4 << 10

// drop gives up the pages of the last range, if nobody else had needed them.
func (f *politeFile) drop() {
	if f.cold {
		from := f.off &^ (pageBytes - 1)
		f.File.Advise(from, f.off+f.size-from, vfs.DontNeed)
	}
	f.cold = false
}

func (s *scrubber) close() {
	close(s.stop)
	s.wg.Wait()
}

// indexCheck compares the index files of a closed segment with its batches, which come in order, and makes an index anew on the way.
type indexCheck struct {
	seg      *segment
	files    *sparse // what the files say; nil: they cannot be read
	problems []CorruptionError

	at, timeAt int   // first entries that were not met yet
	pending    int64 // last offset that the entry before at names and no batch had yet; -1: none
	last       int64 // last offset so far
	newest     int64 // time of the batches so far that have records
	newestAll  int64
	damaged    bool     // there was damage: what it held is not known
	anew       *segment // holds nothing but an index
}

func newIndexCheck(seg *segment) *indexCheck {
	c := &indexCheck{seg: seg, pending: -1, last: seg.base - 1, newest: -1, newestAll: -1, anew: &segment{base: seg.base}}
	c.anew.idx.sparse, c.anew.idx.maxTsMs = &sparse{}, -1
	c.files = &sparse{}
	for _, suffix := range []string{indexSuffix, timeSuffix} {
		data, found, err := readFile(seg.fs, seg.path(suffix), indexMaxBytes)
		switch {
		case err == nil && !found:
			err = ErrMissing
		case err == nil && suffix == indexSuffix:
			err = c.files.parseOffsets(data, max(seg.size.Load(), 1))
		case err == nil:
			err = c.files.parseTimes(data)
		}
		if err != nil {
			c.problem(suffix, 0, err)
		}
	}
	return c
}

func (c *indexCheck) problem(suffix string, pos int64, err error) {
	c.problems = append(c.problems, CorruptionError{c.seg.path(suffix), pos, err})
}

// batch takes the next good batch.
func (c *indexCheck) batch(h record.Header, pos int64) {
	c.anew.noteHeaderLocked(h, pos, defaultIndexInterval)
	c.entriesBefore(pos)
	if e := c.files.offsets; c.at < len(e) && int64(e[c.at].pos) == pos {
		c.settle()
		c.pending = c.seg.base + int64(e[c.at].rel)
		c.at++
	}
	// One entry may stand for several batches that came at once: it then has the last offset of the last of them.
	if c.pending == h.LastOffset() {
		c.pending = -1
	}
	c.last = h.LastOffset()
	c.newestAll = max(c.newestAll, h.MaxTimestampMs())
	if h.Count() > 0 {
		c.newest = max(c.newest, h.MaxTimestampMs())
	}
	for ; c.timeAt < len(c.files.times) && c.seg.base+int64(c.files.times[c.timeAt].rel) <= c.last; c.timeAt++ {
		if ts := c.files.times[c.timeAt].tsMs; !c.damaged && (ts < c.newest || ts > c.newestAll) {
			c.problem(timeSuffix, int64(c.timeAt)*timeEntryBytes, fmt.Errorf("the newest time up to offset %d is %d, not %d", c.last, c.newest, ts))
		}
	}
}

// entriesBefore goes past the entries that should have been met before byte pos.
func (c *indexCheck) entriesBefore(pos int64) {
	for e := c.files.offsets; c.at < len(e) && int64(e[c.at].pos) < pos; c.at++ {
		c.settle()
		c.problem(indexSuffix, int64(c.at)*offsetEntryBytes, fmt.Errorf("no batch begins at byte %d of the segment", e[c.at].pos))
	}
}

// settle says that the next entry begins.
func (c *indexCheck) settle() {
	if c.pending >= 0 && !c.damaged {
		c.problem(indexSuffix, int64(c.at-1)*offsetEntryBytes, fmt.Errorf("no batch behind byte %d of the segment ends with offset %d", c.files.offsets[c.at-1].pos, c.pending))
	}
	c.pending = -1
}

// damage takes a damaged range. Entries in it mean nothing, and do no harm.
func (c *indexCheck) damage(d Damage) {
	c.entriesBefore(d.Pos)
	c.damaged, c.pending = true, -1
	for e := c.files.offsets; c.at < len(e) && int64(e[c.at].pos) < d.End; {
		c.at++
	}
}

// wrong is what is wrong first, nil if the files fit. Called once, behind the last batch.
func (c *indexCheck) wrong() *CorruptionError {
	c.finish()
	if len(c.problems) == 0 {
		return nil
	}
	return &c.problems[0]
}

func (c *indexCheck) finish() {
	c.entriesBefore(c.seg.size.Load())
	c.settle()
	if n := len(c.files.times); c.timeAt < n && !c.damaged {
		c.problem(timeSuffix, int64(c.timeAt)*timeEntryBytes, fmt.Errorf("offset %d is not in the segment, which ends at %d", c.seg.base+int64(c.files.times[c.timeAt].rel), c.last))
	}
}

// fresh is an index of what was given to batch.
func (c *indexCheck) fresh() *sparse {
	c.anew.finishIndex()
	return c.anew.idx.sparse
}
