package storage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"moldau/internal/record"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// The journal makes small appends to many logs durable by one write and one sync: what was appended to a log since its last sync, its
// tail, stands in the log's segment already, not synced; it is copied into a group together with the tails of other logs, and the
// group is synced. After a power loss the groups are written into the segments again (replay), before any log is opened.
//
//	group:   magic u32 | crc32c u32 of what follows | pass u64 | sequence u64 | body bytes u32 | tails u32 | body | zeros up to 4 KiB
//	a tail:  topic id 16 | partition u32 | segment i64 | byte position i64 | length u32 | bytes
//
// The journal is up to journalFiles files, written one after the other and from their beginning again. Each such pass has a random number, so
// that what an earlier pass left in the file cannot be taken for a part of this one. Sequence numbers are those of the whole journal.
//
//	S15 Whatever of a log lies below Flushed and is not synced in its segment is in a synced group of the journal, and in
//	    none of an earlier life of these bytes: before a truncation cuts, the manifest says from which sequence on
//	    groups speak of the log, and compaction works below the log's point only, where no group is replayed.
//	S16 A file of the journal is written from its beginning only when the logs with tails in it were synced.
//
// The files are filled with zeros before they are used: a sync of blocks that are there already is one write of the disk, without one of
// the file system's own journal. They are made when there is demand, and removed by a clean stop.
//
// The logs of a full file are synced while the next one is written, a few at a time, and meanwhile the journal takes what is appended
// to them: nobody waits for the sync of a whole log file.
const (
	// JournalName is how the names of the journal's files begin; a number follows. They stand in the log dir.
	JournalName = "moldau-journal-"

	journalFiles      = 4
	journalMagic      = 0x4d4a4e31
	journalAlign      = 4 << 10
	journalHeadBytes  = 32
	tailHeadBytes     = 16 + 4 + 8 + 8 + 4
	journalMaxFile    = 16 << 20
	journalMinFile    = 1 << 20
	journalGroupBytes = 1 << 20   // a group is closed when it has so many
	journalTailBytes  = 128 << 10 // a longer tail is cheaper synced in its own file
	journalAfter      = 64        // syncs of logs after which the first file is made
	journalDrains     = 2         // logs that are synced at the same time to free a file: more get in the way of the journal's own syncs
	journalRestores   = 4         // logs that are written at the same time by a replay
	journalTogether   = 256       // a replay of more logs makes them durable by one sync of the log dir
)

// journal owns the files. commit has one caller at a time, the flusher; the rest may be called concurrently.
type journal struct {
	dir   *Dir
	bytes int64 // of a file, 0: by the size of the volume

	last atomic.Int64 // sequence of the newest group
	on   atomic.Bool  // there is a file to write to

	// Only commit and what it calls use these.
	current *journalFile
	buf     []byte
	tails   []tail

	mu struct {
		sync.Mutex                // guards the following; a leaf
		files      []*journalFile // that are there
		ready      []*journalFile // those of them that may be written from their beginning
		making     bool
		asked      int // syncs that were asked for while there was no file
		after      int // how many make the next file
		closed     bool
	}
	wg sync.WaitGroup
}

// journalFile is one file and the logs that have tails in the pass that is under way.
type journalFile struct {
	name string
	file vfs.File
	size int64
	pos  int64 // of the next group
	pass uint64
	logs map[*Log]bool
}

// tail is the end of a log that is to be made durable: what stands from byte from of seg up to the mark.
type tail struct {
	log *Log
	seg *segment
	// first is the offset of the batch at byte from.
	first, from int64
	to          *mark
	epoch       int32 // of all its batches
}

func newJournal(d *Dir, fileBytes int64) *journal {
	j := &journal{dir: d, bytes: fileBytes}
	j.mu.after = journalAfter
	if fileBytes > 0 {
		j.mu.after = 1
	}
	return j
}

// groupBytes is how large a group may become in a file of size bytes, less one tail.
func groupBytes(size int64) int { return int(min(journalGroupBytes, size/4)) }

// tailBytes bounds a tail in a file of size bytes.
func tailBytes(size int64) int64 { return min(journalTailBytes, size/4) }

// demand is told of syncs that the journal could have saved; it makes a file when there were enough.
func (j *journal) demand(syncs int) {
	if j.bytes < 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.demandLocked(syncs)
}

// lookAhead makes the next file before it is missed, if the current one will be full with no other to go on with.
func (j *journal) lookAhead() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.mu.ready) == 0 {
		j.demandLocked(1)
	}
}

