package network

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"moldau/internal/stall"
	"moldau/internal/vfs"
	"moldau/test/logtext"
)

// A slow request's line says which stage took longest and who asked; what the client asked to wait is not slow.
func TestSlowRequestLog(t *testing.T) {
	svc := &fakeService{}
	h := serve(t, svc, func(o *Options) { o.SlowRequest = time.Minute })
	nc := h.dial()
	send(t, nc, request(keyFetch, 0, nil))
	expect(t, nc, 0)

	var e started
	now := time.Now()
	e.arrived, e.begun, e.local = now.Add(-time.Hour), now.Add(-time.Hour), now.Add(-time.Hour)
	e.ready, e.sending, e.mayPark = now, now, 59*time.Minute+30*time.Second
	e.call, e.key, e.size = svc.call(0), keyFetch, 123
	c := &Conn{srv: h.Server, listener: "PLAINTEXT"}
	c.observe(&e, now) // 30 s beyond what was asked: not a minute
	if strings.Contains(h.log.String(), "slow request") {
		t.Fatal("a wait that the client asked for is slow")
	}
	e.mayPark = 58 * time.Minute
	c.observe(&e, now)
	h.expectLog("slow request", "api=Fetch", "slowest=remote", "remote=1h0m0s", "local=0s", `who="a test"`, "requestBytes=123", "suppressed=0")
	e.local, e.mayPark = now.Add(-time.Minute), 0
	c.observe(&e, now)
	c.observe(&e, now)
	h.slow.last = time.Time{} // a second later
	c.observe(&e, now)
	h.expectLog("slow request", "slowest=local", "local=59m0s", "suppressed=2")
}

// Every stage has its names, and the total is the sum of those before it.
func TestStages(t *testing.T) {
	at := time.Now()
	next := func() time.Time { at = at.Add(time.Second); return at }
	e := started{arrived: next(), begun: next(), local: next(), ready: next(), sending: next(), throttle: 7 * time.Second, diskWait: time.Second}
	took, sum := e.times(next()), time.Duration(0)
	for s, n := range stageNames {
		if n.metric == "" || n.log == "" || took[s] == 0 {
			t.Errorf("stage %d (%v) is not complete: %v", s, n, took[s])
		}
		if stage(s) < stageTotal {
			sum += took[s]
		}
	}
	if sum != took[stageTotal] {
		t.Errorf("the stages are %v, the total %v", sum, took[stageTotal])
	}
}

// The own work of a request that takes too long is a stall.
func TestSlowLocalWorkIsAStall(t *testing.T) {
	log := new(logtext.Text)
	d := stall.Start(stall.Options{Threshold: time.Hour, FS: vfs.NewMem(), Dir: "stalls", Log: slog.New(slog.NewTextHandler(log, nil))})
	defer d.Close()
	svc := &fakeService{start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
		if call.corr == 2 {
			call.reply.LocalDone = time.Now().Add(2 * time.Hour)
		}
		return nil
	}}
	h := serve(t, svc, func(o *Options) { o.Stalls = d })
	nc := h.dial()
	for i := 1; i <= 2; i++ {
		send(t, nc, request(keyProduce, int32(i), nil))
		expect(t, nc, int32(i))
	}
	eventually(t, "told", func() bool { return strings.Contains(log.String(), "api=Produce") })
	if n := d.Count(stall.Request); n != 1 {
		t.Errorf("%d stalls, want 1", n)
	}
}

func (h *harness) open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.conns)
}
