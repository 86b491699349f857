package storage

import (
	"errors"
	"fmt"
	"io"
	"path"
	"sync"
	"sync/atomic"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

func segmentFile(base int64, suffix string) string { return fmt.Sprintf("%020d%s", base, suffix) }

// Suffixes of a segment's files.
const (
	logSuffix      = ".log"
	indexSuffix    = ".index"
	timeSuffix     = ".timeindex"
	txnSuffix      = ".txnindex"
	snapshotSuffix = ".snapshot"
)

// deletedSuffix is Kafka's mark behind the name of a file that is about to be removed.
const deletedSuffix = ".deleted"

// segmentSuffixes are all files of a segment, the one that makes it a segment last.
var segmentSuffixes = [...]string{indexSuffix, timeSuffix, txnSuffix, snapshotSuffix, logSuffix}

// segment is one file of batches and its sparse index. A segment is known by its
// identity, never by its path: a file made anew under the same name is another
// segment, and a segment stays readable through its pins after its file is removed (S8).
type segment struct {
	fs      vfs.FS
	dir     string // of the partition
	base    int64
	pool    *descriptors
	indexes *indexCache

	size       atomic.Int64 // bytes of whole batches; only grows, except in Log.Truncate
	appendedMs atomic.Int64 // when the last batch came
	gone       atomic.Bool  // retire was called

	damaged atomic.Pointer[damages] // what was found, see damage.go; nil: nothing

	desc struct {
		sync.Mutex // guards the descriptor; held while opening it
		opening    atomic.Bool
		file       vfs.File
		pins       int
		dead       bool // removed from the log: close at the last unpin
		idle       idleLink
	}

	idx struct {
		sync.Mutex         // guards the index in memory; never held over I/O
		sparse     *sparse // nil for a sealed segment that is not loaded
		// What the next index entry depends on, for the segment that is appended to:
		sinceBytes  int64
		maxTsMs     int64 // -1 if there is no record with a timestamp
		maxTsOffset int64 // last offset of the batch that has it
		known       bool  // maxTsMs is that of the whole segment, also when sparse is not loaded
	}

	// Guarded by Log.mu:
	named     bool  // its directory entry is known to be synced
	dirty     bool  // has bytes behind the last sync
	torn      bool  // a write failed half way: the file may have bytes behind the last batch
	padded    int64 // the file has zeros from the last batch to here; of no meaning when that is not behind it
	firstTsMs int64 // largest timestamp of the first batch, -1 if none
	createdMs int64

	saved struct{ offsets, times int } // entries that the index files have; guarded by Log.files
}

func (s *segment) path(suffix string) string { return path.Join(s.dir, segmentFile(s.base, suffix)) }

// pin opens the file if need be and keeps it open until unpin.
func (s *segment) pin() (vfs.File, error) { return s.pinFor(nil) }

// pinFor is pin; errPrepare if a reader who does not wait for the disk finds the file not open.
func (s *segment) pinFor(r *Reader) (vfs.File, error) {
	if r != nil && s.desc.opening.Load() {
		return nil, errPrepare
	}
	f, opened, err := s.pinOrOpen(r)
	if opened {
		s.pool.trim()
	}
	return f, err
}

func (s *segment) pinOrOpen(r *Reader) (f vfs.File, opened bool, err error) {
	s.desc.Lock()
	defer s.desc.Unlock()
	if s.desc.file == nil {
		if s.desc.dead {
			return nil, false, fmt.Errorf("%s: %w", s.path(logSuffix), ErrClosed)
		}
		if r != nil {
			return nil, false, errPrepare
		}
		s.desc.opening.Store(true)
		f, err := s.fs.Open(s.path(logSuffix), vfs.ReadWrite)
		s.desc.opening.Store(false)
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", ErrUnreadable, err)
		}
		f.Advise(0, 0, vfs.Random) // who reads ahead is the cold queue, which knows who waits
		s.desc.file, opened = f, true
		s.pool.opened(1)
	}
	if s.desc.pins == 0 {
		s.pool.take(s)
	}
	s.desc.pins++
	return s.desc.file, opened, nil
}

func (s *segment) unpin() {
	s.desc.Lock()
	s.desc.pins--
	if s.desc.pins < 0 {
		panic("BUG: segment unpinned more often than pinned: " + s.path(logSuffix))
	}
	idle := s.desc.pins == 0
	if idle && s.desc.dead {
		s.closeLocked()
		idle = false
	}
	if idle {
		s.pool.put(s)
	}
	s.desc.Unlock()
	if idle {
		s.pool.trim()
	}
}

func (s *segment) closeLocked() {
	if s.desc.file != nil {
		s.desc.file.Close() // nothing depends on it: whatever had to be durable was synced
		s.desc.file = nil
		s.pool.opened(-1)
	}
}

