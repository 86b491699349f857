//go:build clients && linux

package clients

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"crypto/sha256"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	roundTripPartitions = 6
	roundTripDelimiter  = 0x01
	roundTripLongest    = 4 << 20 // a longer line is cut
	roundTripKeys       = 5000
)

// TestRoundTrip: what kcat sends, line by line and with every codec, is what kcat, confluent-kafka, franz-go and Kafka's Java consumer
// read: every record once, in order, in the partition of its key, byte for byte and with the same offsets and timestamps. The lines are
// those of the text files in the Go and Maven caches of this machine.
//
// ROUNDTRIP_BYTES is how much goes in per codec (default 64 MiB). 0 is all files once; more than there is repeats them.
func TestRoundTrip(t *testing.T) {
	size := envInt(t, "ROUNDTRIP_BYTES", 64<<20)
	files := textFiles(t)
	b := startBroker(t)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			topic := "roundtrip-" + codec
			b.createTopic(topic, roundTripPartitions, "max.message.bytes=8388608", "segment.bytes=33554432", "retention.ms=-1", "retention.bytes=-1",
				"file.delete.delay.ms=1000")
			patience := 5*time.Minute + time.Duration(size>>20)*time.Second
			sent := sendLines(t, b, topic, codec, files, size, patience)
			readBack(t, b, topic, sent, patience)
			b.deleteTopic(topic)
		})
	}
}

// content is what a partition holds as far as the producer decides it: keys and values in order.
type content struct {
	sha            hash.Hash
	count          int64
	bytes          int64
	empty, longest int // empty values, and the longest value
	buf            []byte
}

func (c *content) add(key, value []byte) {
	c.bytes += int64(len(key) + len(value))
	c.longest = max(c.longest, len(value))
	if len(value) == 0 {
		c.empty++
	}
	c.buf = appendFramed(appendFramed(c.buf[:0], key), value)
	c.sha.Write(c.buf)
	c.count++
}

func (c *content) String() string { return fmt.Sprintf("%d records, %x", c.count, c.sha.Sum(nil)) }

func newContents() []*content {
	of := make([]*content, roundTripPartitions)
	for i := range of {
		of[i] = &content{sha: sha256.New()}
	}
	return of
}

// sendLines pipes the lines of the files through kcat and returns what each partition must hold, from a computation of its own.
func sendLines(t *testing.T, b *broker, topic, codec string, files []string, size int64, patience time.Duration) []*content {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kcat", "-P", "-b", b.addr, "-t", topic, "-K", string(rune(roundTripDelimiter)), "-z", codec,
		"-X", "enable.idempotence=true", "-X", "partitioner=murmur2_random", "-X", "message.max.bytes=8388608", "-X", "linger.ms=10")
	ownProcess(cmd)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	began := time.Now()
	must(t, cmd.Start())
	sent := newContents()
	w := bufio.NewWriterSize(in, 1<<20)
	writeErr := writeLines(w, sent, files, size)
	writeErr = errors.Join(writeErr, w.Flush(), in.Close())
	if err := cmd.Wait(); err != nil || writeErr != nil {
		t.Fatalf("kcat: %v, %v\n%s", err, writeErr, stderr.String())
	}
	if strings.Contains(stderr.String(), "failed") {
		t.Errorf("kcat says:\n%s", clip(stderr.String()))
	}
	var all content
	for _, c := range sent {
		all.count += c.count
		all.bytes += c.bytes
		all.empty += c.empty
		all.longest = max(all.longest, c.longest)
	}
	t.Logf("%d records in %v: %d bytes of keys and values, %d values are empty, the longest has %d bytes",
		all.count, time.Since(began).Round(time.Millisecond), all.bytes, all.empty, all.longest)
	return sent
}

// writeLines writes key, delimiter and value of every record, and accounts for it in sent.
func writeLines(w *bufio.Writer, sent []*content, files []string, size int64) error {
	var total int64
	for cycle := 0; ; cycle++ {
		before := total
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			key := keyOf(fmt.Sprint(cycle, path))
			part := sent[murmur2(key)%roundTripPartitions]
			for line := range bytes.Lines(text) {
				line = bytes.TrimSuffix(line, []byte("\n"))
				for first := true; first || len(line) > 0; first = false {
					value := line[:min(len(line), roundTripLongest)]
					line = line[len(value):]
					w.Write(key)
					w.WriteByte(roundTripDelimiter)
					w.Write(value)
					if err := w.WriteByte('\n'); err != nil {
						return err
					}
					part.add(key, value)
					total += int64(len(key) + len(value))
					if size > 0 && total >= size {
						return nil
					}
				}
			}
		}
		if size == 0 {
			return nil
		}
		if total == before {
			return errors.New("the text files hold nothing")
		}
	}
}