func (j *journal) demandLocked(syncs int) {
	j.mu.asked += syncs
	if j.mu.asked < j.mu.after || j.mu.making || j.mu.closed || len(j.mu.files) == journalFiles {
		return
	}
	j.mu.making, j.mu.asked = true, 0
	j.wg.Add(1)
	go j.startMaking(len(j.mu.files))
}

// startMaking makes one more file. Where there is no room the journal goes without, and is asked again later.
func (j *journal) startMaking(i int) {
	defer j.wg.Done()
	f, err := j.makeFile(i)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.making = false
	if err != nil {
		j.mu.after = 16 * journalAfter
		if !errors.Is(err, ErrNoSpace) {
			j.dir.log.Warn("journal file could not be made; every log is synced by itself", "dir", j.dir.path, "error", err)
		}
		return
	}
	j.mu.after = 1 // the next one as soon as it is missed, or about to be
	j.mu.files, j.mu.ready = append(j.mu.files, f), append(j.mu.ready, f)
	j.on.Store(true)
}

// makeFile makes a file of zeros, durably.
func (j *journal) makeFile(i int) (_ *journalFile, err error) {
	size := j.bytes
	if size == 0 {
		s, err := j.dir.fs.Space(j.dir.path)
		if err != nil {
			return nil, err
		}
		size = min(journalMaxFile, s.TotalBytes/1024/journalAlign*journalAlign)
		if size < journalMinFile {
			return nil, ErrNoSpace
		}
	}
	if err := j.dir.offline(); err != nil {
		return nil, err
	}
	if err := j.dir.room.take(size); err != nil {
		return nil, err
	}
	name := path.Join(j.dir.path, fmt.Sprint(JournalName, i))
	file, err := j.dir.fs.Open(name, vfs.Create)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), j.dir.fs.Remove(name))
			if vfs.IsNoSpace(err) {
				err = fmt.Errorf("%w: %w", ErrNoSpace, err)
			}
		}
	}()
	zeros := make([]byte, min(size, journalGroupBytes))
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := file.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return nil, err
		}
		if err := file.Sync(); err != nil { // piece by piece: who syncs something else meanwhile waits for little
			return nil, err
		}
	}
	if err := j.dir.fs.SyncDir(j.dir.path); err != nil {
		return nil, err
	}
	return &journalFile{name: name, file: file, size: size, pass: rand.Uint64(), logs: map[*Log]bool{}}, nil
}

// next returns a file with room for a whole group, or nil.
func (j *journal) next() *journalFile {
	if f := j.current; f != nil {
		if f.size-f.pos >= int64(groupBytes(f.size))+tailBytes(f.size)+tailHeadBytes+journalAlign {
			if f.pos > f.size/2 {
				j.lookAhead()
			}
			return f
		}
		j.current = nil
		j.wg.Add(1)
		go j.startDrain(f)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.mu.ready) == 0 {
		j.on.Store(false)
		return nil
	}
	j.current = j.mu.ready[0]
	j.mu.ready = slices.Delete(j.mu.ready, 0, 1)
	return j.current
}

// startDrain syncs every log that has a tail in f, and then has f written from its beginning again (S16).
func (j *journal) startDrain(f *journalFile) {
	defer j.wg.Done()
	var syncs errgroup.Group
	syncs.SetLimit(journalDrains)
	for l := range f.logs {
		syncs.Go(func() error {
			before := l.Flushed()
			err := l.flush() // protection: journal drain
			l.tellFlushed(before, err)
			if errors.Is(err, ErrClosed) { // a log that was closed was synced, and one that was deleted is not replayed
				return nil
			}
			return err
		})
	}
	if err := syncs.Wait(); err != nil {
		return // the log dir is offline, and what the file holds will be needed
	}
	clear(f.logs)
	f.pos, f.pass = 0, rand.Uint64()
	j.mu.Lock()
	j.mu.ready = append(j.mu.ready, f)
	j.mu.Unlock()
	j.on.Store(true)
}

// commit makes the tails of logs durable with one group, and tells each log's owner. It returns the logs that have to be synced by
// themselves, and those for which there was no room in the group.
func (j *journal) commit(logs []*Log) (alone, later []*Log) {
	f := j.next()
	if f == nil {
		j.demand(len(logs))
		return logs, nil
	}
	j.buf = append(j.buf[:0], make([]byte, journalHeadBytes)...)
	j.tails = j.tails[:0]
	for i, l := range logs {
		if len(j.buf) >= groupBytes(f.size) {
			later = logs[i:]
			break
		}
		t, state := l.beginTail(tailBytes(f.size))
		if state == tailFits {
			if err := j.add(t); err != nil {
				l.endTail(t, false)
				state = tailAlone // it will say what is wrong with the file
			} else {
				j.tails = append(j.tails, t)
			}
		}
		if state == tailAlone {
			alone = append(alone, l)
		}
	}
	if len(j.tails) == 0 {
		return alone, later
	}
	durable, err := j.write(f)
	for i, t := range j.tails {
		j.tails[i] = tail{}
		f.logs[t.log] = true
		t.log.endTail(t, durable)
		if durable || err != nil {
			t.log.flushed() // also after a failure: whoever waits must learn of the fence
		} else {
			alone = append(alone, t.log)
		}
	}
	return alone, later
}

