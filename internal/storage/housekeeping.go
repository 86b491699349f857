package storage

import (
	"errors"
	"math"
	"sync"
	"time"
)

// Cleaning says how a log dir is kept clean. The zero value of a number means its default.
type Cleaning struct {
	RetentionCheck time.Duration // log.retention.check.interval.ms; 5 min
	StartsInterval time.Duration // log.flush.start.offset.checkpoint.interval.ms; 1 min
	InitialDelay   time.Duration // log.initial.task.delay.ms

	Compact        bool          // log.cleaner.enable
	CompactBackoff time.Duration // log.cleaner.backoff.ms
	DedupeBytes    int64         // log.cleaner.dedupe.buffer.size; 128 MiB
	LoadFactor     float64       // log.cleaner.io.buffer.load.factor
	BytesPerSecond float64       // log.cleaner.io.max.bytes.per.second, reading and writing together; no limit
}

func (c *Cleaning) defaults() {
	setDefault(&c.RetentionCheck, 5*time.Minute)
	setDefault(&c.StartsInterval, time.Minute)
	setDefault(&c.DedupeBytes, 128<<20)
	setDefault(&c.LoadFactor, 0.9)
	setDefault(&c.BytesPerSecond, math.MaxFloat64)
}

// housekeeper is the one goroutine that applies retention in a log dir, removes the files of
// deleted segments and writes down log starts. It does one log after the other, and one
// that fails does not keep it from the next.
type housekeeper struct {
	dir  *Dir
	wake chan struct{} // capacity 1: a file was doomed, or the configuration changed
	stop chan struct{}
	mu   struct {
		sync.Mutex // guards the following; a leaf
		cfg        Cleaning
		started    bool
		removed    int64 // bytes of segments that retention took
	}
	wg sync.WaitGroup
}

func newHousekeeper(d *Dir) *housekeeper {
	return &housekeeper{dir: d, wake: make(chan struct{}, 1), stop: make(chan struct{})}
}

func (h *housekeeper) poke() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Clean starts the cleaning of the log dir, or changes how it is done.
func (d *Dir) Clean(c Cleaning) {
	c.defaults()
	d.cleaner.configure(c)
	h := d.housekeeper
	h.mu.Lock()
	same := h.mu.started && h.mu.cfg == c
	start := !h.mu.started
	h.mu.cfg, h.mu.started = c, true
	h.mu.Unlock()
	if same {
		return
	}
	if start {
		h.wg.Add(1)
		go h.startWork()
		return
	}
	h.poke()
}

func (h *housekeeper) config() Cleaning {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.cfg
}

func (h *housekeeper) startWork() {
	defer h.wg.Done()
	begun := time.Now()
	lastRetention := begun.Add(h.config().InitialDelay - h.config().RetentionCheck)
	lastStarts := begun
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-h.wake:
		case <-timer.C:
		}
		cfg, now := h.config(), time.Now()
		if h.dir.room.full.Load() {
			cfg.RetentionCheck = min(cfg.RetentionCheck, roomFullRetain) // what may go makes room
		}
		next := h.dir.removeDoomed(now)
		if !now.Before(lastRetention.Add(cfg.RetentionCheck)) {
			lastRetention = now
			h.retainAll()
			if h.dir.room.full.Load() {
				h.dir.removeDoomed(now)
			}
		}
		if !now.Before(lastStarts.Add(cfg.StartsInterval)) {
			lastStarts = now
			if err := h.dir.writeStarts(); err != nil && h.dir.offline() == nil {
				h.dir.log.Warn("log start offsets could not be written for Kafka; ours are in the manifest", "error", err)
			}
		}
		for _, at := range []time.Time{lastRetention.Add(cfg.RetentionCheck), lastStarts.Add(cfg.StartsInterval)} {
			if next.IsZero() || at.Before(next) {
				next = at
			}
		}
		timer.Reset(time.Until(next))
	}
}

// retainAll applies retention to every log.
func (h *housekeeper) retainAll() {
	for _, held := range h.dir.held() {
		select {
		case <-h.stop:
			return
		default:
		}
		l := held.useFor((*manifestEntry).retainable)
		if l == nil {
			continue
		}
		bytes, err := l.retain(time.Now().UnixMilli())
		held.Done()
		h.mu.Lock()
		h.mu.removed += bytes
		h.mu.Unlock()
		if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrOffline) {
			h.dir.log.Warn("old segments could not be deleted; it is tried again at the next check", "partition", l.tp.String(), "error", err)
		}
	}
}

func (h *housekeeper) close() {
	close(h.stop)
	h.wg.Wait()
}
