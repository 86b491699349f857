package group

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// A table over another is what a copy of it would be, and the one below stays what it was.
func TestTable(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var below table[int]
		want := map[string]int{}
		change := func(t *table[int], m map[string]int) {
			for range rnd.IntN(30) {
				name := fmt.Sprint(rnd.IntN(12))
				if rnd.IntN(3) == 0 {
					t.remove(name)
					delete(m, name)
				} else {
					n := rnd.IntN(1000)
					t.set(name, n)
					m[name] = n
				}
			}
		}
		check := func(x *table[int], m map[string]int) {
			t.Helper()
			if got := maps.Collect(x.all()); !maps.Equal(got, m) || x.len() != len(m) || !slices.Equal(x.names(), slices.Sorted(maps.Keys(m))) {
				t.Fatalf("%v (%d), want %v", got, x.len(), m)
			}
			for i := range 12 {
				name := fmt.Sprint(i)
				v, ok := x.look(name)
				if w, there := m[name]; ok != there || v != w || x.get(name) != w {
					t.Fatalf("%s is %d %v, want %d %v", name, v, ok, w, there)
				}
			}
		}
		change(&below, want)
		check(&below, want)
		top, wantTop := below.over(), maps.Clone(want)
		change(&top, wantTop)
		check(&top, wantTop)
		check(&below, want)
		for range top.all() { // as far as it is wanted
			break
		}
	}
}
