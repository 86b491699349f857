package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// eachAPI calls f for every API and version that kmsg knows.
func eachAPI(f func(key, version int16)) {
	for key := int16(0); key <= kmsg.MaxKey; key++ {
		if r := kmsg.RequestForKey(key); r != nil {
			for v := int16(0); v <= r.MaxVersion(); v++ {
				f(key, v)
			}
		}
	}
}

func TestVersionTableAgreesWithKmsg(t *testing.T) {
	if len(apis) != kmsg.MaxKey+1 {
		t.Fatalf("%d keys, kmsg has %d", len(apis), kmsg.MaxKey+1)
	}
	for key := int16(-1); key <= kmsg.MaxKey+1; key++ {
		r := kmsg.RequestForKey(key)
		v, ok := versionsOf(key)
		if ok != (r != nil) {
			t.Fatalf("key %d known: %v", key, ok)
		}
		if !ok {
			continue
		}
		if v.max != r.MaxVersion() {
			t.Errorf("%s: max %d, kmsg %d", kmsg.NameForKey(key), v.max, r.MaxVersion())
		}
		for version := int16(0); version <= v.max; version++ {
			if r.SetVersion(version); r.IsFlexible() != (version >= v.flexible) {
				t.Errorf("%s version %d: flexible %v", kmsg.NameForKey(key), version, r.IsFlexible())
			}
		}
	}
}

// fill sets every field at random. With tags, every structure gets unknown tagged fields.
func fill(rnd *rand.Rand, v reflect.Value, most int, tags bool) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(rnd.Intn(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(rnd.Int63() >> rnd.Intn(63))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(rnd.Uint64())
	case reflect.Float64:
		v.SetFloat(rnd.Float64())
	case reflect.String:
		v.SetString(strings.Repeat("s", rnd.Intn(20)))
	case reflect.Array:
		for i := range v.Len() {
			fill(rnd, v.Index(i), most, tags)
		}
	case reflect.Pointer:
		if rnd.Intn(3) > 0 {
			p := fresh(v.Type().Elem())
			fill(rnd, p, most, tags)
			v.Set(p.Addr())
		}
	case reflect.Slice:
		n := rnd.Intn(most + 1)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			v.Index(i).Set(fresh(v.Type().Elem()))
			fill(rnd, v.Index(i), most, tags)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			switch v.Type().Field(i).Name {
			case "UnknownTags":
				if tags {
					v.Field(i).Addr().Interface().(*kmsg.Tags).Set(uint32(1000+rnd.Intn(3)), []byte("?"))
				}
			default:
				fill(rnd, v.Field(i), most, tags)
			}
		}
	}
}

func randomRequest(rnd *rand.Rand, key, version int16, most int, tags bool) kmsg.Request {
	r := kmsg.RequestForKey(key)
	fill(rnd, reflect.ValueOf(r).Elem(), most, tags && rnd.Intn(2) == 0)
	r.SetVersion(version)
	return r
}

func TestShapesFitEveryRequest(t *testing.T) {
	seed := rand.Int63()
	rnd := rand.New(rand.NewSource(seed))
	var d Decoder
	eachAPI(func(key, version int16) {
		v, _ := versionsOf(key)
		for range 30 {
			body := randomRequest(rnd, key, version, 3, true).AppendTo(nil)
			w := scan{r: kbin.Reader{Src: append(bytes.Clone(body), "after"...)}, flexible: version >= v.flexible, budget: 1 << 40}
			if err := w.value(d.shape(key, version)); err != nil || string(w.r.Src) != "after" {
				t.Fatalf("seed %d: %s version %d: %v, %d bytes left\n% x", seed, kmsg.NameForKey(key), version, err, len(w.r.Src)-5, body)
			}
			got, err := d.DecodeRequest(key, version, append(bytes.Clone(body), "after"...))
			if err != nil {
				t.Fatalf("seed %d: %s version %d: %v", seed, kmsg.NameForKey(key), version, err)
			}
			if again := got.AppendTo(nil); got.GetVersion() != version || !bytes.Equal(again, body) {
				t.Fatalf("seed %d: %s version %d\n% x\n% x", seed, kmsg.NameForKey(key), version, body, again)
			}
			for range 5 {
				if len(body) == 0 {
					break
				}
				cut := body[:rnd.Intn(len(body))]
				want := kmsg.RequestForKey(key)
				want.SetVersion(version)
				_, err := d.DecodeRequest(key, version, cut)
				if wantErr := want.ReadFrom(cut); (wantErr != nil) != (err != nil) {
					t.Fatalf("seed %d: %s version %d cut: %v, kmsg: %v", seed, kmsg.NameForKey(key), version, err, wantErr)
				}
			}
		}
	})
}

