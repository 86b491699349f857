package broker

import (
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/internal/metastore"
	"moldau/internal/vfs"
)

// TestDamageIsShownAndRefused: a consumer of a damaged batch is told CORRUPT_MESSAGE, one behind it reads on, and /ready warns.
func TestDamageIsShownAndRefused(t *testing.T) {
	disk, store := vfs.NewMem(), metastore.NewSim().Open()
	defer store.Close()
	b := startInMemory(t, disk, store)
	defer b.Close(t.Context())
	c := client(t, b)
	defer c.Close()
	size := "1048576"
	if _, err := kadm.NewClient(c).CreateTopic(t.Context(), 1, 1, map[string]*string{"segment.bytes": &size}, "x"); err != nil {
		t.Fatal(err)
	}
	raw := client(t, b, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.DefaultProduceTopic("x"))
	defer raw.Close()
	value := []byte(strings.Repeat("v", 200_000))
	for range 12 {
		if err := raw.ProduceSync(t.Context(), &kgo.Record{Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	f, err := disk.Open(b.dirs.All()[0].Path()+"/x-0/00000000000000000000.log", vfs.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	var head [12]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		t.Fatal(err)
	}
	first := int64(head[8])<<24 | int64(head[9])<<16 | int64(head[10])<<8 | int64(head[11]) + 12
	if _, err := f.WriteAt([]byte{9}, first+16); err != nil { // the format of the second batch
		t.Fatal(err)
	}
	b.dirs.Scrub(1 << 40)
	at := func(offset int64) error {
		r := client(t, b, kgo.KeepRetryableFetchErrors(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"x": {0: kgo.NewOffset().At(offset)}}))
		defer r.Close()
		fs := r.PollFetches(t.Context())
		if err := fs.Err(); err != nil {
			return err
		}
		if got := fs.Records()[0].Offset; got != offset {
			t.Errorf("offset %d gave %d", offset, got)
		}
		return nil
	}
	if err := at(1); !errors.Is(err, kerr.CorruptMessage) {
		t.Errorf("the damaged record gave %v", err)
	}
	var state struct {
		Ready         bool
		DamagedOnDisk []string
	}
	for until := time.Now().Add(time.Minute); len(state.DamagedOnDisk) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("nobody looked at what the consumer met")
		}
		w := httptest.NewRecorder()
		b.serveReady(w, nil)
		if err := json.Unmarshal(w.Body.Bytes(), &state); err != nil {
			t.Fatal(err)
		}
	}
	if !state.Ready || len(state.DamagedOnDisk) != 1 || !strings.Contains(state.DamagedOnDisk[0], "offsets 1 to 1 cannot be read") {
		t.Errorf("/ready says %+v", state)
	}
	for _, offset := range []int64{0, 2} {
		if err := at(offset); err != nil {
			t.Errorf("offset %d gave %v", offset, err)
		}
	}
	if err := at(1); !errors.Is(err, kerr.CorruptMessage) {
		t.Errorf("the damaged record gave %v", err)
	}
}
