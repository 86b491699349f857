package group

import (
	"iter"
	"slices"
)

// table is a map by name. One may lie over another, which does not change as long as it is used: it holds only what differs. So a draft of a
// large group costs what it changes. The zero value is empty.
type table[V any] struct {
	own   map[string]V
	gone  map[string]struct{} // of those below
	below *table[V]
	n     int
}

func (t *table[V]) len() int { return t.n }

func (t *table[V]) look(name string) (v V, ok bool) {
	for ; t != nil; t = t.below {
		if v, ok = t.own[name]; ok {
			return v, true
		}
		if _, gone := t.gone[name]; gone {
			break
		}
	}
	return v, false
}

// get is the zero value for what is not there.
func (t *table[V]) get(name string) V {
	v, _ := t.look(name)
	return v
}

func (t *table[V]) set(name string, v V) {
	if _, ok := t.look(name); !ok {
		t.n++
	}
	if t.own == nil {
		t.own = map[string]V{}
	}
	t.own[name] = v
}

func (t *table[V]) remove(name string) {
	if _, ok := t.look(name); !ok {
		return
	}
	t.n--
	delete(t.own, name)
	if t.below == nil {
		return
	}
	if t.gone == nil {
		t.gone = map[string]struct{}{}
	}
	t.gone[name] = struct{}{}
}

// over is a table that lies over t.
func (t *table[V]) over() table[V] { return table[V]{below: t, n: t.n} }

// all are all entries, in no order.
func (t *table[V]) all() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for name, v := range t.own {
			if !yield(name, v) {
				return
			}
		}
		if t.below == nil {
			return
		}
		for name, v := range t.below.all() {
			_, changed := t.own[name]
			if _, gone := t.gone[name]; changed || gone {
				continue
			}
			if !yield(name, v) {
				return
			}
		}
	}
}

// names are all names, sorted.
func (t *table[V]) names() []string {
	out := make([]string, 0, t.n)
	for name := range t.all() {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
