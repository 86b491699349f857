package bench

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/record"
)

// Payload is what the values consist of.
type Payload int

const (
	// Text is JSON of words and numbers; codecs make it two to four times smaller.
	Text Payload = iota
	// Random is noise, which no codec makes smaller.
	Random
)

// Keys is how often which key comes. Without keys the partitions take turns, batch by batch.
type Keys int

const (
	NoKeys Keys = iota
	// Uniform keys all come equally often.
	Uniform
	// Zipf keys: the second most frequent comes half as often as the first, the third a third as often.
	Zipf
)

const (
	keySize      = 16
	variants     = 4    // different batches for each partition with keys, or for all without
	scheduleSize = 4096 // batches after which the order of partitions begins again
	fixedSeed    = 2011 // two runs send the same bytes
)

// batch is a record batch as a producer sends it.
type batch struct {
	bytes   []byte
	records int32
	payload int // bytes of keys and values
}

// load is everything that is to be sent, made before the run: read only from then on.
type load struct {
	batches  map[int32][]*batch // by partition
	schedule []int32            // partitions in the order in which they get batches
	// of an average batch
	records, payload float64
}

// makeLoad makes the batches for the partitions.
func (o *Options) makeLoad(partitions []int32) (*load, error) {
	rng := rand.New(rand.NewPCG(fixedSeed, uint64(o.RecordSize)))
	l := &load{batches: map[int32][]*batch{}}
	if o.Keys == NoKeys {
		var shared []*batch
		for range variants {
			b, err := o.makeBatch(rng, nil)
			if err != nil {
				return nil, err
			}
			shared = append(shared, b)
		}
		for _, p := range partitions {
			l.batches[p] = shared
		}
		l.schedule = slices.Clone(partitions)
	} else if err := o.makeKeyed(l, rng, partitions); err != nil {
		return nil, err
	}
	n := 0.0
	for _, p := range l.schedule {
		for _, b := range l.batches[p] {
			l.records += float64(b.records)
			l.payload += float64(b.payload)
			n++
		}
	}
	l.records, l.payload = l.records/n, l.payload/n
	return l, nil
}

// makeKeyed gives each partition batches of those keys that hash to it, and as many turns as the keys have weight.
func (o *Options) makeKeyed(l *load, rng *rand.Rand, partitions []int32) error {
	hash := kgo.StickyKeyPartitioner(nil).ForTopic("")
	keys := map[int32]*keyPicker{}
	weights := make([]float64, len(partitions))
	for i := range o.KeyCount {
		key := fmt.Appendf(nil, "key-%012d", i)
		weight := 1.0
		if o.Keys == Zipf {
			weight = 1 / float64(i+1)
		}
		at := hash.Partition(&kgo.Record{Key: key}, len(partitions))
		p := partitions[at]
		if keys[p] == nil {
			keys[p] = &keyPicker{}
		}
		keys[p].add(key, weight)
		weights[at] += weight
	}
	turns := &keyPicker{}
	for i, p := range partitions {
		if keys[p] == nil {
			continue // no key is there
		}
		turns.add(binary.BigEndian.AppendUint32(nil, uint32(p)), weights[i])
		for range variants {
			b, err := o.makeBatch(rng, keys[p])
			if err != nil {
				return err
			}
			l.batches[p] = append(l.batches[p], b)
		}
	}
	for range scheduleSize {
		l.schedule = append(l.schedule, int32(binary.BigEndian.Uint32(turns.pick(rng))))
	}
	return nil
}

// keyPicker draws keys by their weights.
type keyPicker struct {
	keys [][]byte
	upTo []float64 // sum of the weights up to and with the key
}

func (k *keyPicker) add(key []byte, weight float64) {
	if n := len(k.upTo); n > 0 {
		weight += k.upTo[n-1]
	}
	k.keys, k.upTo = append(k.keys, key), append(k.upTo, weight)
}

func (k *keyPicker) pick(rng *rand.Rand) []byte {
	at, _ := slices.BinarySearch(k.upTo, rng.Float64()*k.upTo[len(k.upTo)-1])
	return k.keys[min(at, len(k.keys)-1)]
}

