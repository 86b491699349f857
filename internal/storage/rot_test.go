package storage

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"moldau/internal/record"
)

// wantRightOrRefused reads every offset of the closed segments as a client does, which checks CRCs: it gets the batch that holds the offset, or is
// refused. It returns how many offsets were refused.
func (w *scrubWorld) wantRightOrRefused(all []placed, what string) (refused int) {
	w.t.Helper()
	for _, p := range all {
		for offset := p.base; offset < p.to; offset++ {
			for _, copyBytes := range []int{0, CopyBelow} {
				plan, err := w.l.Read(offset, w.l.End(), 1, true, copyBytes)
				if err != nil {
					if !errors.Is(err, ErrDamaged) {
						w.t.Fatalf("%s: offset %d: %v", what, offset, err)
					}
					refused++
					continue
				}
				if plan.Len() == 0 {
					w.t.Fatalf("%s: there is nothing at offset %d, and no error", what, offset)
				}
				got := slices.Clone(plan.Bytes)
				if plan.Region.File != nil {
					got = make([]byte, plan.Region.Len)
					if _, err := plan.Region.File.ReadAt(got, plan.Region.Off); err != nil {
						w.t.Fatalf("%s: offset %d: a range that is not there: %v", what, offset, err)
					}
				}
				plan.Release()
				b, _, err := record.Parse(got)
				if err == nil {
					err = b.CheckCRC()
				}
				const epochFrom, epochTo = 12, 16 // no CRC covers it, and no record has it
				if err != nil || len(b) == len(p.bytes) && bytes.Equal(b[:epochFrom], p.bytes[:epochFrom]) && bytes.Equal(b[epochTo:], p.bytes[epochTo:]) {
					continue
				}
				w.t.Fatalf("%s: offset %d is in the batch %d to %d, and got that of %d to %d", what, offset, p.base, p.to-1, b.BaseOffset(), b.LastOffset())
			}
		}
	}
	return refused
}

// TestReadersMeetRot: before the scrub has looked, a bit has changed of what no CRC covers, in a header or in an index. A reader gets what is
// right, or an error; no record comes under another's offset, none is left out, and nobody waits for records that are there.
func TestReadersMeetRot(t *testing.T) {
	w := newScrubWorld(t, 1, false)
	all := w.batches()
	forget := func() { // what readers have learned, and the indexes
		w.l.mu.Lock()
		v := w.l.view.Load()
		w.l.view.Store(&view{v.segments, v.logStart})
		w.l.mu.Unlock()
		for _, s := range v.segments[:len(v.segments)-1] {
			s.idx.Lock()
			s.idx.sparse, s.idx.known = nil, false
			s.idx.Unlock()
		}
	}
	if n := w.wantRightOrRefused(all, "nothing"); n > 0 {
		t.Fatalf("nothing is damaged, %d reads were refused", n)
	}
	first := slices.IndexFunc(all, func(p placed) bool { return p.seg != all[0].seg })
	refused := 0
	for _, hit := range all[first : first+3] {
		for _, field := range [][2]int64{{0, 12}, {16, 17}, {23, 27}} { // base offset and length, magic, last offset delta
			for at := field[0]; at < field[1]; at++ {
				for bit := range 8 {
					undo := w.flip(hit.seg.path(logSuffix), hit.pos+at, bit)
					forget()
					refused += w.wantRightOrRefused(all, "header")
					undo()
				}
			}
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
	forget()
	name := all[first].seg.path(indexSuffix)
	data, _, err := readFile(w.mem, name, 1<<20)
	if err != nil || len(data) == 0 {
		t.Fatal(len(data), err)
	}
	for at := range int64(len(data)) {
		for bit := range 8 {
			undo := w.flip(name, at, bit)
			forget()
			w.wantRightOrRefused(all, "index")
			undo()
		}
	}
	forget()
	if n := w.wantRightOrRefused(all, "nothing any more"); n > 0 {
		t.Fatalf("nothing is damaged any more, %d reads were refused", n)
	}
	mustClose(t, w.d)
}

// TestTimesMeetRot: a record whose time has changed on the disk is not what a search by time finds.
func TestTimesMeetRot(t *testing.T) {
	w := newScrubWorld(t, 2, false)
	all := w.batches()
	i := slices.IndexFunc(all, func(p placed) bool { return p.bytes.Codec() == record.None })
	hit := all[i]
	// The base time of the batch gets far into the future: the header says so of its records, and no index does.
	const baseTimestampAt, maxTimestampAt = 27, 35
	for _, at := range []int64{baseTimestampAt, maxTimestampAt} {
		w.flip(hit.seg.path(logSuffix), hit.pos+at+2, 0)
	}
	found, ok, err := w.l.ByTimestamp(0, w.l.End())
	if hit.base == 0 && !errors.Is(err, ErrDamaged) {
		t.Errorf("found %+v %v, %v", found, ok, err)
	}
	for ts := int64(1000); ts < 7000; ts += 10 {
		found, ok, err := w.l.ByTimestamp(ts, w.l.End())
		if err == nil && ok && found.TimestampMs > 1<<20 {
			t.Fatalf("by time %d: %+v, which nobody wrote", ts, found)
		}
	}
	mustClose(t, w.d)
}

// TestScrubWaitsForPoints: the index of a segment that was just rolled is written by a point. A scrub that comes before it finds nothing wrong.
func TestScrubWaitsForPoints(t *testing.T) {
	w := newScrubWorld(t, 3, false)
	for range 5 {
		w.l.files.Lock() // no point is written
		w.l.mu.Lock()
		_, err := w.l.rollLocked(1)
		w.l.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		v := w.l.view.Load()
		seg, before := v.segments[len(v.segments)-2], w.d.ScrubStats().ReadBytes
		done := make(chan bool)
		go func() { done <- w.d.scrubber.segment(w.l, seg) }()
		for range 50 { // it waits; if it did not, it would have read the segment by now
			if w.d.ScrubStats().ReadBytes > before {
				break
			}
			time.Sleep(time.Millisecond)
		}
		w.l.files.Unlock()
		if !<-done {
			t.Fatal("the pass did not come to its end")
		}
		if _, err := w.l.Append(batch(t, "z"), AppendOptions{LeaderEpoch: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.d.ScrubStats().Indexes; n > 0 || len(w.l.Damage()) > 0 {
		t.Errorf("nothing is wrong; %d indexes were made anew, damage %v", n, w.l.Damage())
	}
	mustClose(t, w.d)
}
