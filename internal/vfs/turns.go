package vfs

import "context"

// Turns bounds how many reads of one disk wait for it at a time, each with an operating system thread, among those who have no
// worker that reads for them. Its methods may be called concurrently; on a nil *Turns nothing is bounded.
type Turns struct{ slots chan struct{} }

// NewTurns lets n reads wait at a time.
func NewTurns(n int) *Turns { return &Turns{make(chan struct{}, n)} }

// Do calls read when it is its turn. If ctx ends before that, read is not called and ctx's error returned.
func (t *Turns) Do(ctx context.Context, read func()) error {
	if t != nil { // protection: turns
		select {
		case t.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-t.slots }()
	}
	read()
	return nil
}
