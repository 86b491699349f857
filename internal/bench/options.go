package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"moldau/internal/record"
)

// Options says what to measure. Defaults fills in what is zero and has a default.
type Options struct {
	Bootstrap []string
	Timeout   time.Duration // for an answer to one request
	ClientID  string

	// Topic is an existing one, unless Create is set; empty is a new one with a name of its own.
	Topic      string
	Create     bool
	Delete     bool // afterwards
	Partitions int32
	Replicas   int16
	Configs    map[string]string

	RecordSize int // of key and value
	BatchSize  int // before compression; at least one record
	Codec      record.Codec
	Payload    Payload
	Keys       Keys
	KeyCount   int

	Acks        int16
	Idempotent  bool
	Connections int
	InFlight    int // requests of one connection
	Rate        Rate
	// Gather makes one request of all that are due when it can be sent, as producers do that put what waits into one batch. Each
	// of them has its latency. Else a broker that does not keep up with the rate has to answer every one.
	Gather bool

	WarmUp   time.Duration
	Duration time.Duration
	// Until ends the measured interval when it is closed, if that is before Duration is over: what runs beside another measurement
	// ends with it. Optional.
	Until <-chan struct{}

	// Fill is how many bytes Consume writes into the topic first.
	Fill int64
	// Once makes Consume end at the end of the partitions; else it begins again there, until Duration is over.
	Once              bool
	FetchMaxBytes     int32
	PartitionMaxBytes int32
	MinBytes          int32
	MaxWait           time.Duration

	// Clocks are read at the beginning and at the end of the measured interval: the processor time
	// of this process, and in a comparison that of the broker. Result.Clocks has the differences.
	Clocks map[string]func() (time.Duration, error)
	// Sleep is one that is good to some ten microseconds; nil is time.Sleep, which may be a
	// millisecond late.
	Sleep func(time.Duration)
	// Progress is told about the run every now and then. Optional.
	Progress func(Progress)
	// Dial makes a connection; nil is plain TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Progress is how a run stands.
type Progress struct {
	Phase            string // creating, filling, warming up, measuring, draining
	Elapsed          time.Duration
	RecordsPerSecond float64 // since the last one
	BytesPerSecond   float64
}

const (
	maxConnections  = 10000
	maxBatchSize    = 64 << 20
	defaultInFlight = 5 // max.in.flight.requests.per.connection
)

// Defaults returns o with the defaults filled in, or an error that says which value cannot be.
func (o Options) Defaults() (Options, error) {
	o.defaults()
	switch {
	case len(o.Bootstrap) == 0:
		return o, errors.New("no bootstrap server is given")
	case o.RecordSize < 1 || o.RecordSize > maxBatchSize:
		return o, fmt.Errorf("a record size of %d: 1 to %d bytes", o.RecordSize, maxBatchSize)
	case o.BatchSize < 1 || o.BatchSize > maxBatchSize:
		return o, fmt.Errorf("a batch size of %d: 1 to %d bytes", o.BatchSize, maxBatchSize)
	case o.Acks < -1 || o.Acks > 1:
		return o, fmt.Errorf("acks %d: 0, 1 or -1 for all", o.Acks)
	case o.Idempotent && o.Acks != -1:
		return o, errors.New("an idempotent producer needs acks all")
	case o.Idempotent && o.InFlight > defaultInFlight:
		return o, fmt.Errorf("%d requests in flight: an idempotent producer may have %d", o.InFlight, defaultInFlight)
	case o.Connections < 1 || o.Connections > maxConnections:
		return o, fmt.Errorf("%d connections: 1 to %d", o.Connections, maxConnections)
	case o.InFlight < 1 || o.InFlight > 1<<16:
		return o, fmt.Errorf("%d requests in flight: 1 to %d", o.InFlight, 1<<16)
	case o.Partitions < 1:
		return o, fmt.Errorf("%d partitions: at least 1", o.Partitions)
	case o.Duration <= 0 || o.WarmUp < 0:
		return o, fmt.Errorf("a run of %s after %s: above zero", o.Duration, o.WarmUp)
	case o.Keys != NoKeys && o.RecordSize < keySize:
		return o, fmt.Errorf("a record size of %d: a key alone has %d bytes", o.RecordSize, keySize)
	case o.Keys != NoKeys && (o.KeyCount < 1 || o.KeyCount > 10_000_000):
		return o, fmt.Errorf("%d keys: 1 to 10000000", o.KeyCount)
	case o.Rate.negative():
		return o, errors.New("a rate below zero")
	}
	return o, nil
}

func (o *Options) defaults() {
	def(&o.Timeout, 15*time.Second)
	def(&o.ClientID, "moldau-bench")
	def(&o.Partitions, 1)
	def(&o.Replicas, -1)
	def(&o.RecordSize, 1024)
	def(&o.BatchSize, 16<<10)
	def(&o.KeyCount, 10000)
	def(&o.Connections, 1)
	def(&o.InFlight, defaultInFlight)
	def(&o.Duration, 10*time.Second)
	def(&o.FetchMaxBytes, 50<<20) // fetch.max.bytes
	def(&o.PartitionMaxBytes, 1<<20)
	def(&o.MinBytes, 1)
	def(&o.MaxWait, 500*time.Millisecond)
	if o.Sleep == nil {
		o.Sleep = time.Sleep
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
}

func def[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// Rate is a load per second, in records or in bytes of keys and values; zero means as much as
// the broker takes.
type Rate struct{ Records, Bytes float64 }

func (r Rate) negative() bool { return r.Records < 0 || r.Bytes < 0 }

// IsZero says that there is no rate.
func (r Rate) IsZero() bool { return r == Rate{} }

// String is how ParseRate reads it.
func (r Rate) String() string {
	switch {
	case r.Bytes > 0:
		return strconv.FormatFloat(r.Bytes/1e6, 'f', -1, 64) + "MB"
	case r.Records > 0:
		return strconv.FormatFloat(r.Records, 'f', -1, 64)
	}
	return "0"
}

// interval is the time between two requests of which each has records with bytes in it.
func (r Rate) interval(records, bytes float64) time.Duration {
	switch {
	case r.Bytes > 0:
		return time.Duration(bytes / r.Bytes * 1e9)
	case r.Records > 0:
		return time.Duration(records / r.Records * 1e9)
	}
	return 0
}

// ParseRate reads records (20000, 20k) or bytes a second (50MB, 48MiB); "/s" may follow.
func ParseRate(s string) (Rate, error) {
	plain := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(s), "/s"), "records")
	plain = strings.TrimSpace(plain)
	if strings.HasSuffix(plain, "B") {
		n, err := ParseSize(plain)
		return Rate{Bytes: float64(n)}, err
	}
	n, err := number(plain, map[string]float64{"": 1, "k": 1e3, "M": 1e6})
	return Rate{Records: n}, err
}

// ParseSize reads a number of bytes: 4096, 4KiB, 16KB, 1.5GB. KB is 1000 bytes, KiB is 1024.
func ParseSize(s string) (int64, error) {
	n, err := number(strings.TrimSpace(s), map[string]float64{
		"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	})
	return int64(n), err
}

func number(s string, units map[string]float64) (float64, error) {
	digits := strings.TrimRight(s, "kKMGTiB")
	factor, ok := units[strings.TrimSpace(s[len(digits):])]
	n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if !ok || err != nil || !(n >= 0 && n*factor <= 1<<62) { // NaN too
		return 0, fmt.Errorf("%q is no number with a unit", s)
	}
	return n * factor, nil
}
