package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitFound   = 3   // log check: something is wrong with the files
	exitSignal  = 128 // plus the signal's number: 130 after Ctrl-C, 141 after a broken pipe
)

// App is everything a command may touch outside its flags. All fields but the
// functions named optional must be set; System sets them for a real process.
type App struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Env            func(name string) string // "" when unset
	Environ        func() []string          // as os.Environ; optional
	Now            func() time.Time

	// StdinIsTerminal and StderrIsTerminal decide about questions and progress lines,
	// StdoutIsTerminal about pictures that replace one another.
	StdinIsTerminal, StdoutIsTerminal, StderrIsTerminal bool

	// OutputGone says that nobody can read Stdout any more, for a command that waits
	// with nothing to write. Optional.
	OutputGone func() bool

	// Signals asks to stop: the first one ends the command's context, the second
	// one calls Exit at once. Nil means that nobody will ask.
	Signals <-chan os.Signal
	Exit    func(code int)

	// Command is a further process of this program. Optional.
	Command func(args ...string) *exec.Cmd

	// AddUser gives a user of the stopped broker that flags describe a password. Optional.
	AddUser func(ctx context.Context, ask AddUser, flags ServerFlags) error
	// RunServer runs a broker until ctx ends, drains it and returns. Optional.
	RunServer func(ctx context.Context, flags ServerFlags) error
	// AdoptDir brings partition directories into the metadata of the stopped broker
	// that flags describe. Optional.
	AdoptDir func(ctx context.Context, ask Adopt, flags ServerFlags) (Adopted, error)
}

// System is the App of a real process.
func System() App {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	return App{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Env: os.Getenv, Environ: os.Environ, Now: time.Now,
		StdinIsTerminal: isTerminal(os.Stdin), StdoutIsTerminal: isTerminal(os.Stdout), StderrIsTerminal: isTerminal(os.Stderr),
		OutputGone: func() bool { return readerGone(os.Stdout) },
		Signals:    signals, Exit: os.Exit,
		Command: ownCommand,
	}
}

// ownCommand is this program under the name by which it was called.
func ownCommand(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = os.Args[0]
	return cmd
}

// Main runs one command line (without the program's name) and returns the exit code.
func Main(app App, args []string) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	done := make(chan struct{})
	defer close(done)
	watchSignals(done, cancel, &app)

	root := newRoot(&app)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)

	var stopped *signalError
	interrupted := errors.As(context.Cause(ctx), &stopped)
	switch {
	case err == nil:
		return exitOK
	case interrupted && errors.Is(err, context.Canceled):
		return stopped.code()
	case errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		return exitSignal + int(syscall.SIGPIPE)
	}
	writeError(app.Stderr, err)
	if interrupted {
		return stopped.code()
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	var found *foundError
	if errors.As(err, &found) {
		return exitFound
	}
	return exitFailure
}

// watchSignals turns signals into the end of the context. Its goroutine ends with done.
func watchSignals(done <-chan struct{}, cancel context.CancelCauseFunc, app *App) {
	if app.Signals == nil {
		return
	}
	go func() {
		for first := true; ; first = false {
			select {
			case <-done:
				return
			case s := <-app.Signals:
				stop := &signalError{s}
				if !first {
					app.Exit(stop.code())
					return
				}
				cancel(stop)
			}
		}
	}()
}

// signalError is the cause of a context that a signal ended.
type signalError struct{ signal os.Signal }

func (e *signalError) Error() string { return e.signal.String() }

func (e *signalError) code() int {
	if n, ok := e.signal.(syscall.Signal); ok {
		return exitSignal + int(n)
	}
	return exitSignal + int(syscall.SIGINT)
}

// command is what every command's run function gets: the App and the global flags.
type command struct {
	*App
	bootstrap string
	output    string
	timeout   time.Duration

	commandConfig string // file of client properties
}

func newRoot(app *App) *cobra.Command {
	c := &command{App: app}
	root := &cobra.Command{
		Use:   "moldau",
		Short: "An event streaming broker that speaks Kafka's protocol, and its tools",
		Long: "Moldau is an event streaming broker that speaks Apache Kafka's protocol.\n" +
			"The commands below talk to Moldau and to Apache Kafka alike.\n\n" +
			"Exit codes: 0 success, 1 failure, 2 wrong command line, 3 damage found by log check, 128 and the\n" +
			"signal's number after a signal (130 after Ctrl-C). Results are on standard output, all else on standard error; with\n" +
			"-o json results are JSON. A first look at everything: moldau demo.",
		Example:           rootExample(app),
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return c.checkGlobals() },
	}
	asGroup(root)
	root.SetIn(app.Stdin)
	root.SetOut(app.Stdout)
	root.SetErr(app.Stderr)
	root.SetVersionTemplate("moldau {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	f := root.PersistentFlags()
	f.SortFlags = false
	f.StringVarP(&c.bootstrap, "bootstrap-server", "b", "",
		"brokers to ask first, `HOST:PORT,...` (default $MOLDAU_BOOTSTRAP_SERVERS, then localhost:9092)")
	f.StringVarP(&c.output, "output", "o", "text", "`FORMAT` of the output: text for people, json for programs")
	f.StringVar(&c.commandConfig, "command-config", "",
		"`FILE` of client properties for TLS and SASL, as of Kafka's tools (default $MOLDAU_COMMAND_CONFIG)")
	f.DurationVar(&c.timeout, "timeout", 15*time.Second, "how long to wait for an answer to one question")
	completeWith(root, "output", "text", "json")

	if app.RunServer != nil {
		root.AddCommand(newServer(c))
	}
	root.AddCommand(newTopic(c), newConfig(c), newProduce(c), newConsume(c), newGroup(c), newACL(c), newUser(c), newQuota(c), newCluster(c), newLog(c), newDoctor(c), newProfile(c), newDemo(c), newBench(c))
	return root
}

func rootExample(app *App) string {
	var server string
	if app.RunServer != nil {
		server = "  moldau server\n"
	}
	return server + "  moldau topic create orders --partitions 3\n" +
		"  seq 1000 | moldau produce orders\n" +
		"  moldau consume orders --offset -10 --exit-at-end"
}

func (c *command) checkGlobals() error {
	if c.output != "text" && c.output != "json" {
		return usagef("--output %q is unknown: text or json", c.output)
	}
	if c.timeout <= 0 {
		return usagef("--timeout %s: use a time above zero, such as 15s", c.timeout)
	}
	return nil
}

func (c *command) json() bool { return c.output == "json" }

// note tells a person something that is neither a result nor an error.
func (c *command) note(format string, args ...any) {
	fmt.Fprintf(c.Stderr, format+"\n", args...)
}

// asGroup makes cmd a command that only holds others: alone it prints its help.
func asGroup(cmd *cobra.Command) {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return unknownCommand(cmd, args[0])
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// version is the build's version, commit and Go version.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown, " + runtime.Version()
	}
	v, commit, dirty := info.Main.Version, "", ""
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = ", modified"
		}
	}
	if commit == "" {
		return fmt.Sprintf("%s (%s)", v, info.GoVersion)
	}
	return fmt.Sprintf("%s (commit %s%s, %s)", v, commit[:min(12, len(commit))], dirty, info.GoVersion)
}

// writeError tells a failure in one line, and several in as many.
func writeError(w io.Writer, err error) {
	for line := range strings.Lines(err.Error()) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			fmt.Fprintln(w, "moldau: "+line)
		}
	}
}

// oneLine keeps an error on one line, whatever it was made of.
func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
