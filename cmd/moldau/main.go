// Command moldau is the broker and its tools.
package main

import (
	"context"
	"os"

	"moldau/broker"
	"moldau/internal/cli"
)

func main() {
	app := cli.System()
	app.RunServer = func(ctx context.Context, f cli.ServerFlags) error { return broker.Run(ctx, runOptions(app, f)) }
	app.AdoptDir = func(ctx context.Context, dir string, f cli.ServerFlags) error {
		return broker.Adopt(ctx, dir, runOptions(app, f))
	}
	os.Exit(cli.Main(app, os.Args[1:]))
}

// runOptions carries the flags that were given over to the broker.
func runOptions(app cli.App, f cli.ServerFlags) broker.RunOptions {
	flags := map[string]string{}
	for name, value := range map[string]string{"data-dir": f.DataDir, "listen": f.Listen, "http": f.HTTP} {
		if value != "" {
			flags[name] = value
		}
	}
	return broker.RunOptions{
		ConfigFile: f.ConfigFile, Env: os.Environ(), Sets: f.Set, Flags: flags,
		LogLevel: f.LogLevel, LogFormat: f.LogFormat, LogTo: os.Stderr, Terminal: app.StderrIsTerminal,
	}
}
