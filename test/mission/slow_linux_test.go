package mission

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"
)

// diskWaits is how many threads of the broker wait for a disk right now.
func (p *process) diskWaits() (n int) {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	must(p.t, err)
	for _, name := range stats {
		text, err := os.ReadFile(name) // a thread that has ended waits for nothing
		if _, state, ok := strings.Cut(string(text), ") "); err == nil && ok && state[0] == 'D' {
			n++
		}
	}
	return n
}

// TestSlowReceivers: many clients have begun to receive a large answer and stand still, and its pages leave memory meanwhile. When all
// of them go on at once, a few threads wait for the disk, others are served, and everybody gets every byte.
func TestSlowReceivers(t *testing.T) {
	const clients, each, size = 32, 8, 1_000_000 // each client's answer begins a record later
	const most = 12                              // the turns of a log dir, flushes, and the metadata store
	p := server(t)
	p.create("large", 1, nil)
	p.create("hot", 1, nil)
	c := p.client(kgo.ProducerBatchMaxBytes(size + 1000))
	value := make([]byte, size-1000)
	rand.New(rand.NewSource(1)).Read(value)
	for range clients + each {
		must(t, c.ProduceSync(p.ctx, &kgo.Record{Topic: "large", Value: value}).FirstErr())
	}
	fetch := kmsg.NewPtrFetchRequest()
	fetch.Version, fetch.MinBytes, fetch.MaxBytes = 12, 1, 50<<20
	partition := kmsg.NewFetchRequestTopicPartition()
	partition.PartitionMaxBytes = each * size
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.Partitions = "large", append(topic.Partitions, partition)
	fetch.Topics = append(fetch.Topics, topic)
	var all [clients]net.Conn
	for i := range all {
		nc, err := p.raw()
		must(t, err)
		defer nc.Close()
		must(t, nc.(*net.TCPConn).SetReadBuffer(64<<10))
		topic.Partitions[0].FetchOffset = int64(i)
		_, err = nc.Write(frame(fetch))
		must(t, err)
		all[i] = nc
	}
	left := make([]int64, clients)
	for i, nc := range all {
		var head [4]byte
		_, err := io.ReadFull(nc, head[:])
		must(t, err)
		if left[i] = int64(binary.BigEndian.Uint32(head[:])); left[i] < (each-1)*size {
			t.Fatalf("an answer of %d bytes", left[i])
		}
	}
	segments, err := filepath.Glob(filepath.Join(p.dir, "log", "large-0", "*.log"))
	must(t, err)
	for _, name := range segments {
		f, err := os.Open(name)
		must(t, err)
		must(t, f.Sync())
		must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		var pages unix.Cachestat_t
		if unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &pages, 0) == nil {
			t.Logf("%d of %d pages stay, which are in sockets", pages.Cache, (clients+each)*size/os.Getpagesize())
		}
		must(t, f.Close())
	}
	var received sync.WaitGroup
	for i, nc := range all {
		received.Go(func() {
			if n, err := io.CopyN(io.Discard, nc, left[i]); err != nil {
				t.Errorf("client %d: %d of %d bytes: %v", i, n, left[i], err)
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); received.Wait() }()
	others := p.active(2, "hot")
	waits := 0
	for over := false; !over; {
		waits = max(waits, p.diskWaits())
		select {
		case <-done:
			over = true
		case <-time.After(time.Millisecond):
		}
	}
	others.goesOn(p, "and goes on")
	others.stop.Store(true)
	others.wg.Wait()
	t.Logf("at most %d threads waited for the disk, for %d clients", waits, clients)
	if waits > most {
		t.Errorf("%d threads waited for the disk at a time, expected at most %d", waits, most)
	}
}
