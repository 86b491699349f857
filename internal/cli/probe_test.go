package cli

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestWhatIsNoBrokerIsSaid: each kind of wrong address has its own words and its own help.
func TestWhatIsNoBrokerIsSaid(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it is asked in other protocols too
	secure.StartTLS()
	t.Cleanup(secure.Close)
	echo := listenAndServe(t, func(c net.Conn) { _, _ = c.Write([]byte("220 mail.example ESMTP\r\n")) })
	closes := listenAndServe(t, func(net.Conn) {})
	silent := listenAndServe(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	// The client's end of a connection that stays: nobody listens there, and nobody can meanwhile.
	taken, err := net.Dial("tcp", silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	nobody := taken.LocalAddr().String()
	for _, c := range []struct{ addr, want string }{
		{nobody, "moldau: nothing listens on " + nobody + ": start a broker by 'moldau server', or name another by -b HOST:PORT\n"},
		{"no-such-host.invalid:9092", "moldau: there is no host of this name (no-such-host.invalid): check the spelling in -b, or use its IP address\n"},
		{plain.Listener.Addr().String(), "moldau: this port speaks HTTP, not Kafka's protocol (" + plain.Listener.Addr().String() + "): it may be a broker's moldau.http.listener"},
		{secure.Listener.Addr().String(), "moldau: this port speaks TLS (" + secure.Listener.Addr().String() + "): give --command-config a file"},
		{echo, "moldau: what listens there does not speak Kafka's protocol (" + echo + "): name a broker"},
		{closes, "moldau: what listens there does not speak Kafka's protocol (" + closes + "): name a broker"},
		{silent, "moldau: what listens there does not speak Kafka's protocol (" + silent + "): name a broker"},
		{nobody + "," + plain.Listener.Addr().String(), "moldau: no broker answers (" + "nothing listens on " + nobody + ", " + plain.Listener.Addr().String() + ": this port speaks HTTP, not Kafka's protocol): start one by 'moldau server'"},
	} {
		t.Run(c.want, func(t *testing.T) {
			t.Parallel()
			code, out, errs := run(t, "topic", "list", "-b", c.addr, "--timeout", "20s")
			if code != exitFailure || out != "" || !strings.HasPrefix(errs, c.want) {
				t.Errorf("-b %s: exit %d\n%s\nwant\n%s", c.addr, code, errs, c.want)
			}
		})
	}
}

// listenAndServe gives every connection to serve, and closes it then.
func listenAndServe(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestProbeOfAnInterruptedCommandEnds(t *testing.T) {
	addr := listenAndServe(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if p := probe(ctx, addr); p.what == listensKafka {
		t.Error("there is no broker")
	}
}
