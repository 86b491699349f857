package wire

import (
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Decoding may use this many bytes of memory for every byte received, and a constant for small requests.
const (
	memoryPerByte = 16
	memoryAtLeast = 64 << 10

	// What kmsg keeps besides the bytes: a map for the tagged fields it does not know, and its entries.
	tagMapBytes   = 512
	tagEntryBytes = 128
	stringBytes   = 16 // header of an optional string, or the rounding of the allocator
)

// Decoder decodes requests. kmsg allocates an array as soon as its count is below the number of bytes that
// remain, whatever the size of its elements, and loops over tagged fields by their claimed number; nested
// arrays make that quadratic. So a Decoder first walks the bytes by the request's shape, without
// allocating, and refuses what is not really there or would need too much memory.
//
// The zero value is ready for use, also concurrently. It remembers the shapes (see shape.go) of the
// APIs and versions that it has met.
type Decoder struct {
	shapes sync.Map // uint32(key)<<16 | version -> *shape
}

// DecodeRequest returns the request in body. Strings are copied, byte slices are views of body. Bytes after the
// request are ignored, as Kafka does. Errors wrap ErrUnsupported or ErrMalformed.
func (d *Decoder) DecodeRequest(key, version int16, body []byte) (kmsg.Request, error) {
	v, known := versionsOf(key)
	if !known || version < 0 || version > v.max {
		return nil, fmt.Errorf("%w: API key %d version %d", ErrUnsupported, key, version)
	}
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	w := scan{r: kbin.Reader{Src: body}, flexible: version >= v.flexible, budget: memoryAtLeast + memoryPerByte*int64(len(body))}
	if err := w.value(d.shape(key, version)); err != nil {
		return nil, fmt.Errorf("%s version %d: %w", kmsg.NameForKey(key), version, err)
	}
	if err := req.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("%w: %s version %d: %w", ErrMalformed, kmsg.NameForKey(key), version, err)
	}
	return req, nil
}

func (d *Decoder) shape(key, version int16) *shape {
	id := uint32(key)<<16 | uint32(version)
	if s, ok := d.shapes.Load(id); ok {
		return s.(*shape)
	}
	s, _ := d.shapes.LoadOrStore(id, learn(key, version))
	return s.(*shape)
}

// scan walks a request and counts the memory that decoding it will take.
type scan struct {
	r        kbin.Reader
	flexible bool
	budget   int64
}

func (w *scan) spend(n int64) error {
	if w.budget -= n; w.budget < 0 {
		return fmt.Errorf("%w: needs too much memory for its size", ErrMalformed)
	}
	return nil
}

func (w *scan) short(what string) error {
	return fmt.Errorf("%w: %s runs past the end", ErrMalformed, what)
}

// value walks one value of the shape s.
func (w *scan) value(s *shape) error {
	switch s.kind {
	case kindFixed:
		w.r.Span(s.size)
	case kindString:
		n := w.length(2)
		if n > 0 {
			w.r.Span(int(n))
		}
		if err := w.spend(max(n, 0) + stringBytes); err != nil {
			return err
		}
	case kindBytes:
		if n := w.length(4); n > 0 {
			w.r.Span(int(n))
		}
	case kindOptional:
		if w.r.Int8() == -1 {
			break
		}
		if err := w.spend(int64(s.size)); err != nil {
			return err
		}
		return w.value(s.elem)
	case kindArray:
		return w.array(s)
	case kindStruct:
		return w.structure(s)
	}
	if !w.r.Ok() {
		return w.short(s.kind.String())
	}
	return nil
}

// length reads the length of a string, of bytes or of an array; -1 is null. What is below is malformed,
// but harmless: kmsg takes it for nothing.
func (w *scan) length(width int) int64 {
	switch {
	case w.flexible:
		return int64(w.r.Uvarint()) - 1
	case width == 2:
		return int64(w.r.Int16())
	}
	return int64(w.r.Int32())
}

func (w *scan) array(s *shape) error {
	n := w.length(4)
	if n > maxElements || n > int64(len(w.r.Src)) {
		return fmt.Errorf("%w: array of %d elements in %d bytes", ErrMalformed, n, len(w.r.Src))
	}
	if !w.r.Ok() {
		return w.short("array")
	}
	if n <= 0 {
		return nil
	}
	// Twice: kmsg appends a new slice to the array, and only an optimising compiler leaves that one out.
	if err := w.spend(2*n*int64(s.elem.size) + stringBytes); err != nil {
		return err
	}
	if s.elem.kind == kindFixed {
		w.r.Span(int(n) * s.elem.size)
		n = 0
	}
	for ; n > 0; n-- {
		if err := w.value(s.elem); err != nil {
			return err
		}
	}
	if !w.r.Ok() {
		return w.short("array")
	}
	return nil
}

func (w *scan) structure(s *shape) error {
	for _, f := range s.fields {
		if err := w.value(f); err != nil {
			return err
		}
	}
	if !w.flexible {
		return nil
	}
	n := w.r.Uvarint()
	if n > maxTags {
		return fmt.Errorf("%w: %d tagged fields", ErrMalformed, n)
	}
	unknown := false
	for ; n > 0; n-- {
		tag := w.r.Uvarint()
		inner := w.r.Span(int(w.r.Uvarint()))
		if !w.r.Ok() {
			return w.short("tagged field")
		}
		f := s.tag(tag)
		cost := int64(0)
		if f == nil {
			if cost = tagEntryBytes; !unknown {
				cost, unknown = tagMapBytes, true
			}
		}
		if err := w.spend(cost); err != nil || f == nil {
			if err != nil {
				return err
			}
			continue
		}
		in := scan{r: kbin.Reader{Src: inner}, flexible: true, budget: w.budget}
		if err := in.value(f); err != nil {
			return err
		}
		w.budget = in.budget
	}
	if !w.r.Ok() {
		return w.short("tagged fields")
	}
	return nil
}
