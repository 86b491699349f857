//go:build clients && linux

package clients

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A digest is what a client has read of one partition. Clients in several languages compute it, so the form is fixed: SHA-256 over
// all records in offset order, for each record
//
//	int64 offset, int64 timestamp in ms, bytes key, bytes value, int32 number of headers, for each header bytes key, bytes value
//
// all big endian, bytes being an int32 length (-1 for null) and the bytes. A program prints one line per partition:
// partition, number of records, first offset (0 when empty), offset after the last, digest in hex.
type digest struct {
	sha                hash.Hash
	count, first, next int64
	buf                []byte
}

func newDigest() *digest { return &digest{sha: sha256.New()} }

func (d *digest) add(offset, timestampMs int64, key, value []byte, headers []kgo.RecordHeader) {
	b := binary.BigEndian.AppendUint64(d.buf[:0], uint64(offset))
	b = binary.BigEndian.AppendUint64(b, uint64(timestampMs))
	b = appendFramed(b, key)
	b = appendFramed(b, value)
	b = binary.BigEndian.AppendUint32(b, uint32(len(headers)))
	for _, h := range headers {
		b = appendFramed(b, []byte(h.Key))
		b = appendFramed(b, h.Value)
	}
	d.sha.Write(b)
	d.buf = b
	if d.count == 0 {
		d.first = offset
	}
	d.count++
	d.next = offset + 1
}

func appendFramed(dst, b []byte) []byte {
	if b == nil {
		return binary.BigEndian.AppendUint32(dst, 0xffffffff)
	}
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}

// digests is a program's output, one line per partition in order, so that two of them can be compared as they are.
func digests(of map[int32]*digest) string {
	var s strings.Builder
	for _, p := range slices.Sorted(maps.Keys(of)) {
		d := of[p]
		fmt.Fprintf(&s, "%d %d %d %d %x\n", p, d.count, d.first, d.next, d.sha.Sum(nil))
	}
	return s.String()
}

// franzDigest reads a topic up to ends with franz-go; each also sees every record, if it is not nil.
func franzDigest(b *broker, topic string, ends map[int32]int64, each func(*kgo.Record), opts ...kgo.Opt) (string, error) {
	ofs := map[int32]kgo.Offset{}
	of := map[int32]*digest{}
	for p := range ends {
		ofs[p] = kgo.NewOffset().AtStart()
		of[p] = newDigest()
	}
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.addr), kgo.FetchMaxPartitionBytes(4 << 20),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: ofs})}, opts...)...)
	if err != nil {
		return "", err
	}
	defer c.Close()
	for !reached(of, ends) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		fs := c.PollRecords(ctx, 10000)
		cancel()
		if err := fs.Err(); err != nil {
			return "", fmt.Errorf("franz-go, at %swanting %v: %w", digests(of), ends, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			of[r.Partition].add(r.Offset, r.Timestamp.UnixMilli(), r.Key, r.Value, r.Headers)
			if each != nil {
				each(r)
			}
		})
	}
	return digests(of), nil
}

func reached(of map[int32]*digest, ends map[int32]int64) bool {
	for p, end := range ends {
		if of[p].next < end {
			return false
		}
	}
	return true
}

// kcatDigest reads a topic to its end with kcat, without headers, which kcat does not print unambiguously.
func kcatDigest(b *broker, topic string, partitions int32, patience time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kcat", "-C", "-b", b.addr, "-t", topic, "-o", "beginning", "-e", "-q",
		"-X", "check.crcs=true", "-f", `%p %o %T %K %S |%k%s\n`)
	ownProcess(cmd)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	of := map[int32]*digest{}
	for p := range partitions {
		of[p] = newDigest()
	}
	if err := parseKcat(bufio.NewReaderSize(out, 1<<20), of); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return "", fmt.Errorf("kcat: %w; it says: %s", err, stderr.String())
	}
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		return "", fmt.Errorf("kcat: %v: %s", err, stderr.String())
	}
	return digests(of), nil
}

func parseKcat(r *bufio.Reader, of map[int32]*digest) error {
	buf := make([]byte, 1<<20)
	for {
		head, err := r.ReadString('|')
		if err == io.EOF && head == "" {
			return nil
		}
		if err != nil {
			return err
		}
		var partition int32
		var offset, timestamp int64
		var keyLen, valueLen int
		if _, err := fmt.Sscanf(head, "%d %d %d %d %d |", &partition, &offset, &timestamp, &keyLen, &valueLen); err != nil {
			return fmt.Errorf("%q: %w", head, err)
		}
		if need := max(keyLen, 0) + max(valueLen, 0) + 1; need > len(buf) {
			buf = make([]byte, need)
		}
		body := buf[:max(keyLen, 0)+max(valueLen, 0)+1]
		if _, err := io.ReadFull(r, body); err != nil {
			return err
		}
		var key, value []byte
		if keyLen >= 0 {
			key = body[:keyLen]
		}
		if valueLen >= 0 {
			value = body[max(keyLen, 0) : len(body)-1]
		}
		d := of[partition]
		if d == nil {
			return fmt.Errorf("partition %d", partition)
		}
		d.add(offset, timestamp, key, value, nil)
	}
}

// commandDigest reads a topic with one of the programs in other languages.
func commandDigest(t testing.TB, patience time.Duration, command []string) (string, error) {
	r, err := try(t, patience, nil, command[0], command[1:]...)
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, clip(r.stderr))
	}
	return r.stdout, nil
}

func pythonCommand(library, command string, args ...string) []string {
	return append([]string{filepath.Join(cache(), "python", "bin", "python"), filepath.Join(root(), "test", "clients", "python", "client.py"),
		library, command}, args...)
}

func nodeCommand(command string, args ...string) []string {
	return append([]string{"node", filepath.Join(root(), "test", "clients", "node", "client.js"), command}, args...)
}

func saramaCommand(version, command string, args ...string) []string {
	return append([]string{filepath.Join(cache(), "sarama"), version, command}, args...)
}

// javaCommand is a program in java/, which install has compiled.
func javaCommand(t testing.TB, class string, args ...string) []string {
	t.Helper()
	jars := strings.TrimSpace(run(t, toolPatience, nil, launcher(), "classpath").stdout)
	return append([]string{"java", "-Xmx1g", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp",
		filepath.Join(cache(), "java") + string(os.PathListSeparator) + jars, class}, args...)
}
