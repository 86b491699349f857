package storage

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"moldau/internal/vfs"
)

// A group of segments is replaced by one new segment in Kafka's four steps, each of them durable before
// the next begins:
//
//  1. the new files stand as .cleaned, synced, with their names
//  2. they are renamed to .swap; from here on the new segment counts
//  3. the old files are renamed to .deleted
//  4. the new files get their names
//
// A start finds the files of one of these steps, or of two neighbours. As long as a .cleaned is
// left, no old file was touched, and everything new is removed, the .swap files first: the replacement is undone. Else
// the .swap files say what is to be finished (finishSwap).
const (
	cleanedSuffix = ".cleaned"
	swapSuffix    = ".swap"
)

// replace puts the new segment in the place of old ones, neighbours in the log. If they have left the
// log meanwhile it gives up with errInterrupted. Readers see the old ones or the new one (S8).
func (l *Log) replace(old []*segment, c *cleanedSegment) error {
	l.files.Lock()
	defer l.files.Unlock()
	v := l.view.Load()
	at := slices.Index(v.segments, old[0])
	if at < 0 || at+len(old) >= len(v.segments) || !slices.Equal(v.segments[at:at+len(old)], old) {
		c.discard()
		return errInterrupted
	}
	if err := l.Err(); err != nil {
		c.discard()
		return err
	}
	d := l.dir
	if err := d.fs.SyncDir(l.path); err != nil { // protection: cleaned names
		c.discard()
		return d.fence(err)
	}
	var swaps []string
	for _, suffix := range segmentSuffixes {
		name := c.seg.path(suffix)
		if !exists(d.fs, name+cleanedSuffix) {
			continue
		}
		if err := d.fs.Rename(name+cleanedSuffix, name+swapSuffix); err != nil {
			return l.undoSwap(c, swaps, err)
		}
		swaps = append(swaps, name)
	}
	if err := d.fs.SyncDir(l.path); err != nil { // protection: swap names
		c.discard()
		return d.fence(err)
	}
	l.publish(at, old, c)
	defer c.seg.unpin()
	if err := l.doom(old, c.seg.base); err != nil {
		return d.fence(err)
	}
	if err := d.fs.SyncDir(l.path); err != nil { // protection: old names
		return d.fence(err)
	}
	for _, name := range swaps {
		if err := d.fs.Rename(name+swapSuffix, name); err != nil {
			return d.fence(err)
		}
	}
	if err := d.fs.SyncDir(l.path); err != nil {
		return d.fence(err)
	}
	d.indexes.loaded(c.seg, c.seg.idx.sparse)
	return nil
}

// undoSwap takes step 2 back after a rename failed.
func (l *Log) undoSwap(c *cleanedSegment, swaps []string, cause error) error {
	var errs []error
	for _, name := range slices.Backward(swaps) {
		errs = append(errs, l.dir.fs.Remove(name+swapSuffix))
	}
	if err := errors.Join(append(errs, l.dir.fs.SyncDir(l.path))...); err != nil {
		return l.dir.fence(err)
	}
	c.discard()
	return l.dir.failed(cause)
}

