package storage

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"moldau/internal/vfs"
)

// Damage is a range of a segment that cannot be served: the disk does not give its bytes, or they are not those that were
// written. It begins and ends where batches do.
type Damage struct {
	File        string // whole path of the .log
	Pos, End    int64  // bytes of File; equal where records are missing between two segments
	First, Next int64  // the offsets from First up to before Next are concerned
	Err         error  // what is wrong at Pos
}

func (d *Damage) String() string {
	return fmt.Sprintf("%s is damaged at byte %d: the records at offsets %d to %d cannot be read: %v", d.File, d.Pos, d.First, d.Next-1, d.Err)
}

// refusal is what a reader of the range gets.
func (d *Damage) refusal() error {
	return fmt.Errorf("%w: offsets %d to %d, the next good record is at or behind offset %d: %w", ErrDamaged, d.First, d.Next-1, d.Next, d.Err)
}

// damages are the damaged ranges of one segment, ascending. Immutable.
//
// Known damage is a property of a segment and goes with it. A reader gets what is before a range and what is
// behind it, and for an offset within ErrDamaged; compaction leaves the log alone; retention may take the segment. The
// bytes are not touched.
type damages []Damage

// undamaged returns where a read from offset on, that ends at byte stop at the latest, has to end.
func (s *segment) undamaged(offset, stop int64) (int64, error) {
	if p := s.damaged.Load(); p != nil {
		for i := range *p {
			d := &(*p)[i]
			if offset >= d.Next {
				continue
			}
			if offset >= d.First {
				return d.Pos, d.refusal()
			}
			return min(stop, d.Pos), nil
		}
	}
	return stop, nil
}

// behindDamage moves a position from which offset is to be looked for, and the order of the batches there, behind all damage
// before that offset.
func (s *segment) behindDamage(pos, offset int64, order batchOrder) (int64, batchOrder) {
	if p := s.damaged.Load(); p != nil {
		for _, d := range *p {
			if offset >= d.Next && d.End > pos {
				pos, order = d.End, batchOrder{d.Next, -1, order.gaps}
			}
		}
	}
	return pos, order
}

// damageAt is the damage that byte pos is in, or nil.
func (s *segment) damageAt(pos int64) *Damage {
	if p := s.damaged.Load(); p != nil {
		for i := range *p {
			if d := &(*p)[i]; pos >= d.Pos && pos < d.End {
				return d
			}
		}
	}
	return nil
}

// Damage lists what is known to be damaged in the log, by offset.
func (l *Log) Damage() []Damage {
	var out []Damage
	for _, s := range l.view.Load().segments {
		if p := s.damaged.Load(); p != nil {
			out = append(out, *p...)
		}
	}
	return out
}

// DamagedSegments is the number of segments with damage.
func (l *Log) DamagedSegments() (n int) {
	for _, s := range l.view.Load().segments {
		if s.damaged.Load() != nil {
			n++
		}
	}
	return n
}

// setDamage makes found what is known of s, and durable. New damage is told once. Called with l.files held.
func (l *Log) setDamage(s *segment, found damages) error {
	var old damages
	if p := s.damaged.Load(); p != nil {
		old = *p
	}
	same := func(a, b Damage) bool {
		return a.Pos == b.Pos && a.End == b.End && a.First == b.First && a.Next == b.Next
	}
	if slices.EqualFunc(old, found, same) {
		return nil
	}
	if len(found) == 0 {
		s.damaged.Store(nil)
	} else {
		s.damaged.Store(&found)
	}
	l.mu.Lock()
	v := l.view.Load()
	l.view.Store(&view{v.segments, v.logStart}) // places that readers learned from damaged headers count no more
	l.mu.Unlock()
	for _, d := range found {
		if !slices.ContainsFunc(old, func(o Damage) bool { return same(o, d) }) {
			l.tellDamage(&d)
		}
	}
	if len(found) < len(old) {
		l.dir.log.Info("damage on the disk is gone", "partition", l.tp.String(), "file", s.path(logSuffix), "damagedRanges", len(found))
	}
	return l.saveDamage()
}

func (l *Log) tellDamage(d *Damage) {
	l.dir.log.Error("damage on the disk: records cannot be read any more. Readers of these offsets get CORRUPT_MESSAGE, all others are served; nothing was deleted. "+
		"Stop the broker and bring back an undamaged copy of the file, or let consumers go on at nextGoodOffset",
		"partition", l.tp.String(), "file", d.File, "pos", d.Pos, "endPos", d.End, "offset", d.First, "nextGoodOffset", d.Next, "reason", d.Err.Error())
}

