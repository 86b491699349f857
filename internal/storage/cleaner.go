package storage

import (
	"errors"
	"math"
	"sync"
	"time"
)

// cleaner is the one goroutine that compacts the logs of a log dir, the one with the largest share of
// dirty bytes first. It shares nothing with retention, which must not wait for a long compaction. A log that
// cannot be compacted is marked and left alone until the next start; the others go on.
type cleaner struct {
	dir  *Dir
	wake chan struct{} // capacity 1: the configuration changed
	stop chan struct{}
	mu   struct {
		sync.Mutex // guards the following; a leaf
		cfg        Cleaning
		started    bool
		stats      CleanStats
	}
	wg sync.WaitGroup
}

// CleanStats is what retention and compaction have done in a log dir since its opening.
type CleanStats struct {
	RetainedBytes   int64 // in segments that retention took
	Compactions     int64 // passes that ended
	ReadBytes       int64 // by compaction
	WrittenBytes    int64
	RecordsRead     int64
	RecordsKept     int64
	CompactionTime  time.Duration
	MaxDirtyRatio   float64 // of the logs that are compacted, when they were looked at last
	UncleanableLogs int
}

func newCleaner(d *Dir) *cleaner {
	return &cleaner{dir: d, wake: make(chan struct{}, 1), stop: make(chan struct{})}
}

// CleanStats returns the figures of now.
func (d *Dir) CleanStats() CleanStats {
	d.cleaner.mu.Lock()
	s := d.cleaner.mu.stats
	d.cleaner.mu.Unlock()
	d.housekeeper.mu.Lock()
	s.RetainedBytes = d.housekeeper.mu.removed
	d.housekeeper.mu.Unlock()
	for _, l := range d.openLogs() {
		if l.Uncleanable() != nil {
			s.UncleanableLogs++
		}
	}
	return s
}

// Uncleanable says why the log is not compacted any more, or nil.
func (l *Log) Uncleanable() error {
	if p := l.unclean.Load(); p != nil {
		return *p
	}
	return nil
}

func (c *cleaner) configure(cfg Cleaning) {
	c.mu.Lock()
	same := c.mu.started && c.mu.cfg == cfg
	start := !c.mu.started
	c.mu.cfg, c.mu.started = cfg, true
	c.mu.Unlock()
	if same {
		return
	}
	if start {
		c.wg.Add(1)
		go c.startWork()
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *cleaner) config() Cleaning {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.cfg
}

func (c *cleaner) startWork() {
	defer c.wg.Done()
	timer := time.NewTimer(c.config().InitialDelay)
	defer timer.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-c.wake:
		case <-timer.C:
		}
		for c.config().Compact && c.compactOne() {
		}
		timer.Reset(max(c.config().CompactBackoff, time.Millisecond))
	}
}

// compactOne compacts the log that needs it most and reports whether there was one, and no reason to wait.
func (c *cleaner) compactOne() bool {
	h, l := c.dirtiest(time.Now().UnixMilli())
	if l == nil {
		return false
	}
	defer h.Done()
	cfg, begun := c.config(), time.Now()
	pace := &pacer{stop: c.stop, perSecond: func() float64 { return c.config().BytesPerSecond }}
	stats, done, err := l.compact(begun.UnixMilli(), cfg.DedupeBytes, cfg.LoadFactor, pace)
	took := time.Since(begun)
	c.mu.Lock()
	s := &c.mu.stats
	s.ReadBytes += stats.readBytes
	s.WrittenBytes += stats.writtenBytes
	s.RecordsRead += stats.records
	s.RecordsKept += stats.kept
	s.CompactionTime += took
	if err == nil && done {
		s.Compactions++
	}
	c.mu.Unlock()
	d := c.dir
	switch {
	case err == nil:
		d.log.Debug("log was compacted", "partition", l.tp.String(), "readBytes", stats.readBytes, "writtenBytes", stats.writtenBytes,
			"records", stats.records, "kept", stats.kept, "keys", stats.keys, "mapBytes", stats.mapBytes, "tookMs", took.Milliseconds())
		if err := d.writeCleaned(); err != nil && d.offline() == nil {
			d.log.Warn("cleaner offsets could not be written for Kafka; ours are in the manifest", "error", err)
		}
		return done
	case errors.Is(err, errInterrupted), errors.Is(err, ErrOffline), l.Err() != nil:
		return false
	case errors.Is(err, ErrNoSpace):
		d.log.Warn("log could not be compacted for want of room; it is tried again", "partition", l.tp.String(), "error", err)
		return false
	}
	l.unclean.Store(&err)
	d.log.Error("log is not compacted any more until the broker is restarted", "partition", l.tp.String(), "error", err)
	return true
}

// dirtiest returns the log that is to be compacted next, with a use that is to be ended, or nil: one of those that are due, the
// largest share of dirty bytes first.
func (c *cleaner) dirtiest(nowMs int64) (of *Held, best *Log) {
	ratio, largest := -1.0, 0.0
	for _, h := range c.dir.held() {
		select {
		case <-c.stop:
			if of != nil {
				of.Done()
			}
			return nil, nil
		default:
		}
		if !h.Config().CleanupCompact {
			continue
		}
		l := h.useFor((*manifestEntry).compactable)
		if l == nil {
			continue
		}
		what := c.look(l, nowMs)
		largest = math.Max(largest, what.ratio())
		if !what.due() || what.ratio() <= ratio {
			h.Done()
			continue
		}
		if of != nil {
			of.Done()
		}
		of, best, ratio = h, l, what.ratio()
	}
	c.mu.Lock()
	c.mu.stats.MaxDirtyRatio = largest
	c.mu.Unlock()
	return of, best
}

// look says what there is to compact in a log, nothing if it cannot be compacted.
func (c *cleaner) look(l *Log, nowMs int64) (what compactable) {
	if l.Uncleanable() != nil || l.Err() != nil {
		return what
	}
	what, err := l.compactable(nowMs)
	if err == nil {
		return what
	}
	if !errors.Is(err, ErrClosed) {
		l.unclean.Store(&err)
		c.dir.log.Error("log is not compacted any more until the broker is restarted", "partition", l.tp.String(), "error", err)
	}
	return compactable{}
}

func (c *cleaner) close() {
	close(c.stop)
	c.wg.Wait()
}
