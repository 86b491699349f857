package vfs

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestTurns: so many at a time and no more; who gives up has read nothing, and makes room for nobody.
func TestTurns(t *testing.T) {
	const n = 3
	turns := NewTurns(n)
	in, out := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if err := turns.Do(context.Background(), func() { in <- struct{}{}; <-out }); err != nil {
				t.Error(err)
			}
		})
	}
	for range n {
		<-in
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if err := turns.Do(gone, func() { t.Error("one more reads") }); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	close(out)
	all.Wait()
	read := false
	for _, turns := range []*Turns{turns, nil} {
		if err := turns.Do(t.Context(), func() { read = true }); err != nil || !read {
			t.Errorf("read: %v, %v", read, err)
		}
		read = false
	}
}
