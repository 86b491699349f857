package storage

import (
	"errors"
	"fmt"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"moldau/internal/vfs"
)

// A volume that is full to its last byte cannot be emptied in an orderly way: a delete and a log start have to be
// written down, and so have the offsets of the consumers that would make old records superfluous. So producers
// are refused before, and what they leave is for the others:
//
//	free bytes   > keptFree      everybody writes
//	             > keptFree / 3  the broker's own records (AppendOptions.Reserve), points, metadata, deletes
//	             > 0             points, metadata, deletes
//
// Below keptFree/6 on the volume of the metadata directory the file "reserve" there is given up, for whoever
// is about to run out: the metadata store beside it does not survive a failed write. It is
// made again when there is room.
//
// What is free is asked for once a second, ten times a second when it comes near keptFree, and in between
// what was appended is taken off. So an append costs no system call, and other programs on the volume are noticed.
const (
	roomLook       = time.Second
	roomLookNear   = 100 * time.Millisecond
	roomFullRetain = 2 * time.Second // how often retention runs while the volume is full

	reserveFile  = "reserve"
	reserveBytes = 32 << 20 // the metadata store's database grows by 16 MiB at a time, its log by 8
)

// keptFree is how many bytes of a volume producers leave: a hundredth, from 64 MiB to 1 GiB, but at most an eighth of a small one.
func keptFree(totalBytes int64) int64 {
	return min(totalBytes/8, max(64<<20, min(totalBytes/100, 1<<30)))
}

// reserveSize is how large the reserve file is: at most a sixth of a small volume.
func reserveSize(totalBytes int64) int64 { return min(totalBytes/6, reserveBytes) }

// room watches how much is free and decides who may write. Its methods may be called concurrently.
type room struct {
	dir     *Dir
	reserve bool // keep a reserve file

	free    atomic.Int64 // at the last look, less what was appended since; a lot if nobody can say
	kept    atomic.Int64 // keptFree of the log dir's volume; 0 if nobody can say
	missing atomic.Int64 // bytes of the reserve file that are not there and will be wanted back
	full    atomic.Bool  // producers are refused

	mu struct {
		sync.Mutex // guards the following; a leaf
		state      RoomState
	}
	wake chan struct{} // capacity 1: look now
	stop chan struct{}
	wg   sync.WaitGroup
}

// RoomState is how the volume of a log dir stands.
type RoomState struct {
	Full         bool // producers are refused
	Since        time.Time
	Times        int64 // how often it began
	FreeBytes    int64
	KeptBytes    int64 // what producers leave free
	ReserveGiven bool  // the reserve file in the metadata directory was given up
}

func newRoom(d *Dir, reserve bool) *room {
	r := &room{dir: d, reserve: reserve, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	r.free.Store(1 << 62)
	return r
}

// start takes a first look, which may give the reserve up but makes none: what follows may need it.
func (r *room) start() {
	r.look(true)
	r.wg.Add(1)
	go r.startLooking()
}

func (r *room) close() {
	close(r.stop)
	r.wg.Wait()
}

func (r *room) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *room) startLooking() {
	defer r.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-r.wake:
		case <-timer.C:
		}
		r.look(false)
		next := roomLook
		if r.free.Load() < 4*r.kept.Load() {
			next = roomLookNear
		}
		timer.Reset(next)
	}
}

// admit says whether n bytes may be appended, or why not, and counts them as written. own are the broker's own records.
func (r *room) admit(n int64, own bool) error {
	left, kept := r.free.Add(-n), r.kept.Load()
	if own {
		if left >= kept/3 {
			return nil
		}
	} else if left-r.missing.Load() >= kept && !r.full.Load() {
		return nil
	}
	r.free.Add(n)
	if !own && r.full.CompareAndSwap(false, true) {
		r.poke()
	}
	return fmt.Errorf("%s: %w: %d bytes are free, and the last %d are kept for offsets, deletes and metadata; producers go on by themselves when there is room: %s",
		r.dir.path, ErrNoSpace, max(0, left+n), kept, makeRoomAdvice)
}

const makeRoomAdvice = "delete topics or records, shorten retention, or enlarge the volume"

// fits says whether n bytes may be written for a while, as compaction does before what it replaces goes.
func (r *room) fits(n int64) error {
	if free := r.free.Load(); free-n < r.kept.Load()/3 {
		return fmt.Errorf("%s: %w: %d bytes are wanted, %d are free", r.dir.path, ErrNoSpace, n, free)
	}
	return nil
}

