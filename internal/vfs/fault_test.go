package vfs

import (
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFaultFailsEveryOperationOnDemand(t *testing.T) {
	var bad OpKind = -1
	var last Op
	s := NewFault(NewMem(), func(op Op) error {
		if op.Kind == bad {
			last = op
			return syscall.EIO
		}
		return nil
	})
	put(t, s, "/f", "data")
	f := open(t, s, "/f", ReadWrite)
	var p [4]byte
	ops := map[OpKind]func() error{
		OpOpen:     func() error { _, err := s.Open("/f", ReadOnly); return err },
		OpMkdirAll: func() error { return s.MkdirAll("/f") },
		OpReadDir:  func() error { _, err := s.ReadDir("/f"); return err },
		OpStat:     func() error { _, err := s.Stat("/f"); return err },
		OpRename:   func() error { return s.Rename("/f", "/g") },
		OpRemove:   func() error { return s.Remove("/f") },
		OpSyncDir:  func() error { return s.SyncDir("/f") },
		OpSyncTree: func() error { return s.SyncTree("/f") },
		OpLock:     func() error { _, err := s.Lock("/f"); return err },
		OpSpace:    func() error { _, err := s.Space("/f"); return err },
		OpRead:     func() error { _, err := f.ReadAt(p[:], 7); return err },
		OpTryRead:  func() error { _, err := f.TryReadAt(p[:], 7); return err },
		OpWrite:    func() error { _, err := f.WriteVec([][]byte{p[:2], p[2:]}, 7); return err },
		OpSize:     func() error { _, err := f.Size(); return err },
		OpTruncate: func() error { return f.Truncate(4) },
		OpSync:     func() error { return f.Sync() },
		OpClose:    func() error { return f.Close() },

		OpSetModTime: func() error { return s.SetModTime("/f", time.Now()) },
	}
	for bad = OpOpen; bad <= OpClose; bad++ {
		err := ops[bad]()
		wantErr(t, err, syscall.EIO, "/f")
		if !strings.HasPrefix(err.Error(), bad.String()) || last.Kind != bad || last.Name != "/f" {
			t.Errorf("%v: error %q, operation %+v", bad, err, last)
		}
		switch bad {
		case OpRead, OpTryRead, OpWrite:
			if last.Off != 7 || last.Len != 4 {
				t.Errorf("%v: %+v", bad, last)
			}
		case OpTruncate:
			if last.Len != 4 {
				t.Errorf("%v: %+v", bad, last)
			}
		case OpRename:
			if last.To != "/g" {
				t.Errorf("%v: %+v", bad, last)
			}
		}
	}
	bad = -1
	if got, _ := get(t, s, "/f"); got != "data" {
		t.Errorf("an operation that failed had an effect: %q", got)
	}
	if OpKind(77).String() != "OpKind(77)" {
		t.Error(OpKind(77).String())
	}
}

func TestFaultShortWriteLetsExactlyNBytesThrough(t *testing.T) {
	for n := range int64(8) {
		var answer error
		s := NewFault(NewMem(), func(op Op) error {
			if op.Kind == OpWrite {
				return answer
			}
			return nil
		})
		f := open(t, s, "/f", Create)
		answer = ShortWrite{N: n, Err: syscall.ENOSPC}
		k, err := f.WriteVec([][]byte{[]byte("ab"), nil, []byte("cdef")}, 0)
		wantErr(t, err, syscall.ENOSPC, "/f")
		if k != min(n, 6) {
			t.Errorf("N=%d: wrote %d", n, k)
		}
		if got, _ := get(t, s, "/f"); got != "abcdef"[:min(n, 6)] {
			t.Errorf("N=%d: file is %q", n, got)
		}
		answer = ShortWrite{N: n}
		_, err = f.WriteAt([]byte("xyz"), 0)
		wantErr(t, err, io.ErrShortWrite, "/f")
	}
}

func TestFaultWouldBlockComesBare(t *testing.T) {
	s := NewFault(NewMem(), func(op Op) error {
		if op.Kind == OpTryRead {
			return ErrWouldBlock
		}
		return nil
	})
	put(t, s, "/f", "x")
	f := open(t, s, "/f", ReadOnly)
	if _, err := f.TryReadAt(make([]byte, 1), 0); err != ErrWouldBlock {
		t.Error(err)
	}
	if f.FD() != -1 {
		t.Error("a descriptor passes the rule by")
	}
}

func TestFaultRuleMayBlockOneOperationOnly(t *testing.T) {
	entered, gate := make(chan struct{}), make(chan struct{})
	s := NewFault(NewMem(), func(op Op) error {
		if op.Kind == OpSync {
			close(entered)
			<-gate
		}
		return nil
	})
	f := open(t, s, "/f", Create)
	done := make(chan error)
	go func() { done <- f.Sync() }()
	<-entered
	write(t, f, "goes on", 0)
	close(gate)
	check(t, <-done)
}

// A second fsync that succeeds says nothing about the data of the first, which failed.
func TestFailedSyncLosesDataForGood(t *testing.T) {
	m, failing := NewMem(), false
	s := NewFault(m, func(op Op) error {
		if op.Kind == OpSync && failing {
			return syscall.EIO
		}
		return nil
	})
	f := open(t, s, "/f", Create)
	check(t, s.SyncDir("/"))
	write(t, f, strings.Repeat("a", 8192), 0)
	check(t, f.Sync())
	write(t, f, strings.Repeat("b", 8192), 0)
	check(t, f.Truncate(5000))
	failing = true
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	failing = false
	check(t, f.Truncate(8192))
	check(t, f.Sync())
	if got, _ := get(t, s, "/f"); got != strings.Repeat("b", 5000)+strings.Repeat("\x00", 3192) {
		t.Error("what was written is not readable any more")
	}
	if got, _ := get(t, m.Crash(rand.New(rand.NewPCG(1, 1))), "/f"); len(got) != 8192 || !strings.HasPrefix(got, "aaaa") {
		t.Errorf("the retried Sync brought the lost data back: %d bytes, %q", len(got), got[:4])
	}
}

func TestTruncationThatMissedOneSyncIsDurableWithTheNext(t *testing.T) {
	m, failing := NewMem(), true
	s := NewFault(m, func(op Op) error {
		if op.Kind == OpSync && failing {
			return syscall.EIO
		}
		return nil
	})
	failing = false
	f := open(t, s, "/f", Create)
	check(t, s.SyncDir("/"))
	write(t, f, strings.Repeat("a", 8192), 0)
	check(t, f.Sync())
	check(t, f.Truncate(100))
	failing = true
	wantErr(t, f.Sync(), syscall.EIO, "/f")
	failing = false
	check(t, f.Sync())
	write(t, f, "b", 8191)
	for seed := range 100 {
		got, _ := get(t, m.Crash(rand.New(rand.NewPCG(uint64(seed), 1))), "/f")
		if strings.Trim(got[100:], "\x00b") != "" || got[:100] != strings.Repeat("a", 100) {
			t.Fatalf("seed %d: what was cut off came back", seed)
		}
	}
}