// allocated is what f allocates, freed or not.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// checkMemory decodes body and fails if that took more than the package promises. The root of the request
// and errors are allowed on top.
func checkMemory(t *testing.T, d *Decoder, key, version int16, body []byte, what string) {
	t.Helper()
	const rootAndError = 8 << 10
	used := allocated(func() { _, _ = d.DecodeRequest(key, version, body) })
	if most := memoryAtLeast + memoryPerByte*int64(len(body)) + rootAndError; used > most {
		t.Errorf("%s version %d: %s: %d bytes allocated for %d received (%.1f times)", kmsg.NameForKey(key), version, what, used, len(body), float64(used)/float64(len(body)))
	}
	if key == keyProduce && version >= 3 {
		used := allocated(func() { _, _ = decodeProduce(version, body) })
		if most := 32*int64(len(body)) + rootAndError; used > most {
			t.Errorf("DecodeProduce version %d: %s: %d bytes allocated for %d received", version, what, used, len(body))
		}
	}
}

func TestHostileRequestsTakeLittleMemory(t *testing.T) {
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewSource(seed))
	var d Decoder
	const size = 40_000
	random := make([]byte, size)
	rnd.Read(random)
	fills := map[string][]byte{
		"zeros": make([]byte, size), "ones": bytes.Repeat([]byte{1}, size), "0xff": bytes.Repeat([]byte{0xff}, size),
		"unknown tags": bytes.Repeat([]byte{1, 0x7f, 0}, size/3), "random": random,
		"counts": bytes.Repeat([]byte{0, 0, 0x40, 0}, size/4), "compact counts": bytes.Repeat([]byte{0xff, 0x3f}, size/2),
	}
	eachAPI(func(key, version int16) {
		d.shape(key, version) // learnt once, not for each request
		for name, p := range fills {
			checkMemory(t, &d, key, version, p, name)
		}
		// A count of many elements at some position of a valid request, and then elements, or none.
		body := randomRequest(rnd, key, version, 2, false).AppendTo(nil)
		for range 3 {
			at := rnd.Intn(len(body) + 1)
			for _, count := range [][]byte{
				binary.BigEndian.AppendUint32(nil, uint32(size)), binary.BigEndian.AppendUint32(nil, 1<<31-1),
				binary.AppendUvarint(nil, size), binary.AppendUvarint(nil, 1<<32-1), binary.BigEndian.AppendUint32(nil, size/8), binary.AppendUvarint(nil, size/4),
			} {
				x := append(append(bytes.Clone(body[:at]), count...), fills["zeros"]...)
				checkMemory(t, &d, key, version, x, fmt.Sprintf("count % x at %d, then zeros", count, at))
			}
			x := append(append(bytes.Clone(body[:at]), 0xff, 0x3f), fills["unknown tags"]...)
			checkMemory(t, &d, key, version, x, fmt.Sprintf("count at %d, then tags", at))
		}
		checkMemory(t, &d, key, version, randomRequest(rnd, key, version, 6, true).AppendTo(nil), "valid")
	})
}

func TestTooManyElementsAreRefused(t *testing.T) {
	var d Decoder
	m := kmsg.NewPtrMetadataRequest()
	m.SetVersion(1)
	many := binary.BigEndian.AppendUint32(nil, maxElements+1)
	many = append(many, make([]byte, 3*maxElements)...)
	if _, err := d.DecodeRequest(m.Key(), 1, many); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	for _, n := range []int{maxTags, maxTags + 1} {
		body := kmsg.NewPtrApiVersionsRequest()
		body.Version = 3
		p := body.AppendTo(nil)
		p = binary.AppendUvarint(p[:len(p)-1], uint64(n))
		for i := range n {
			p = append(binary.AppendUvarint(p, uint64(i+100)), 2, 0, 0)
		}
		frame := append([]byte{0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff}, binary.AppendUvarint(nil, uint64(n))...)
		for i := range n {
			frame = append(binary.AppendUvarint(frame, uint64(i)), 0)
		}
		_, _, headerErr := ParseRequestHeader(frame, "")
		_, err := d.DecodeRequest(keyAPIVersions, 3, p)
		if n > maxTags && (!errors.Is(err, ErrMalformed) || !errors.Is(headerErr, ErrMalformed)) {
			t.Errorf("%d tags: %v, header: %v", n, err, headerErr)
		}
		if n <= maxTags && headerErr != nil {
			t.Errorf("%d tags in the header: %v", n, headerErr)
		}
	}
	// A claim of 2^32-1 tagged fields must not keep the processor busy.
	if _, err := d.DecodeRequest(keyAPIVersions, 3, []byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f}); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

func TestUnknownAPIsAndVersionsAreUnsupported(t *testing.T) {
	var d Decoder
	for _, c := range [][2]int16{{-1, 0}, {kmsg.MaxKey + 1, 0}, {3, 99}, {3, -1}, {32767, 32767}, {-32768, -32768}} {
		if _, err := d.DecodeRequest(c[0], c[1], nil); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%v: %v", c, err)
		}
	}
	for _, v := range []int16{-1, 0, 2, 14} {
		if _, err := decodeProduce(v, nil); !errors.Is(err, ErrUnsupported) {
			t.Error(v, err)
		}
	}
}

