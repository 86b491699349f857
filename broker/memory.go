package broker

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Go lets the heap grow to twice of what was live, and gives back slowly, or never, what a burst has taken: reading the metadata at a start, a
// thousand topics created, a client that looks at every partition. With a hundred thousand partitions that would be as much again as they
// need. So the keeper of the memory does two things, every keeperRound:
//
//   - When enough was allocated since it did so last, and it has become quiet, it collects and returns all that is free to the system. Under a steady
//     load it is never quiet; a burst costs one collection more.
//   - What garbage may pile up in is heapRoom, or a quarter of what is live if that is more. A small heap is left to Go's rule, which
//     collects earlier. It changes nothing where GOGC is set.
const (
	keeperRound = 5 * time.Second
	worthBytes  = 16 << 20 // or a quarter of what is live: fewer allocated bytes are not worth a collection
	quietShare  = 16       // in a quiet round less than this share of that was allocated
	heapRoom    = 64 << 20
)

// startKeeper gives memory back until the broker ends.
func (b *Broker) startKeeper() {
	tick := time.NewTicker(keeperRound)
	defer tick.Stop()
	debug.FreeOSMemory() // what reading the metadata took, which is several times what is kept of it
	k := keeper{percent: 100}
	k.returned = readHeap().allocated
	k.seen = k.returned
	for {
		select {
		case <-tick.C:
		case <-b.life.Done():
			return
		}
		free, percent := k.look(readHeap())
		if percent != k.percent && os.Getenv("GOGC") == "" {
			k.percent = percent
			debug.SetGCPercent(percent)
		}
		if free {
			debug.FreeOSMemory()
		}
	}
}

// heap is what the keeper goes by, in bytes.
type heap struct {
	allocated uint64 // since the process began
	live      uint64 // what the last collection found in use
}

func readHeap() heap {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return heap{s[0].Value.Uint64(), s[1].Value.Uint64()}
}

// keeper decides; startKeeper acts.
type keeper struct {
	seen     uint64 // allocated when it looked last
	returned uint64 // allocated when memory was given back last
	percent  int    // GOGC
}

// look reports whether to give memory back now, and what GOGC should be.
func (k *keeper) look(h heap) (free bool, percent int) {
	worth := max(worthBytes, h.live/4)
	quiet := h.allocated-k.seen < worth/quietShare
	k.seen = h.allocated
	if free = quiet && h.allocated-k.returned >= worth; free {
		k.returned = h.allocated
	}
	percent = min(100, max(25, int(heapRoom*100/max(1, h.live))))
	if d := percent - k.percent; percent < 100 && -5 < d && d < 5 { // a change stops the world for a moment
		percent = k.percent
	}
	return free, percent
}