// add copies a tail into the group. The bytes are in the page cache: they were just written. That they are what was written is checked:
// bytes that went bad, or that came back from a disk to which a write has failed, are not given another place to come from.
func (j *journal) add(t tail) error {
	file, err := t.seg.pin()
	if err != nil {
		return err
	}
	defer t.seg.unpin()
	n := t.to.pos - t.from
	at := len(j.buf)
	j.buf = append(j.buf, t.log.id[:]...)
	j.buf = binary.BigEndian.AppendUint32(j.buf, uint32(t.log.tp.Partition))
	j.buf = binary.BigEndian.AppendUint64(j.buf, uint64(t.seg.base))
	j.buf = binary.BigEndian.AppendUint64(j.buf, uint64(t.from))
	j.buf = binary.BigEndian.AppendUint32(j.buf, uint32(n))
	j.buf = slices.Grow(j.buf, int(n))[:len(j.buf)+int(n)]
	bytes := j.buf[len(j.buf)-int(n):]
	if err = readFull(file, bytes, t.from); err == nil {
		err = t.check(bytes)
	}
	if err != nil {
		j.buf = j.buf[:at]
	}
	return err
}

// check says that bytes are the batches of the tail. The leader epoch is not below a batch's CRC, nor is the offset.
func (t *tail) check(bytes []byte) error {
	next := t.first
	for len(bytes) > 0 {
		b, rest, err := record.Parse(bytes)
		if err == nil {
			err = b.CheckCRC() // protection: what goes into the journal
		}
		if err != nil {
			return err
		}
		if b.BaseOffset() != next || b.LeaderEpoch() != t.epoch { // protection: epoch of what goes into the journal
			return errSequence
		}
		next, bytes = b.NextOffset(), rest
	}
	return nil
}

// write writes the group and syncs it. durable is false without an error where there was no room, which can be on a file system that
// does not write in place.
func (j *journal) write(f *journalFile) (durable bool, err error) {
	if err := j.dir.offline(); err != nil {
		return false, err
	}
	seq := j.last.Add(1)
	b := j.buf
	binary.BigEndian.PutUint32(b, journalMagic)
	binary.BigEndian.PutUint64(b[8:], f.pass)
	binary.BigEndian.PutUint64(b[16:], uint64(seq))
	binary.BigEndian.PutUint32(b[24:], uint32(len(b)-journalHeadBytes))
	binary.BigEndian.PutUint32(b[28:], uint32(len(j.tails)))
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	b = append(b, make([]byte, aligned(int64(len(b)))-int64(len(b)))...)
	j.buf = b
	if _, err := f.file.WriteAt(b, f.pos); err != nil {
		if vfs.IsNoSpace(err) {
			return false, nil // the next group is written over what there is of this one
		}
		return false, j.dir.fence(err)
	}
	if err := f.file.Sync(); err != nil { // protection: journal sync
		return false, j.dir.fence(err)
	}
	f.pos += int64(len(b))
	return true, nil
}

func aligned(n int64) int64 { return (n + journalAlign - 1) / journalAlign * journalAlign }

// close waits for what is under way. clean says that every log was synced: then nothing in the journal is needed any more, and its files go.
func (j *journal) close(clean bool) error {
	j.mu.Lock()
	j.mu.closed = true
	j.mu.Unlock()
	j.wg.Wait()
	var errs []error
	for _, f := range j.mu.files {
		errs = append(errs, f.file.Close())
	}
	if clean && len(j.mu.files) > 0 {
		errs = append(errs, j.remove())
	}
	return errors.Join(errs...)
}

