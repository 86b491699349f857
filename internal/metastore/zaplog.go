package metastore

import (
	"context"
	"log/slog"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// falseAlarms are etcd warnings that are untrue for a new member inside this
// process: it has no port, no user, closes its own connections, and may be closed while it starts.
var falseAlarms = [...]string{
	"Running http and grpc server on single port",
	"simple token is not cryptographically signed",
	"use of closed network connection",
	"missing term information",                                       // of a database that has not seen its first entry yet
	"Please wait till wal snapshot before upgrading cluster",         // of one that was killed before its first
	"still pending configuration changes to apply",                   // it campaigns again with the next tick
	"aborting cluster version update; server is stopped",             // closed before the version was written, which the next
	"failed to update cluster version etcdserver: request cancelled", // start does
}

// bridge passes etcd's log entries from warn on to slog.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (b bridge) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (b bridge) With(f []zapcore.Field) zapcore.Core {
	return bridge{log: b.log, fields: append(b.fields[:len(b.fields):len(b.fields)], f...)}
}

func (b bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	attrs, text := b.attrs(e, fields)
	for _, alarm := range falseAlarms {
		if strings.Contains(text, alarm) {
			return nil
		}
	}
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	b.log.LogAttrs(context.Background(), level, e.Message, attrs...)
	return nil
}

// attrs renders the fields, and the text in which false alarms are looked for.
func (b bridge) attrs(e zapcore.Entry, fields []zapcore.Field) (attrs []slog.Attr, text string) {
	enc := zapcore.NewMapObjectEncoder()
	all := append(b.fields[:len(b.fields):len(b.fields)], fields...)
	text = e.Message
	for _, f := range all {
		f.AddTo(enc)
		if f.Type == zapcore.ErrorType {
			if err, ok := f.Interface.(error); ok {
				text += " " + err.Error()
			}
		}
		if v, ok := enc.Fields[f.Key]; ok && f.Key != "stack" {
			attrs = append(attrs, slog.Any(f.Key, v))
		}
	}
	return attrs, text
}

func (b bridge) Sync() error { return nil }

// park is what etcd's Fatal and Panic end in. It must not return: after a
// failed write of its log etcd would go on and acknowledge what is not on disk.
// Ending the goroutine would run etcd's deferred clean-up, which panics. So the
// goroutine stays parked, and with it etcd's file locks, until the process ends.
type park struct {
	fatal func(string)
}

func (p park) OnWrite(ce *zapcore.CheckedEntry, fields []zapcore.Field) {
	_, text := bridge{}.attrs(ce.Entry, fields)
	p.fatal(text)
	select {}
}

// newZap is the logger given to etcd; fatal hears why it can no longer go on.
func newZap(log *slog.Logger, fatal func(string)) *zap.Logger {
	p := park{fatal: fatal}
	return zap.New(bridge{log: log}, zap.WithFatalHook(p), zap.WithPanicHook(p))
}