func TestEveryRequestHeaderIsParsed(t *testing.T) {
	eachAPI(func(key, version int16) {
		if key == 7 && version == 0 {
			return // its header has no client id; no version of ControlledShutdown is served
		}
		r := kmsg.RequestForKey(key)
		r.SetVersion(version)
		for _, f := range []*kmsg.RequestFormatter{kmsg.NewRequestFormatter(), kmsg.NewRequestFormatter(kmsg.FormatterClientID("me"))} {
			frame := f.AppendRequest(nil, r, 77)[4:]
			h, body, err := ParseRequestHeader(frame, "")
			if err != nil || h.Key != key || h.Version != version || h.CorrelationID != 77 || !bytes.Equal(body, r.AppendTo(nil)) {
				t.Fatalf("%s version %d: %+v %v", kmsg.NameForKey(key), version, h, err)
			}
			if h.HasClientID != (h.ClientID == "me") {
				t.Fatalf("client id %q", h.ClientID)
			}
		}
	})
}

func TestHeaderOfAnUnknownVersionIsStillRead(t *testing.T) {
	h, _, err := ParseRequestHeader([]byte{0, 18, 0, 99, 0, 0, 0, 5, 0, 2, 'm', 'e', 0}, "")
	if !errors.Is(err, ErrUnsupported) || h.Key != 18 || h.Version != 99 || h.CorrelationID != 5 || h.ClientID != "me" {
		t.Fatalf("%+v %v", h, err)
	}
	for n := range 8 {
		if _, _, err := ParseRequestHeader(make([]byte, n), ""); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if _, _, err := ParseRequestHeader([]byte{0, 3, 0, 1, 0, 0, 0, 5, 0x7f, 0xff}, ""); !errors.Is(err, ErrMalformed) {
		t.Fatalf("client id beyond the end: %v", err)
	}
}

func TestProduceIsDecodedWithoutCopyingRecords(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	for version := int16(3); version <= 13; version++ {
		for range 50 {
			want := randomRequest(rnd, keyProduce, version, 4, true).(*kmsg.ProduceRequest)
			body := want.AppendTo(nil)
			got, err := decodeProduce(version, append(body, "after"...))
			if err != nil {
				t.Fatal(err)
			}
			if got.Acks != want.Acks || got.Timeout.Milliseconds() != int64(want.TimeoutMillis) || len(got.Topics) != len(want.Topics) ||
				!reflect.DeepEqual(got.TransactionalID, want.TransactionID) {
				t.Fatalf("version %d: %+v %+v", version, got, want)
			}
			for i, topic := range got.Topics {
				w := want.Topics[i]
				if version >= 13 && topic.ID != w.TopicID || version < 13 && topic.Name != w.Topic || len(topic.Partitions) != len(w.Partitions) {
					t.Fatalf("version %d: topic %+v %+v", version, topic, w)
				}
				for j, p := range topic.Partitions {
					if p.Index != w.Partitions[j].Partition || !bytes.Equal(p.Records, w.Partitions[j].Records) || (p.Records == nil) != (w.Partitions[j].Records == nil) {
						t.Fatalf("version %d: partition %+v", version, p)
					}
				}
			}
			if cut := body[:rnd.Intn(len(body))]; true {
				if _, err := decodeProduce(version, cut); !errors.Is(err, ErrMalformed) {
					t.Fatalf("version %d: cut at %d of %d: %v", version, len(cut), len(body), err)
				}
			}
		}
	}
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(9)
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: []kmsg.ProduceRequestTopicPartition{{Records: make([]byte, 1<<20)}}}}
	body := req.AppendTo(nil)
	if used := allocated(func() { _, _ = decodeProduce(9, body) }); used > 4<<10 {
		t.Fatalf("%d bytes allocated", used)
	}
}

func FuzzDecode(f *testing.F) {
	rnd := rand.New(rand.NewSource(1))
	eachAPI(func(key, version int16) {
		f.Add(key, version, randomRequest(rnd, key, version, 2, false).AppendTo(nil))
	})
	var d Decoder
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		if v, ok := versionsOf(key); ok && version >= 0 && version <= v.max {
			d.shape(key, version)
		}
		checkMemory(t, &d, key, version, body, "fuzzed")
	})
}

func FuzzParseRequestHeader(f *testing.F) {
	f.Add([]byte{0, 18, 0, 3, 0, 0, 0, 5, 0, 2, 'm', 'e', 1, 0, 1, 'x'})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if _, body, err := ParseRequestHeader(frame, ""); err == nil && len(body) > len(frame)-10 {
			t.Fatal("body overlaps the header")
		}
	})
}

func TestOneDecoderServesManyConnections(t *testing.T) {
	var d Decoder
	var wg sync.WaitGroup
	for seed := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewSource(int64(seed)))
			for key := int16(0); key < 30; key++ {
				v, ok := versionsOf(key)
				if !ok {
					continue
				}
				if _, err := d.DecodeRequest(key, v.max, randomRequest(rnd, key, v.max, 2, false).AppendTo(nil)); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
}

func decodeProduce(version int16, body []byte) (*ProduceRequest, error) {
	q := &ProduceRequest{}
	return q, q.Decode(version, body)
}