func (j *journal) remove() error {
	for i := range journalFiles {
		if err := j.dir.fs.Remove(path.Join(j.dir.path, fmt.Sprint(JournalName, i))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return j.dir.fs.SyncDir(j.dir.path)
}

// extent is a tail that stands in a file of the journal.
type extent struct {
	seq  int64
	file int // of journalRead.files
	at   int64
	n    int64
	seg  int64
	pos  int64
}

// journalRead is what a start found in the journal.
type journalRead struct {
	names   []string
	files   []vfs.File
	extents map[partitionKey][]extent // in the order of their sequence
	damage  []error                   // groups that cannot be read and are followed by others that were written after them
	// together: so many logs have extents that they are synced at once.
	together bool
}

// replay writes what the journal holds into the segments, syncs them, and removes the journal. Called before any log is opened.
func (j *journal) replay() (err error) {
	r := &journalRead{extents: map[partitionKey][]extent{}}
	defer func() {
		for _, f := range r.files {
			err = errors.Join(err, f.Close())
		}
	}()
	for i := range journalFiles {
		name := path.Join(j.dir.path, fmt.Sprint(JournalName, i))
		f, err := j.dir.fs.Open(name, vfs.ReadOnly)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		r.names, r.files = append(r.names, name), append(r.files, f)
		last, err := r.read(len(r.files) - 1)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		j.last.Store(max(j.last.Load(), last))
	}
	j.last.Store(max(j.last.Load(), j.dir.manifest.newestCut()))
	if len(r.names) == 0 {
		return nil
	}
	refused := slices.Clone(r.damage)
	r.together = len(r.extents) > journalTogether
	var writes errgroup.Group
	writes.SetLimit(journalRestores)
	var mu sync.Mutex // guards refused
	for key, extents := range r.extents {
		slices.SortStableFunc(extents, func(a, b extent) int { return cmp.Compare(a.seq, b.seq) })
		writes.Go(func() error {
			err := j.restore(r, key, extents)
			if err == nil || !errors.Is(err, ErrMissing) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			refused = append(refused, err)
			return nil
		})
	}
	if err := writes.Wait(); err != nil {
		return err
	}
	if r.together {
		if err := j.dir.fs.SyncTree(j.dir.path); err != nil { // protection: sync of all that was restored
			return err
		}
	}
	if len(refused) == 0 {
		return j.remove()
	}
	var moved []string
	for _, name := range r.names {
		to, err := j.dir.setAside(name, path.Base(name))
		if err != nil {
			return err
		}
		moved = append(moved, to)
	}
	j.dir.log.Error("the journal holds acknowledged records that could not be written into their logs, and was set aside: "+
		"look at the disk; 'moldau log dump' shows what is in it", "dir", j.dir.path, "error", errors.Join(refused...), "movedTo", moved)
	return nil
}

// read learns the groups of one pass over a file, and the sequence of the last one.
func (r *journalRead) read(i int) (last int64, err error) {
	size, err := r.files[i].Size()
	if err != nil {
		return 0, err
	}
	end, err := EachJournalGroup(r.files[i], size, func(g JournalGroup) error {
		for _, t := range g.Tails {
			key := partitionKey{t.TopicID, t.Partition}
			r.extents[key] = append(r.extents[key], extent{g.Sequence, i, t.At, t.Bytes, t.Segment, t.Position})
		}
		return nil
	})
	if err != nil || end.Pass == 0 {
		return end.Sequence, err
	}
	// A group that was torn by the loss of power is the last one of its pass. Behind one that is damaged there are more.
	for pos := end.Position + journalAlign; pos < size; pos += journalAlign {
		g, err := readGroup(r.files[i], pos, size, end.Pass)
		if err != nil {
			return end.Sequence, err
		}
		if g != nil && g.Sequence > end.Sequence {
			r.damage = append(r.damage, &CorruptionError{r.names[i], end.Position, fmt.Errorf("a group of the journal that group %d, written after it, follows", g.Sequence)})
			break
		}
	}
	return end.Sequence, nil
}

// restore writes the tails of one log. The error is ErrMissing where they belong nowhere.
func (j *journal) restore(r *journalRead, key partitionKey, extents []extent) error {
	entry := j.dir.manifest.entry(key)
	switch {
	case j.dir.manifest.empty():
		return fmt.Errorf("the manifest in %s: %w: it knows no partition, the journal does", j.dir.opts.MetaDir, ErrMissing)
	case entry == nil || !entry.present:
		return nil // the partition was deleted
	}
	point, _ := entry.decode()
	dir := j.dir.partitionPath(entry.tp)
	id, err := readTopicID(j.dir.fs, dir)
	if err != nil {
		return err
	}
	if id != key.topicID {
		return fmt.Errorf("%s: %w: the journal holds records of %v", dir, ErrMissing, entry.tp)
	}
	var file vfs.File
	var seg int64
	done := func() error {
		if file == nil {
			return nil
		}
		var err error
		if !r.together {
			err = file.Sync() // protection: sync of what was restored
		}
		err, file = errors.Join(err, file.Close()), nil
		return err
	}
	for _, e := range extents {
		if e.seq <= entry.cut() { // protection: journal cut
			continue // the bytes are of a life of the log that a truncation ended
		}
		if p := point; p != nil && (e.seg < p.segment || e.seg == p.segment && e.pos+e.n <= p.pos) { // protection: journal point
			continue // synced, and perhaps compacted since
		}
		if file == nil || seg != e.seg {
			if err := done(); err != nil {
				return err
			}
			name := path.Join(dir, segmentFile(e.seg, logSuffix))
			file, err = j.dir.fs.Open(name, vfs.ReadWrite)
			if errors.Is(err, fs.ErrNotExist) {
				if file = nil; e.seg < entry.start {
					continue // retention removed it
				}
				return fmt.Errorf("%s: %w: the journal holds records of it", name, ErrMissing)
			} else if err != nil {
				return err
			}
			seg = e.seg
		}
		if err := restoreBytes(file, r.files[e.file], e); err != nil { // protection: journal replay
			return errors.Join(fmt.Errorf("%s: %w", path.Join(dir, segmentFile(e.seg, logSuffix)), err), file.Close())
		}
	}
	return done()
}

// restoreBytes writes one extent.
func restoreBytes(to, from vfs.File, e extent) error {
	buf := make([]byte, e.n)
	if err := readFull(from, buf, e.at); err != nil {
		return err
	}
	_, err := to.WriteAt(buf, e.pos)
	return err
}

// JournalGroup is a group of the journal as it stands in a file.
type JournalGroup struct {
	Position, Bytes int64 // in the file, the zeros behind it included
	Pass            uint64
	Sequence        int64
	Tails           []JournalTail
}

// JournalTail is the end of a log in a group.
type JournalTail struct {
	TopicID           wire.UUID
	Partition         int32
	Segment, Position int64 // where in the log the bytes belong
	At, Bytes         int64 // where in the journal's file they stand
}

// EachJournalGroup calls f with the groups of the pass that a file of the journal begins with. end has the place of the first group
// that is not whole, and the pass, 0 if there is no group at all.
func EachJournalGroup(file io.ReaderAt, size int64, f func(JournalGroup) error) (end JournalGroup, err error) {
	for {
		g, err := readGroup(file, end.Position, size, end.Pass)
		if err != nil || g == nil || g.Sequence <= end.Sequence {
			return end, err
		}
		if err := f(*g); err != nil {
			return end, err
		}
		end = JournalGroup{Position: g.Position + g.Bytes, Pass: g.Pass, Sequence: g.Sequence}
	}
}

// readGroup reads the group at pos, nil if there is none that is whole, or none of this pass. 0 is any pass.
func readGroup(file io.ReaderAt, pos, size int64, pass uint64) (*JournalGroup, error) {
	var head [journalHeadBytes]byte
	if size-pos < journalHeadBytes {
		return nil, nil
	}
	if err := readFull(file, head[:], pos); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[24:]))
	if binary.BigEndian.Uint32(head[:]) != journalMagic || n > size-pos-journalHeadBytes || n > 2*journalGroupBytes ||
		pass != 0 && binary.BigEndian.Uint64(head[8:]) != pass {
		return nil, nil
	}
	body := make([]byte, n)
	if err := readFull(file, body, pos+journalHeadBytes); err != nil {
		return nil, err
	}
	sum := crc32.Update(crc32.Checksum(head[8:], castagnoli), castagnoli, body)
	if sum != binary.BigEndian.Uint32(head[4:]) {
		return nil, nil
	}
	g := &JournalGroup{Position: pos, Bytes: aligned(journalHeadBytes + n), Pass: binary.BigEndian.Uint64(head[8:]), Sequence: int64(binary.BigEndian.Uint64(head[16:]))}
	for p := body; len(p) > 0; {
		if len(p) < tailHeadBytes {
			return nil, nil
		}
		t := JournalTail{Partition: int32(binary.BigEndian.Uint32(p[16:])),
			Segment: int64(binary.BigEndian.Uint64(p[20:])), Position: int64(binary.BigEndian.Uint64(p[28:])), Bytes: int64(binary.BigEndian.Uint32(p[36:]))}
		copy(t.TopicID[:], p)
		p = p[tailHeadBytes:]
		if t.Bytes > int64(len(p)) || t.Segment < 0 || t.Position < 0 {
			return nil, nil
		}
		t.At = pos + journalHeadBytes + n - int64(len(p))
		p = p[t.Bytes:]
		g.Tails = append(g.Tails, t)
	}
	return g, nil
}