// retire says that the segment is no longer part of its log. Its descriptor closes
// with the last pin; its name may be removed at once.
func (s *segment) retire() {
	s.desc.Lock()
	defer s.desc.Unlock()
	s.desc.dead = true
	s.gone.Store(true)
	if s.desc.pins == 0 {
		s.pool.take(s)
		s.closeLocked()
	}
}

// retired says whether retire was called: the names of the files may mean others by now.
func (s *segment) retired() bool {
	s.desc.Lock()
	defer s.desc.Unlock()
	return s.desc.dead
}

// descriptors bounds how many segment files are open: those that nobody uses are closed for others, the oldest first. Those in use may be
// more than the limit for a moment. Plans, which are in use as long as a client takes its time, keep to half of it, see short.
type descriptors struct {
	mu    sync.Mutex   // guards the following; a leaf, taken inside segment.desc
	head  idleLink     // ring of the files that nobody uses, oldest after head
	count int          // of the ring
	open  int          // files, also those in use
	limit int          // for open
	inUse atomic.Int64 // open less count, for those who only look
}

// idleLink puts a segment into the ring without an allocation.
type idleLink struct {
	seg        *segment
	prev, next *idleLink
}

func newDescriptors(limit int) *descriptors {
	d := &descriptors{limit: limit}
	d.head.prev, d.head.next = &d.head, &d.head
	return d
}

func (d *descriptors) put(s *segment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := &s.desc.idle
	l.seg = s
	l.prev, l.next = d.head.prev, &d.head
	l.prev.next, l.next.prev = l, l
	d.count++
	d.inUse.Add(-1)
}

// take removes s from the ring if it is there.
func (d *descriptors) take(s *segment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unlinkLocked(&s.desc.idle)
}

func (d *descriptors) unlinkLocked(l *idleLink) {
	if l.next == nil {
		return
	}
	l.prev.next, l.next.prev = l.next, l.prev
	l.prev, l.next = nil, nil
	d.count--
	d.inUse.Add(1)
}

// opened counts a file that was opened, or closed with n < 0.
func (d *descriptors) opened(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open += n
	d.inUse.Add(int64(n))
}

// short reports whether so many files are in use that nobody may begin a use that lasts.
func (d *descriptors) short() bool { return 2*d.inUse.Load() > int64(d.limit) }

// trim closes the oldest files that nobody uses as long as more than the limit are open. Called without locks.
func (d *descriptors) trim() { d.trimTo(d.limit) }

// relieve closes the older half of the files that nobody uses.
func (d *descriptors) relieve() {
	d.mu.Lock()
	most := d.open - (d.count+1)/2
	d.mu.Unlock()
	d.trimTo(most)
}

func (d *descriptors) trimTo(most int) {
	for {
		d.mu.Lock()
		if d.open <= most || d.count == 0 {
			d.mu.Unlock()
			return
		}
		victim := d.head.next.seg
		d.unlinkLocked(d.head.next)
		d.mu.Unlock()
		victim.desc.Lock()
		if victim.desc.pins == 0 {
			victim.closeLocked()
		}
		victim.desc.Unlock()
	}
}

// scanChunkBytes is what a scan reads at a time.
const scanChunkBytes = 256 << 10

// scanner reads batch headers, and on demand whole batches, forward through a file.
type scanner struct {
	file io.ReaderAt
	pos  int64 // of the batch that next returns
	end  int64 // first byte not to be read
	buf  []byte
	at   int64 // file position of buf[0]
}

// header returns the header of the batch at s.pos, or io.EOF at the end. The error is
// record.ErrShort when the file ends inside a batch.
func (s *scanner) header() (record.Header, error) {
	if s.pos >= s.end {
		return record.Header{}, io.EOF
	}
	if s.end-s.pos < record.HeaderSize {
		return record.Header{}, fmt.Errorf("%d bytes are left: %w", s.end-s.pos, record.ErrShort)
	}
	p, err := s.window(record.HeaderSize)
	if err != nil {
		return record.Header{}, err
	}
	h, err := record.HeaderOf(p)
	if err != nil {
		return record.Header{}, err
	}
	if int64(h.Size()) > s.end-s.pos {
		return record.Header{}, fmt.Errorf("batch of %d bytes, %d are left: %w", h.Size(), s.end-s.pos, record.ErrShort)
	}
	return h, nil
}

// batch returns the whole batch whose header was returned last; valid until the next call.
func (s *scanner) batch(h record.Header) (record.Batch, error) {
	p, err := s.window(h.Size())
	if err != nil {
		return nil, err
	}
	b, _, err := record.Parse(p)
	return b, err
}

