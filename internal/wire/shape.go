package wire

import (
	"fmt"
	"reflect"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A shape is what one value of a request looks like on the wire in one version: enough to walk over it.
//
// Which fields a version has is known only to kmsg's code, not to its types. So learn asks that code: it
// changes one field at a time and looks whether, and where, the encoding changes. A field that leaves it
// alone is not in this version; one that first changes the number of tagged fields is tagged. That
// covers every API and version kmsg knows and cannot fall behind it; TestShapesFitEveryRequest proves it.
type shape struct {
	kind   kind
	size   int           // kindFixed: bytes on the wire; otherwise bytes of the Go value (kindOptional: behind the pointer)
	elem   *shape        // kindArray, kindOptional
	fields []*shape      // kindStruct, in wire order, which is that of the Go type
	tags   []taggedShape // kindStruct
}

type taggedShape struct {
	tag uint32
	*shape
}

func (s *shape) tag(tag uint32) *shape {
	for _, t := range s.tags {
		if t.tag == tag {
			return t.shape
		}
	}
	return nil
}

type kind uint8

const (
	kindFixed kind = iota
	kindString
	kindBytes
	kindArray
	kindOptional // a structure behind a byte that says whether it is there
	kindStruct
)

func (k kind) String() string {
	return [...]string{"number", "string", "bytes", "array", "optional structure", "structure"}[k]
}

// learner holds one request, whose fields it changes and puts back.
type learner struct {
	req  kmsg.Request
	flex bool
}

// learn finds the shape of a request that kmsg knows.
func learn(key, version int16) *shape {
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	l := &learner{req: req, flex: req.IsFlexible()}
	return l.structure(reflect.ValueOf(req).Elem(), false)
}

func (l *learner) encode() []byte { return l.req.AppendTo(nil) }

// structure learns v, a structure that the request holds now. Inside a tagged field there are no further
// tagged ones, and the field's size in front would hide where a change is.
func (l *learner) structure(v reflect.Value, inTag bool) *shape {
	s := &shape{kind: kindStruct, size: int(v.Type().Size())}
	if inTag {
		change(v) // a tagged field with its default value is not encoded at all
	}
	base := l.encode()
	countAt := -1 // where the number of tagged fields is
	if tags, ok := unknownTags(v); ok && l.flex && !inTag {
		tags.Set(1<<20, nil)
		countAt = firstDifference(base, l.encode())
		*tags = kmsg.Tags{}
	}
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; name == "Version" && v.Addr().Interface() == any(l.req) || name == "UnknownTags" {
			continue
		}
		f := v.Field(i)
		old := reflect.New(f.Type()).Elem()
		old.Set(f)
		change(f)
		changed := l.encode()
		at := firstDifference(base, changed)
		switch {
		case at < 0: // not in this version
		case at == countAt:
			tag, _ := kbin.Uvarint(changed[at+1:])
			s.tags = append(s.tags, taggedShape{tag, l.value(f, true)})
		default:
			s.fields = append(s.fields, l.value(f, inTag))
		}
		f.Set(old)
	}
	return s
}

// value learns the field v, which change has given a value that is encoded.
func (l *learner) value(v reflect.Value, inTag bool) *shape {
	goSize := int(v.Type().Size())
	switch v.Kind() {
	case reflect.Bool, reflect.Int8, reflect.Uint8, reflect.Int16, reflect.Uint16, reflect.Int32, reflect.Uint32,
		reflect.Int64, reflect.Uint64, reflect.Float64, reflect.Array:
		return &shape{kind: kindFixed, size: goSize}
	case reflect.String:
		return &shape{kind: kindString, size: goSize}
	case reflect.Struct:
		return l.structure(v, inTag)
	case reflect.Pointer:
		if v.Type().Elem().Kind() == reflect.String {
			return &shape{kind: kindString, size: goSize}
		}
		return &shape{kind: kindOptional, size: int(v.Type().Elem().Size()), elem: l.structure(v.Elem(), inTag)}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return &shape{kind: kindBytes, size: goSize}
		}
		return &shape{kind: kindArray, size: goSize, elem: l.value(v.Index(0), inTag)}
	}
	panic(fmt.Sprintf("BUG: %T has a field of type %s", l.req, v.Type()))
}

// change gives v another value: one that differs from the default and from what it was.
func change(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(v.Uint() + 1)
	case reflect.Float64:
		v.SetFloat(v.Float() + 1)
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Array:
		change(v.Index(0))
	case reflect.Pointer:
		isNew := v.IsNil()
		p := fresh(v.Type().Elem())
		if !isNew {
			p.Set(v.Elem())
		}
		if !isNew || p.Kind() == reflect.String { // a structure that appears is change enough
			change(p)
		}
		v.Set(p.Addr())
	case reflect.Slice:
		v.Set(reflect.Append(v, fresh(v.Type().Elem())))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "UnknownTags" {
				change(v.Field(i))
			}
		}
	}
}

// fresh is an addressable value of type t with kmsg's defaults.
func fresh(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	if d, ok := p.Interface().(interface{ Default() }); ok {
		d.Default()
	}
	return p.Elem()
}

func unknownTags(v reflect.Value) (*kmsg.Tags, bool) {
	f := v.FieldByName("UnknownTags")
	if !f.IsValid() {
		return nil, false
	}
	tags, ok := f.Addr().Interface().(*kmsg.Tags)
	return tags, ok
}

// firstDifference is the first position at which a and b differ, -1 if they do not.
func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) == len(b) {
		return -1
	}
	return min(len(a), len(b))
}
