package partition

import (
	"fmt"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/storage"
	"moldau/internal/vfs"
)

// TestOwnerReadsWhatCompactionLeaves: a coordinator that loads its compacted log meets gaps and batches without
// records, and ends up with the last value of each key.
func TestOwnerReadsWhatCompactionLeaves(t *testing.T) {
	p, dir := leader(t, vfs.NewMem())
	cfg := p.log().Config()
	cfg.SegmentBytes, cfg.CleanupCompact = 2000, true
	p.held.SetConfig(&cfg)
	for i := range 200 {
		b := record.NewBuilder(record.None)
		b.Add(time.Now().UnixMilli(), fmt.Append(nil, i%7), fmt.Append(nil, i))
		out, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		a, err := p.Append(out, AppendOptions{Acks: -1, NowMs: time.Now().UnixMilli()})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.WaitAck(t.Context(), new(AckWaiter), a, time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	dir.Clean(storage.Cleaning{Compact: true, CompactBackoff: time.Millisecond})
	for until := time.Now().Add(time.Minute); dir.CleanStats().Compactions == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("not compacted")
		}
	}
	last, records := map[string]string{}, 0
	end, err := p.ReadOwned(4, 1<<10, func(b record.Batch) error {
		return b.Each(0, func(r record.Record) error {
			last[string(r.Key)] = string(r.Value)
			records++
			return nil
		})
	})
	if err != nil || end != 200 || records > 100 {
		t.Fatalf("%d records, end %d, %v", records, end, err)
	}
	for i := 193; i < 200; i++ {
		if got := last[fmt.Sprint(i%7)]; got != fmt.Sprint(i) {
			t.Errorf("key %d: %s, want %d", i%7, got, i)
		}
	}
}
