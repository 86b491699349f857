package broker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"moldau/internal/config"
)

// RunOptions is what the command line says.
type RunOptions struct {
	ConfigFile string   // Kafka properties, "" without
	Env        []string // as os.Environ
	Sets       []string // key=value
	Flags      map[string]string
	LogLevel   string // debug, info, warn or error; "" is info
	LogFormat  string // text, json or auto; "" is auto
	LogTo      io.Writer
	Terminal   bool // LogTo is one
}

// drainTime is how long a stop waits for requests that have started.
const drainTime = 5 * time.Second

// Run starts a broker, serves until ctx ends, drains and stops.
func Run(ctx context.Context, o RunOptions) error {
	log, err := newLogger(o)
	if err != nil {
		return err
	}
	c, err := loadConfig(o, log)
	if err != nil {
		return err
	}
	// In a container the collector must know the limit before the kernel enforces it.
	if _, err := memlimit.Set(memlimit.WithRatio(0.9), memlimit.WithLogger(slog.New(slog.DiscardHandler))); err != nil {
		log.Debug("no memory limit was found", "error", err)
	}
	b, err := Start(ctx, Options{Config: c, Log: log})
	if err != nil {
		return err
	}
	rest := keepAwake(b.net.Received)
	<-ctx.Done()
	rest()
	log.Info(fmt.Sprintf("stopping: requests under way are answered, for at most %s; a second signal exits at once", drainTime),
		"reason", context.Cause(ctx).Error())
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := b.Close(drain); err != nil {
		return err
	}
	log.Info("stopped: everything is on the disk")
	return nil
}

func newLogger(o RunOptions) (*slog.Logger, error) {
	var level slog.Level
	if o.LogLevel != "" {
		if err := level.UnmarshalText([]byte(o.LogLevel)); err != nil {
			return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", o.LogLevel)
		}
	}
	opts := &slog.HandlerOptions{Level: level}
	if o.LogFormat == "json" || (o.LogFormat != "text" && !o.Terminal) {
		return slog.New(slog.NewJSONHandler(o.LogTo, opts)), nil
	}
	return slog.New(slog.NewTextHandler(o.LogTo, opts)), nil
}

func loadConfig(o RunOptions, log *slog.Logger) (*config.Broker, error) {
	src := config.Sources{Env: o.Env, Sets: o.Sets, Flags: o.Flags}
	if o.ConfigFile != "" {
		f, err := os.Open(o.ConfigFile)
		if err != nil {
			return nil, fmt.Errorf("the configuration file cannot be read (%w): name another by --config, or leave it out for the defaults", err)
		}
		defer f.Close()
		src.File, src.FileName = f, o.ConfigFile
	}
	c, warnings, err := config.Load(src)
	for _, w := range warnings {
		log.Log(context.Background(), w.Level, w.Text)
	}
	if err != nil {
		return nil, err // a line for each problem
	}
	return c, nil
}