// keyOf gives few keys many records and many keys few: a key's rank is distributed as 1/rank.
func keyOf(path string) []byte {
	h := fnv.New64a()
	io.WriteString(h, path)
	u := rand.New(rand.NewPCG(h.Sum64(), 1)).Float64()
	return fmt.Appendf(nil, "key-%d", int(math.Exp(u*math.Log(roundTripKeys))))
}

// murmur2 is the hash by which Kafka's default partitioner chooses a partition, made positive.
func murmur2(key []byte) uint32 {
	const m, r = 0x5bd1e995, 24
	h := 0x9747b28c ^ uint32(len(key))
	for ; len(key) >= 4; key = key[4:] {
		k := uint32(key[0]) | uint32(key[1])<<8 | uint32(key[2])<<16 | uint32(key[3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h = h*m ^ k
	}
	switch len(key) {
	case 3:
		h ^= uint32(key[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(key[0])) * m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h & 0x7fffffff
}

// readBack reads the topic with four clients at once. franz-go's reading is compared with what was sent, the others with franz-go's.
func readBack(t *testing.T, b *broker, topic string, sent []*content, patience time.Duration) {
	t.Helper()
	ends := b.endOffsets(topic)
	for p, c := range sent {
		if ends[int32(p)] != c.count {
			t.Errorf("partition %d ends at %d, sent were %d records", p, ends[int32(p)], c.count)
		}
	}
	if t.Failed() {
		return
	}
	got := newContents()
	java := javaCommand(t, "Digest", b.addr, topic)
	python := pythonCommand("confluent-kafka", "digest", b.addr, topic)
	readers := []struct {
		name string
		read func() (string, error)
	}{
		{"franz-go", func() (string, error) {
			return franzDigest(b, topic, ends, func(r *kgo.Record) { got[r.Partition].add(r.Key, r.Value) })
		}},
		{"kcat", func() (string, error) { return kcatDigest(b, topic, roundTripPartitions, patience) }},
		{"confluent-kafka", func() (string, error) { return commandDigest(t, patience, python) }},
		{"java", func() (string, error) { return commandDigest(t, patience, java) }},
	}
	outputs := make([]string, len(readers))
	errs := make([]error, len(readers))
	took := make([]time.Duration, len(readers))
	var wg sync.WaitGroup
	for i, r := range readers {
		wg.Go(func() {
			began := time.Now()
			outputs[i], errs[i] = r.read()
			took[i] = time.Since(began).Round(time.Millisecond)
		})
	}
	wg.Wait()
	for i, r := range readers {
		switch {
		case errs[i] != nil:
			t.Errorf("%s: %v", r.name, errs[i])
		case outputs[i] != outputs[0]:
			t.Errorf("%s read\n%sfranz-go read\n%s", r.name, outputs[i], outputs[0])
		}
		t.Logf("%s: %v", r.name, took[i])
	}
	for p, c := range sent {
		if errs[0] == nil && got[p].String() != c.String() {
			t.Errorf("partition %d: sent %s; read %s", p, c, got[p])
		}
	}
}

// textFiles are the text files of the module and Maven caches in a random order that is the same each time.
func textFiles(t *testing.T) []string {
	t.Helper()
	dirs := []string{strings.TrimSpace(run(t, toolPatience, nil, "go", "env", "GOMODCACHE").stdout)}
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, ".m2", "repository"))
	}
	var files []string
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			}
			if d.Type().IsRegular() && isText(path) {
				files = append(files, path)
			}
			return nil
		})
		must(t, err)
	}
	if len(files) == 0 {
		t.Fatalf("no text files in %s", strings.Join(dirs, ", "))
	}
	slices.Sort(files)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	return files
}

// isText says whether a file begins as text does. Later bytes may be anything.
func isText(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 8192)
	n, err := io.ReadFull(f, head)
	return n > 0 && (err == nil || errors.Is(err, io.ErrUnexpectedEOF)) && bytes.IndexByte(head[:n], 0) < 0
}