// window returns n bytes at s.pos; n is bounded by what the file has.
func (s *scanner) window(n int) ([]byte, error) {
	if s.pos >= s.at && s.pos+int64(n) <= s.at+int64(len(s.buf)) {
		return s.buf[s.pos-s.at:][:n], nil
	}
	want := int(min(max(int64(n), scanChunkBytes), s.end-s.pos))
	if cap(s.buf) < want {
		s.buf = make([]byte, want)
	}
	s.buf = s.buf[:want]
	s.at = s.pos
	got, err := s.file.ReadAt(s.buf, s.pos)
	s.buf = s.buf[:got]
	if got < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read at byte %d: %w", s.pos, err)
	}
	return s.buf[:n], nil
}

// smallBufferBytes is about the distance between two index entries.
const smallBufferBytes = 4 << 10

var smallBuffers = sync.Pool{New: func() any { return new([smallBufferBytes]byte) }}

// batchOrder follows the headers of neighbouring batches. No CRC covers an offset, and an index has none: where one of them has gone
// bad, a reader would get records under wrong offsets, or some would be left out.
type batchOrder struct {
	next int64 // where the next batch begins, -1: not known
	ends int64 // a batch ends with this offset, before any with a later one; -1: not known
	gaps int64 // below it offsets may be missing between batches
}

// take says whether h may be the next one.
func (o *batchOrder) take(h record.Header) error {
	base := h.BaseOffset()
	if base < o.next || h.LastOffset() < base || o.next >= 0 && base > o.next && o.next >= o.gaps { // protection: batches continue each other
		return fmt.Errorf("offsets %d to %d after %d: %w", base, h.LastOffset(), o.next-1, errSequence)
	}
	if o.ends >= 0 && h.LastOffset() > o.ends { // protection: an index entry names a batch
		return fmt.Errorf("offsets %d to %d, no batch before ends with %d as the index says: %w", base, h.LastOffset(), o.ends, errSequence)
	}
	if o.next = h.NextOffset(); h.LastOffset() == o.ends {
		o.ends = -1
	}
	return nil
}

// batchAt is a batch in a segment: where it is, how long, its base offset and the one behind it.
type batchAt struct{ pos, size, base, next int64 }

// findBatch returns the first batch from pos on whose last
// offset is >= offset, or io.EOF if there is none before end, which is where a batch ends. It reads small pieces:
// from an index entry the batch is near. Of an error, pos says where it was met.
func findBatch(file io.ReaderAt, pos, end, offset int64, order batchOrder) (batchAt, error) {
	small := smallBuffers.Get().(*[smallBufferBytes]byte)
	defer smallBuffers.Put(small)
	var have []byte
	from := pos // of have
	for pos < end {
		if off := pos - from; off < 0 || off+record.HeaderSize > int64(len(have)) {
			n, err := file.ReadAt(small[:min(int64(len(small)), end-pos)], pos)
			if n < record.HeaderSize {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return batchAt{pos: pos}, fmt.Errorf("read batch header at byte %d: %w", pos, err)
			}
			have, from = small[:n], pos
		}
		h, err := record.HeaderOf(have[pos-from:])
		if err != nil {
			return batchAt{pos: pos}, err
		}
		if int64(h.Size()) > end-pos { // protection: a batch ends in its segment
			return batchAt{pos: pos}, fmt.Errorf("batch of %d bytes, %d are left: %w", h.Size(), end-pos, record.ErrShort)
		}
		if err := order.take(h); err != nil {
			return batchAt{pos: pos}, err
		}
		if h.LastOffset() >= offset {
			return batchAt{pos, int64(h.Size()), h.BaseOffset(), h.NextOffset()}, nil
		}
		pos += int64(h.Size())
	}
	return batchAt{pos: pos}, io.EOF
}

// noteBatch updates the index in memory for a batch that was written at pos.
func (s *segment) noteBatch(b record.Batch, pos int64, intervalBytes int64) {
	s.idx.Lock()
	defer s.idx.Unlock()
	s.noteHeaderLocked(b.Header(), pos, intervalBytes)
}

func (s *segment) noteHeaderLocked(h record.Header, pos, intervalBytes int64) {
	// A batch that compaction has emptied keeps a time, but there is no record of that time.
	if ts := h.MaxTimestampMs(); ts > s.idx.maxTsMs && h.Count() > 0 {
		s.idx.maxTsMs, s.idx.maxTsOffset = ts, h.LastOffset()
	}
	if s.idx.sinceBytes > intervalBytes {
		s.idx.sparse.addOffset(uint32(h.LastOffset()-s.base), uint32(pos))
		if s.idx.maxTsMs >= 0 {
			s.idx.sparse.addTime(s.idx.maxTsMs, uint32(s.idx.maxTsOffset-s.base))
		}
		s.idx.sinceBytes = 0
	}
	s.idx.sinceBytes += int64(h.Size())
}
