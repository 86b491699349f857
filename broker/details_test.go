package broker

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestAsksHere: who comes from elsewhere, by a proxy or by the page of somebody else does not.
func TestAsksHere(t *testing.T) {
	for _, c := range []struct {
		from, host, forwarded string
		want                  bool
	}{
		{"127.0.0.1:4000", "localhost:9644", "", true},
		{"127.0.0.9:4000", "127.0.0.1:9644", "", true},
		{"[::1]:4000", "[::1]:9644", "", true},
		{"[::ffff:127.0.0.1]:4000", "LOCALHOST", "", true},
		{"10.0.0.7:4000", "localhost:9644", "", false},
		{"[fe80::1%eth0]:4000", "localhost:9644", "", false},
		{"127.0.0.1:4000", "broker.example:9644", "", false}, // a name that its owner let stand for 127.0.0.1
		{"127.0.0.1:4000", "localhost.example:9644", "", false},
		{"127.0.0.1:4000", "localhost:9644", "10.0.0.7", false},
		{"127.0.0.1:4000", "", "", false},
		{"", "localhost", "", false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/group", nil)
		r.RemoteAddr, r.Host = c.from, c.host
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := asksHere(r); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
