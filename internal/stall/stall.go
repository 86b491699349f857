// Package stall notices that this process stood still, and keeps what its scheduler did just before. It alone knows
// Go's flight recorder and the files that it leaves.
//
// Two things are a stall: the watcher's own timer fires late (no processor for a goroutine that is ready: a container
// without its share, a stopped process, a garbage collection that waits for somebody), and a request whose own work took
// too long (Slow). Waiting for the disk's flush, for data, for other clients is none of it: those have a stage of their own.
//
// Door: Start, Detector.Slow, Detector.Count, Detector.Close.
//
// Invariants:
//  1. Slow never waits, and costs a comparison unless it is a stall.
//  2. There are at most maxFiles files and maxBytes bytes of traces, the newest; one a minute at most.
//  3. A stall that cannot be recorded is told all the same.
package stall

import (
	"fmt"
	"log/slog"
	"runtime/trace"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"moldau/internal/vfs"
)

const (
	maxFiles     = 8
	maxBytes     = 64 << 20
	maxFileBytes = 16 << 20
	leaveFree    = 256 << 20 // of the volume: a trace is worth less than what else is written there
	traceEvery   = time.Minute
	logEvery     = 10 * time.Second

	window      = 10 * time.Second // of the scheduler's doings that a trace shows
	windowBytes = 4 << 20          // or as much as this holds
)

// Options says what a stall is. FS, Dir and Log are required.
type Options struct {
	Threshold time.Duration // what takes longer is a stall
	Record    bool          // keep a flight recorder, and write its trace
	FS        vfs.FS
	Dir       string // of the traces; made when the first is written
	Log       *slog.Logger
}

// Detector watches until Close. A nil one notices nothing.
type Detector struct {
	o        Options
	recorder *trace.FlightRecorder // nil: nothing is recorded
	events   chan event
	stop     chan struct{}
	wg       sync.WaitGroup
	counts   [kinds]atomic.Int64

	// The watcher's:
	nextLog, nextTrace time.Time
	silent             int
}

// Kind is what stood still.
type Kind int

const (
	Scheduler Kind = iota
	Request
	kinds
)

func (k Kind) String() string { return [kinds]string{"scheduler", "request"}[k] }

type event struct {
	kind Kind
	what string
	took time.Duration
}

// Start begins to watch. Only one detector of a process can record: a further one only tells.
func Start(o Options) *Detector {
	d := &Detector{o: o, events: make(chan event, 1), stop: make(chan struct{})}
	if o.Record {
		r := trace.NewFlightRecorder(trace.FlightRecorderConfig{MinAge: window, MaxBytes: windowBytes})
		if err := r.Start(); err != nil {
			o.Log.Warn("stalls are not recorded", "error", err)
		} else {
			d.recorder = r
		}
	}
	d.wg.Add(1)
	go d.startWatching()
	return d
}

// Close ends the watcher and the recorder.
func (d *Detector) Close() {
	if d == nil {
		return
	}
	close(d.stop)
	d.wg.Wait()
	if d.recorder != nil {
		d.recorder.Stop()
	}
}

// Slow tells that the own work of a request of api took so long.
func (d *Detector) Slow(api string, took time.Duration) {
	if d == nil || took <= d.o.Threshold {
		return
	}
	d.counts[Request].Add(1)
	select {
	case d.events <- event{Request, api, took}:
	default: // one is being told
	}
}

// Count is how many stalls of a kind there were.
func (d *Detector) Count(k Kind) int64 {
	if d == nil {
		return 0
	}
	return d.counts[k].Load()
}

func (d *Detector) startWatching() {
	defer d.wg.Done()
	period := max(d.o.Threshold/2, 10*time.Millisecond)
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-d.stop:
			return
		case e := <-d.events:
			d.stalled(e, time.Now())
			ticker.Reset(period)
		case <-ticker.C:
			if late := time.Since(last) - period; late > d.o.Threshold {
				d.counts[Scheduler].Add(1)
				d.stalled(event{Scheduler, "", late}, time.Now())
				ticker.Reset(period)
			}
		}
		last = time.Now()
	}
}

// stalled tells of a stall, and writes the trace that leads to it.
func (d *Detector) stalled(e event, now time.Time) {
	if now.Before(d.nextLog) {
		d.silent++
		return
	}
	text, attrs := "stall: the process did not run for a while", []any{"took", e.took}
	if e.kind == Request {
		text, attrs = "stall: the own work of a request took too long", append(attrs, "api", e.what)
	}
	switch {
	case d.recorder == nil:
		attrs = append(attrs, "hint", "moldau.stall.trace=true records what the scheduler does and writes it to a file at the next stall")
	case now.Before(d.nextTrace):
		attrs = append(attrs, "trace", fmt.Sprintf("none: one every %v at most", traceEvery))
	default:
		d.nextTrace = now.Add(traceEvery)
		if name, err := d.write(now); err != nil {
			attrs = append(attrs, "trace", "none: "+err.Error())
		} else {
			attrs = append(attrs, "trace", name, "command", "go tool trace "+name)
		}
	}
	d.o.Log.Warn(text, append(attrs, "suppressed", d.silent)...)
	d.silent, d.nextLog = 0, time.Now().Add(logEvery)
}

// write makes room for a trace and writes it.
func (d *Detector) write(now time.Time) (name string, err error) {
	if err := d.o.FS.MkdirAll(d.o.Dir); err != nil {
		return "", err
	}
	space, err := d.o.FS.Space(d.o.Dir)
	if err != nil {
		return "", err
	}
	if space.FreeBytes < leaveFree {
		return "", fmt.Errorf("%s has %d bytes free, a trace leaves %d to others", d.o.Dir, space.FreeBytes, leaveFree)
	}
	if err := d.makeRoom(); err != nil {
		return "", err
	}
	name = d.o.Dir + "/" + prefix + now.UTC().Format("20060102T150405.000") + suffix
	f, err := d.o.FS.Open(name, vfs.CreateNew)
	if err != nil {
		return "", err
	}
	_, err = d.recorder.WriteTo(&limited{f: f})
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		_ = d.o.FS.Remove(name) // half a trace is none; if it stays, makeRoom takes it in its turn
		return "", err
	}
	return name, nil
}

const prefix, suffix = "stall-", ".trace"

// makeRoom removes the oldest traces.
func (d *Detector) makeRoom() error {
	all, err := d.o.FS.ReadDir(d.o.Dir)
	if err != nil {
		return err
	}
	n, bytes := 0, int64(0)
	for i := len(all) - 1; i >= 0; i-- { // by name, so the newest first
		if !strings.HasPrefix(all[i].Name, prefix) || !strings.HasSuffix(all[i].Name, suffix) {
			continue
		}
		n++
		bytes += all[i].Size
		if n < maxFiles && bytes <= maxBytes-maxFileBytes {
			continue
		}
		if err := d.o.FS.Remove(d.o.Dir + "/" + all[i].Name); err != nil {
			return err
		}
	}
	return nil
}

// limited writes at most maxFileBytes, one write behind the other.
type limited struct {
	f  vfs.File
	at int64
}

func (l *limited) Write(p []byte) (int, error) {
	if l.at+int64(len(p)) > maxFileBytes {
		return 0, fmt.Errorf("the trace is larger than %d bytes", maxFileBytes)
	}
	n, err := l.f.WriteAt(p, l.at)
	l.at += int64(n)
	return n, err
}
