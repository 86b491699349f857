package partition

import (
	"errors"
	"strings"
	"testing"
	"time"

	"moldau/internal/partition/replica"
	"moldau/internal/record"
	"moldau/internal/vfs"
)

// becomes makes broker 1 or 2 the leader of p under an epoch.
func (p *Partition) becomes(leader, epoch int32) {
	p.apply(replica.Assignment{Leader: leader, LeaderEpoch: epoch, PartitionEpoch: epoch, ISR: []int32{leader}, MinISR: 1, FlushPolicy: true},
		p.settings.Load())
}

// TestOwnerWritesUnderItsEpochOnly: an owner whose time is over writes nothing.
func TestOwnerWritesUnderItsEpochOnly(t *testing.T) {
	p, _ := leader(t, vfs.NewMem(), "message.max.bytes=1000")
	a, err := p.AppendOwned(oneRecord(t, "v"), 4, 1)
	if err != nil || a.BaseOffset != 0 {
		t.Fatal(a, err)
	}
	if err := p.WaitCommitted(t.Context(), 1, 4, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for epoch, want := range map[int32]error{-1: ErrFencedEpoch, 3: ErrFencedEpoch, 5: ErrUnknownEpoch} {
		if _, err := p.AppendOwned(oneRecord(t, "w"), epoch, 1); !errors.Is(err, want) {
			t.Errorf("epoch %d: %v, expected %v", epoch, err, want)
		}
	}
	var large *TooLargeError
	if _, err := p.AppendOwned(oneRecord(t, strings.Repeat("x", 2000)), 4, 1); !errors.As(err, &large) {
		t.Errorf("too large: %v", err)
	}
	p.becomes(2, 6)
	if _, err := p.AppendOwned(oneRecord(t, "w"), 6, 1); !errors.Is(err, ErrNotLeader) {
		t.Errorf("at a follower: %v", err)
	}
	if p.LogEnd() != 1 {
		t.Errorf("log end is %d, expected 1", p.LogEnd())
	}
}

// TestOwnerReadsAllThereIs: whole, in order, also what is not committed, in small pieces.
func TestOwnerReadsAllThereIs(t *testing.T) {
	g := newGate(t)
	p, _ := leader(t, g.fs)
	g.closed.Store(true)
	defer g.closed.Store(false)
	want := ""
	for i := range 200 {
		value := strings.Repeat(string(rune('a'+i%26)), i)
		want += value
		if _, err := p.AppendOwned(oneRecord(t, value), 4, 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, buffer := range []int{1, 100, 1000, 1 << 20} {
		got := ""
		end, err := p.ReadOwned(4, buffer, func(b record.Batch) error {
			return b.Each(0, func(r record.Record) error {
				got += string(r.Value)
				return nil
			})
		})
		if err != nil || end != 200 || got != want {
			t.Errorf("in pieces of %d: end %d, %d bytes, %v", buffer, end, len(got), err)
		}
	}
	stop := errors.New("enough")
	if _, err := p.ReadOwned(4, 100, func(record.Batch) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the reader became %v", err)
	}
	if _, err := p.ReadOwned(3, 100, nil); !errors.Is(err, ErrFencedEpoch) {
		t.Errorf("old epoch: %v", err)
	}
}

// TestAcknowledgementIsOfOneLeaderEpoch: a high watermark that another epoch has raised says nothing about the
// records that stood at these offsets before, also to a waiter that wakes late.
func TestAcknowledgementIsOfOneLeaderEpoch(t *testing.T) {
	g := newGate(t)
	p, _ := leader(t, g.fs)
	g.closed.Store(true)
	defer g.closed.Store(false)
	a, err := p.Append(oneRecord(t, "v"), AppendOptions{Acks: -1, NowMs: time.Now().UnixMilli()})
	if err != nil {
		t.Fatal(err)
	}
	late := &AckWaiter{target: a.ack, wake: make(chan struct{}, 1)}
	p.mu.Lock()
	p.mu.acks = append(p.mu.acks, late)
	p.mu.Unlock()
	p.becomes(2, 5)
	p.becomes(1, 6)
	g.closed.Store(false)
	if err := p.WaitCommitted(t.Context(), 1, 6, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := p.WaitAck(t.Context(), new(AckWaiter), a, time.Now().Add(time.Minute)); !errors.Is(err, ErrNotLeader) {
		t.Errorf("who begins to wait now: %v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !late.done || !errors.Is(late.err, ErrNotLeader) {
		t.Errorf("who has waited since: %v", late.err)
	}
}
