// Package logtext holds what a log has written, for a test that reads it meanwhile.
package logtext

import (
	"bytes"
	"strings"
	"sync"
)

// Text is everything that was written to it. The zero value is empty; all methods may be called concurrently.
type Text struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// Write implements io.Writer.
func (t *Text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(p)
}

func (t *Text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// Count is how often the text has part, as strings.Count.
func (t *Text) Count(part string) int { return strings.Count(t.String(), part) }
