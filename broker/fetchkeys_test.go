package broker

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// TestAttackByRedirect: an identity provider, or who has taken its place, sends the broker nowhere else, and gives it no more than so much.
func TestAttackByRedirect(t *testing.T) {
	var visits atomic.Int32
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		visits.Add(1)
		_, _ = w.Write([]byte(`{"keys":[]}`))
	}))
	defer inside.Close()
	for status := http.StatusMovedPermanently; status <= http.StatusPermanentRedirect; status++ {
		outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", inside.URL)
			w.WriteHeader(status)
		}))
		u, err := url.Parse(outside.URL)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := fetchDocument(u); err == nil {
			t.Errorf("%d: %q", status, data)
		}
		outside.Close()
	}
	if n := visits.Load(); n != 0 {
		t.Errorf("the broker has followed %d times", n)
	}
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write([]byte(strings.Repeat("x", 1<<16))); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	u, err := url.Parse(endless.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fetchDocument(u); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a document without an end: %v", err)
	}
}