// savedDamage is a Damage in the manifest, without the reason, which the next start finds again.
type savedDamage struct{ segment, pos, end, first, next int64 }

func (d *savedDamage) fields() []*int64 {
	return []*int64{&d.segment, &d.pos, &d.end, &d.first, &d.next}
}

// saveDamage writes down what is known now. It need not be synced: who does not know of damage finds it.
func (l *Log) saveDamage() error {
	var all []savedDamage
	for _, s := range l.view.Load().segments {
		if p := s.damaged.Load(); p != nil {
			for _, d := range *p {
				all = append(all, savedDamage{s.base, d.Pos, d.End, d.First, d.Next})
			}
		}
	}
	if err := l.dir.manifest.add(kindDamaged, l.key(), l.tp, encodeDamage(all), false); err != nil && !vfs.IsNoSpace(err) {
		return err
	}
	return nil
}

func encodeDamage(all []savedDamage) []byte {
	out := binary.AppendUvarint(nil, uint64(len(all)))
	for _, d := range all {
		for _, f := range d.fields() {
			out = binary.AppendVarint(out, *f)
		}
	}
	return out
}

func decodeDamage(r *reader) (all []savedDamage) {
	for n := r.count(5); n > 0; n-- {
		var d savedDamage
		for _, f := range d.fields() {
			*f = r.varint()
		}
		all = append(all, d)
	}
	return all
}

// recallDamage looks at the beginning of each range that an earlier run found, and takes it for known if it is damaged still. The
// scrub looks at these segments first. Only OpenLog calls it.
func (l *Log) recallDamage(saved []savedDamage) {
	v := l.view.Load()
	for _, d := range saved {
		i := v.find(d.segment)
		if i < 0 || i == len(v.segments)-1 || v.segments[i].base != d.segment || d.end > v.segments[i].size.Load() {
			continue
		}
		s := v.segments[i]
		err := l.stillDamaged(v, i, d.pos, d.end, d.first)
		if err == nil || d.first > d.next || d.pos > d.end {
			l.dir.scrubber.suspect(l, s)
			continue
		}
		known := damages{}
		if p := s.damaged.Load(); p != nil {
			known = slices.Clone(*p)
		}
		if slices.ContainsFunc(known, func(o Damage) bool { return d.pos < o.End && o.Pos < d.end || d.pos == o.Pos }) {
			continue // recovery has met it, too
		}
		known = append(known, Damage{s.path(logSuffix), d.pos, d.end, d.first, d.next, err})
		slices.SortFunc(known, func(a, b Damage) int { return cmp.Compare(a.Pos, b.Pos) })
		s.damaged.Store(&known)
		l.dir.log.Warn("damage on the disk that was found before is still there", "partition", l.tp.String(), "file", s.path(logSuffix),
			"pos", d.pos, "offset", d.first, "nextGoodOffset", d.next, "reason", err.Error())
	}
}

// stillDamaged says what is wrong with the batch at pos of segment i, before which offset next is expected; nil if it is good.
func (l *Log) stillDamaged(v *view, i int, pos, end, next int64) error {
	s := v.segments[i]
	f, err := s.pin()
	if err != nil {
		return err
	}
	defer s.unpin()
	w := l.walkOf(v, i, f)
	w.next = next
	if pos == end {
		if next >= w.gaps && next < w.limit {
			return fmt.Errorf("%w: the next segment begins at offset %d, this one ends at %d", ErrMissing, w.limit, next)
		}
		return nil
	}
	h, err := w.batch(pos)
	if err == nil && h.BaseOffset() > w.next && w.overtakes(h, pos) {
		err = fmt.Errorf("offset %d is behind that of the next batch: %w", h.BaseOffset(), errSequence)
	}
	return err
}

// walkOf is a walk over segment i of v, which is not the last one.
func (l *Log) walkOf(v *view, i int, f vfs.File) *walk {
	s := v.segments[i]
	l.mu.Lock()
	defer l.mu.Unlock()
	e := epochs{entries: slices.Clone(l.mu.epochs.entries)}
	w := &walk{file: f, size: s.size.Load(), next: s.base, limit: math.MaxInt64, gaps: l.mu.cleaned.gaps, epoch: e.at}
	if i+1 < len(v.segments) {
		w.limit = v.segments[i+1].base
	}
	return w
}

// refuseDamaged is the error of a change that would have to read damaged records, below offset.
func (l *Log) refuseDamaged(v *view, offset int64) error {
	for _, s := range v.segments {
		if p := s.damaged.Load(); p != nil && s.base < offset {
			d := &(*p)[0]
			return &CorruptionError{d.File, d.Pos, d.refusal()}
		}
	}
	return nil
}