func (o *Options) makeBatch(rng *rand.Rand, keys *keyPicker) (*batch, error) {
	now := time.Now().UnixMilli()
	builder := record.NewBuilder(o.Codec)
	out := &batch{}
	for {
		var key []byte
		if keys != nil {
			key = keys.pick(rng)
		}
		before := builder.Size()
		builder.Add(now, key, o.makeValue(rng, o.RecordSize-len(key)))
		out.payload += o.RecordSize
		if size := builder.Size(); size+(size-before) > o.BatchSize { // the next one has no room
			break
		}
	}
	b, err := builder.Finish()
	out.bytes, out.records = b, b.Count()
	return out, err
}

func (o *Options) makeValue(rng *rand.Rand, n int) []byte {
	v := make([]byte, 0, n+128)
	if o.Payload == Random {
		for len(v) < n {
			v = binary.LittleEndian.AppendUint64(v, rng.Uint64())
		}
		return v[:n]
	}
	words := [...]string{"order", "customer", "river", "bridge", "harbour", "shipment", "invoice", "stone", "signal", "garden", "window",
		"carriage", "morning", "north", "letter", "market", "silver", "paper", "station", "record", "meadow", "copper", "island", "winter"}
	for i := 0; len(v) < n; i++ {
		v = fmt.Appendf(v, `{"id":"%016x","%s":"%s %s","amount":%d.%02d,"count":%d}`, rng.Uint64(),
			words[rng.IntN(len(words))], words[rng.IntN(len(words))], words[rng.IntN(len(words))], rng.IntN(1000), rng.IntN(100), i)
	}
	return v[:n]
}

// template is a Produce request with one batch, of which only a few bytes differ from one sending to the next.
type template struct {
	*batch
	partition int32
	prefix    []byte // everything before the batch
	suffix    []byte // everything after it
}

// Positions in a request and in a batch that are written before each sending.
const (
	posCorrelationID = 8
	posCRC           = 17
	posCovered       = 21 // what the CRC covers
	posProducerID    = 43
	posProducerEpoch = 51
	posSequence      = 53
)

// makeTemplate encodes the request once.
func (o *Options) makeTemplate(c *conn, topic string, partition int32, b *batch) (*template, error) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = o.Acks, int32(o.Timeout.Milliseconds())
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, b.bytes
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	if err := c.prepare(req); err != nil {
		return nil, err
	}
	if req.Version < 3 {
		return nil, tooOld(c, req)
	}
	frame := c.formatter.AppendRequest(nil, req, 0)
	tags := 0
	if req.IsFlexible() {
		tags = 3 // of partition, topic and request, all empty
	}
	end := len(frame) - tags
	begin := end - len(b.bytes)
	if begin < 0 || !slices.Equal(frame[begin:end], b.bytes) {
		panic("BUG: the batch does not stand where a Produce request has it")
	}
	return &template{batch: b, partition: partition, prefix: frame[:begin:begin], suffix: frame[end:]}, nil
}

// append appends the request to out.
func (t *template) append(out []byte, correlationID int32, id *producerID) []byte {
	start := len(out)
	out = append(out, t.prefix...)
	binary.BigEndian.PutUint32(out[start+posCorrelationID:], uint32(correlationID))
	at := len(out)
	out = append(out, t.bytes...)
	if id != nil {
		b := out[at:]
		binary.BigEndian.PutUint64(b[posProducerID:], uint64(id.id))
		binary.BigEndian.PutUint16(b[posProducerEpoch:], uint16(id.epoch))
		binary.BigEndian.PutUint32(b[posSequence:], uint32(id.next(t.partition, t.records)))
		binary.BigEndian.PutUint32(b[posCRC:], crc32.Checksum(b[posCovered:], id.castagnoli))
	}
	return append(out, t.suffix...)
}

// producerID is what makes a producer idempotent.
type producerID struct {
	id         int64
	epoch      int16
	sequences  map[int32]int32 // the next one, by partition
	castagnoli *crc32.Table
}

// next takes the sequence numbers of n records; they wrap from 2^31-1 to 0.
func (p *producerID) next(partition, n int32) int32 {
	s := p.sequences[partition]
	p.sequences[partition] = int32((int64(s) + int64(n)) & (1<<31 - 1))
	return s
}