// take counts n bytes of a file that is nice to have as written, if producers would still be let in afterwards.
func (r *room) take(n int64) error {
	if left := r.free.Load() - n - r.missing.Load(); left < 2*r.kept.Load() {
		return fmt.Errorf("%s: %w: %d bytes are wanted, %d would be left", r.dir.path, ErrNoSpace, n, left)
	}
	r.free.Add(-n)
	return nil
}

// look asks for what is free and acts on it.
func (r *room) look(first bool) {
	r.mu.Lock()
	given := r.mu.state.ReserveGiven
	r.mu.Unlock()
	if s, err := r.dir.fs.Space(r.dir.opts.MetaDir); err == nil && r.reserve {
		given = r.keepReserve(s, first, given)
	}
	s, err := r.dir.fs.Space(r.dir.path)
	if err != nil {
		return // appends tell what is wrong with the disk
	}
	kept := keptFree(s.TotalBytes)
	r.kept.Store(kept)
	r.free.Store(s.FreeBytes)
	left := s.FreeBytes - r.missing.Load()
	switch {
	case left < kept:
		r.full.Store(true)
	case left >= kept+kept/4:
		r.full.Store(false) // with some distance, so that it does not come and go with every batch
	}
	r.tell(s.FreeBytes, kept, given)
}

// tell logs what has changed. That the reserve was given up is told only here, when its room may be used.
func (r *room) tell(free, kept int64, given bool) {
	full, now := r.full.Load(), time.Now()
	r.mu.Lock()
	was := r.mu.state
	r.mu.state.Full, r.mu.state.FreeBytes, r.mu.state.KeptBytes, r.mu.state.ReserveGiven = full, free, kept, given
	if full && !was.Full {
		r.mu.state.Since = now
		r.mu.state.Times++
	}
	r.mu.Unlock()
	switch {
	case full && !was.Full:
		r.dir.log.Error("the volume of the log dir is full: producers are refused until there is room; reading, committing offsets and deleting go on. "+
			"What to do: "+makeRoomAdvice, "dir", r.dir.path, "freeBytes", free, "keptFreeBytes", kept, "resumesAtBytes", kept+kept/4+r.missing.Load())
		r.dir.housekeeper.poke()
	case !full && was.Full:
		r.dir.log.Info("there is room on the volume of the log dir again: producers go on", "dir", r.dir.path,
			"freeBytes", free, "keptFreeBytes", kept, "fullMs", now.Sub(was.Since).Milliseconds())
	}
}

// keepReserve gives the reserve file up when its volume is about to be full, and makes it when there is room for it. The result is
// whether it is given up.
func (r *room) keepReserve(s vfs.Space, first, given bool) bool {
	fsys, dir, size := r.dir.fs, r.dir.opts.MetaDir, reserveSize(s.TotalBytes)
	name, kept := path.Join(dir, reserveFile), keptFree(s.TotalBytes)
	info, err := fsys.Stat(name)
	there := err == nil && info.Size >= size
	switch {
	case err == nil && s.FreeBytes < kept/6:
		if err := fsys.Remove(name); err != nil {
			return given // it is tried again with the next look
		}
		there, given = false, true
		r.dir.log.Warn("the volume of the metadata directory is nearly full: its reserve was given up so that the metadata store can go on. What to do: "+makeRoomAdvice,
			"dir", dir, "freeBytes", s.FreeBytes, "reserveBytes", info.Size)
	case !there && !first && s.FreeBytes-size >= kept/2:
		if there = makeReserve(fsys, name, size) == nil; there {
			given = false
		}
	}
	if there {
		r.missing.Store(0)
	} else {
		r.missing.Store(size)
	}
	return given
}

// makeReserve makes the file or leaves none. It is not synced: after a power loss it is made again.
func makeReserve(fsys vfs.FS, name string, size int64) error {
	f, err := fsys.Open(name, vfs.Create)
	if err != nil {
		return err
	}
	if err := errors.Join(vfs.Allocate(f, size), f.Close()); err != nil {
		return errors.Join(err, fsys.Remove(name))
	}
	return nil
}

// Room is how much room there is on the volume, and who may use it.
func (d *Dir) Room() RoomState {
	d.room.mu.Lock()
	defer d.room.mu.Unlock()
	return d.room.mu.state
}
