// Command bench runs Moldau and Apache Kafka side by side on one machine and writes down what that
// shows: it alone knows the matrix of scenarios, in which order they run, when a run does not count,
// and what the report looks like. The load is internal/bench's; docs/benchmarks/README.md explains
// the method.
//
// Invariants:
//  1. Figures are compared only within a pair: one run of each broker, one right after the other.
//  2. Every run is published, also those that do not count, with the reason.
//  3. Every process that the program started has ended when it ends, killed by its pid if need be.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"
)

// settings are the command line.
type settings struct {
	duration, warmUp time.Duration
	pairs            int
	again            int // pairs beyond these, for those that do not count
	full             bool
	moldauOnly       bool
	list             bool
	scenario         *regexp.Regexp
	root             string // of the repository
	binary           string // moldau, "" builds it
	work             string // where the data directories are made
	out              string
	fill             int64 // bytes for consumers and restarts
	equalise         int64 // most bytes of page cache that are made ready before a run
	partitions       int   // of the scenario with many
	restartBytes     int64 // in their last segments when the broker is killed
	settle           time.Duration
	rough            bool // neither waits for the disk nor measures the machine for long: nobody reads the figures
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := parse(os.Args[1:])
	if err == nil {
		err = s.run(ctx)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.BoolVar(&s.full, "full", false, "the whole matrix in long runs: 10 s after 5 s, 7 pairs, all codecs with all sizes; takes hours")
	f.DurationVar(&s.duration, "duration", 0, "how long each run is measured (default 3s)")
	f.DurationVar(&s.warmUp, "warm-up", -1, "how long each run goes before that (default 500ms)")
	f.IntVar(&s.pairs, "pairs", 0, "runs of each broker for each figure (default 2)")
	f.IntVar(&s.again, "again", 0, "further pairs for each figure, while fewer than --pairs count")
	pattern := f.String("scenario", "", "only scenarios whose name matches this regular expression")
	f.BoolVar(&s.list, "list", false, "print the chosen scenarios, with about how long they take, and exit")
	f.BoolVar(&s.moldauOnly, "moldau-only", false, "without Apache Kafka, at fixed rates: a check of the program, not a comparison")
	f.IntVar(&s.partitions, "partitions", manyAll, "partitions of the scenario "+manyName)
	restartGB := f.Float64("restart-gb", 0, "GB in active segments when a broker with many partitions is killed (default 1, with --full 10)")
	f.StringVar(&s.root, "root", ".", "the repository")
	f.StringVar(&s.binary, "moldau", "", "the moldau binary (default builds it)")
	f.StringVar(&s.work, "work", "", "directory for the data, on the disk that is to be measured (default the system's for temporary files)")
	f.StringVar(&s.out, "out", "", "directory for the report (default docs/benchmarks/DATE)")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	var err error
	if s.scenario, err = regexp.Compile(*pattern); err != nil {
		return nil, fmt.Errorf("--scenario: %w", err)
	}
	s.fill, s.equalise, s.settle = 256<<20, 256<<20, 200*time.Millisecond
	s.restartBytes = 1e9
	duration, warmUp, pairs := 3*time.Second, 500*time.Millisecond, 2
	if s.full {
		duration, warmUp, pairs = 10*time.Second, 5*time.Second, 7
		s.fill, s.equalise, s.settle = 2<<30, 2<<30, time.Second
		s.restartBytes = 10e9
	}
	if *restartGB > 0 {
		s.restartBytes = int64(*restartGB * 1e9)
	}
	if s.duration <= 0 {
		s.duration = duration
	}
	if s.warmUp < 0 {
		s.warmUp = warmUp
	}
	if s.pairs <= 0 {
		s.pairs = pairs
	}
	if s.root, err = filepath.Abs(s.root); err != nil {
		return nil, err
	}
	if s.out == "" {
		s.out = filepath.Join(s.root, "docs", "benchmarks", time.Now().Format(time.DateOnly))
	}
	return s, nil
}

func (s *settings) run(ctx context.Context) error {
	matrix := s.scenarios()
	if s.list {
		line := func(name string, takes time.Duration, title string) {
			if s.scenario.MatchString(name) {
				fmt.Printf("%-28s %8s %s\n", name, takes.Round(time.Second), title)
			}
		}
		for _, sc := range matrix {
			line(sc.name, s.takes(sc), sc.title)
		}
		line("start", s.startsTake(), "starting on an empty directory, and again after a stop and after kill -9")
		for _, sc := range coldScenarios {
			line(sc.name, s.coldTakes(), sc.title()+"; needs root")
		}
		if s.scenario.MatchString(manyName) {
			fmt.Printf("%-28s %8s %s\n", manyName, "", s.manyTitle())
		}
		fmt.Printf("%-28s %8s\n", "in all, without that", s.estimate(matrix).Round(time.Second))
		return nil
	}
	if len(matrix) == 0 && !s.scenario.MatchString("start") && !s.scenario.MatchString(manyName) && !slices.ContainsFunc(coldScenarios, func(sc coldScenario) bool { return s.scenario.MatchString(sc.name) }) {
		return errors.New("no scenario has such a name: --list prints them")
	}
	dir, err := os.MkdirTemp(s.work, "moldau-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if s.binary == "" {
		if s.binary, err = build(ctx, s.root, dir); err != nil {
			return err
		}
	}
	facts, err := machineFacts(ctx, s, dir)
	if err != nil {
		return err
	}
	b := &runner{settings: s, dir: dir, say: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	b.report.Facts = facts
	err = b.all(ctx, matrix)
	if len(b.report.Runs)+len(b.report.Starts)+len(b.report.Colds)+len(b.report.Manies) == 0 {
		return err
	}
	// What has been measured is published even if something failed later.
	return errors.Join(err, b.report.write(s))
}