// publish lets readers see the new segment, whose file is pinned until its name is right.
func (l *Log) publish(at int, old []*segment, c *cleanedSegment) {
	c.seg.desc.file = c.file // nobody else knows the segment yet
	if _, err := c.seg.pin(); err != nil {
		panic(fmt.Sprintf("BUG: an open segment cannot be pinned: %v", err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.view.Load() // appends may have rolled
	next := v.segments[at+len(old)].base
	segments := append(slices.Clone(v.segments[:at]), c.seg)
	l.view.Store(&view{append(segments, v.segments[at+len(old):]...), v.logStart})
	i := slices.IndexFunc(l.mu.aborted, func(a AbortedTxn) bool { return a.LastOffset >= c.seg.base })
	if i < 0 {
		i = len(l.mu.aborted)
	}
	j := i
	for j < len(l.mu.aborted) && l.mu.aborted[j].LastOffset < next {
		j++
	}
	l.mu.aborted = slices.Replace(slices.Clone(l.mu.aborted), i, j, c.aborted...)
	for _, s := range old {
		s.retire()
	}
}

// aSwap is what a directory holds of replaced segments with one base offset.
type aSwap struct{ cleaned, swap []string }

// finishSwaps finishes or undoes what a stop interrupted and returns what the directory holds then. Called
// before the segments are listed.
func (l *Log) finishSwaps(infos []vfs.Info) ([]vfs.Info, error) {
	found := map[int64]*aSwap{}
	undoFrom, none := int64(-1), true
	for _, info := range infos {
		base, rest, _ := strings.Cut(info.Name, ".")
		offset, err := strconv.ParseInt(base, 10, 64)
		if err != nil || info.IsDir || len(base) != 20 {
			continue
		}
		s := found[offset]
		if s == nil {
			s = &aSwap{}
			found[offset] = s
		}
		switch {
		case strings.HasSuffix(rest, cleanedSuffix):
			s.cleaned = append(s.cleaned, info.Name)
			if undoFrom < 0 {
				undoFrom = offset // names are sorted, so it is the smallest
			}
			none = false
		case strings.HasSuffix(rest, swapSuffix):
			s.swap = append(s.swap, info.Name)
			none = false
		}
	}
	if none {
		return infos, nil
	}
	if err := l.undoSwaps(found, undoFrom); err != nil {
		return nil, err
	}
	// After a kill the names are what the kernel knew. Old files may go only when a power loss cannot bring the .cleaned back,
	// which would undo the replacement.
	if err := l.dir.fs.SyncDir(l.path); err != nil { // protection: swap names after a kill
		return nil, err
	}
	for base, s := range found {
		if len(s.swap) > 0 && slices.Contains(s.swap, segmentFile(base, logSuffix)+swapSuffix) {
			if err := l.finishSwap(base); err != nil {
				return nil, err
			}
		}
	}
	if err := l.dir.fs.SyncDir(l.path); err != nil { // protection: old names after a kill
		return nil, err
	}
	for _, s := range found {
		for _, name := range s.swap {
			if err := l.dir.fs.Rename(path.Join(l.path, name), path.Join(l.path, strings.TrimSuffix(name, swapSuffix))); err != nil {
				return nil, err
			}
		}
	}
	if err := l.dir.fs.SyncDir(l.path); err != nil {
		return nil, err
	}
	return l.dir.fs.ReadDir(l.path)
}

// undoSwaps removes what is new from offset from on, the .swap files before the .cleaned ones that say
// that it is to be undone. -1: nothing.
func (l *Log) undoSwaps(found map[int64]*aSwap, from int64) error {
	if from < 0 {
		return nil
	}
	for base, s := range found {
		if base < from {
			continue
		}
		for _, name := range s.swap {
			if err := l.dir.fs.Remove(path.Join(l.path, name)); err != nil {
				return err
			}
		}
		s.swap = nil
	}
	if err := l.dir.fs.SyncDir(l.path); err != nil {
		return err
	}
	for _, s := range found {
		for _, name := range s.cleaned {
			if err := l.dir.fs.Remove(path.Join(l.path, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// finishSwap removes the segments that the new one at base, still called .swap, was made of: those whose
// base it reaches over. The snapshot at base is the producer state there and stays.
func (l *Log) finishSwap(base int64) error {
	name := path.Join(l.path, segmentFile(base, logSuffix)+swapSuffix)
	next, err := l.endOf(name)
	if err != nil {
		return err
	}
	infos, err := l.dir.fs.ReadDir(l.path)
	if err != nil {
		return err
	}
	for _, info := range infos {
		digits, ok := strings.CutSuffix(info.Name, logSuffix)
		offset, err := strconv.ParseInt(digits, 10, 64)
		if !ok || err != nil || offset < base || offset >= max(next, base+1) {
			continue
		}
		s := l.dir.newSegment(l.path, offset)
		for _, suffix := range segmentSuffixes {
			if suffix == snapshotSuffix && offset == base || !exists(l.dir.fs, s.path(suffix)) {
				continue
			}
			if err := l.dir.fs.Remove(s.path(suffix)); err != nil {
				return err
			}
		}
	}
	l.dir.log.Info("compaction that a stop interrupted was finished", "partition", l.tp.String(), "file", name, "nextOffset", next)
	return nil
}

// endOf is the offset behind the last batch of a segment file.
func (l *Log) endOf(name string) (next int64, err error) {
	f, err := l.dir.fs.Open(name, vfs.ReadOnly)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	for sc := (scanner{file: f, end: size}); ; {
		h, err := sc.header()
		if errors.Is(err, io.EOF) {
			return next, nil
		}
		if err != nil {
			return 0, &CorruptionError{name, sc.pos, err}
		}
		next = h.NextOffset()
		sc.pos += int64(h.Size())
	}
}
