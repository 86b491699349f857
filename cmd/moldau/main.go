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
	app.AdoptDir = func(ctx context.Context, ask cli.Adopt, f cli.ServerFlags) (cli.Adopted, error) {
		o := runOptions(app, f)
		o.LogLevel = "warn" // what it did is its output
		done, err := broker.Adopt(ctx, broker.AdoptOptions{RunOptions: o, Path: ask.Path, DryRun: ask.DryRun, FillGaps: ask.FillGaps})
		if err != nil {
			return cli.Adopted{}, err
		}
		return adopted(done, ask.DryRun), nil
	}
	app.AddUser = func(ctx context.Context, ask cli.AddUser, f cli.ServerFlags) error {
		o := runOptions(app, f)
		o.LogLevel = "warn"
		return broker.AddUser(ctx, broker.AddUserOptions{RunOptions: o, Name: ask.Name, Password: ask.Password, Mechanisms: ask.Mechanisms, Iterations: ask.Iterations})
	}
	os.Exit(cli.Main(app, os.Args[1:]))
}

// runOptions carries the flags that were given over to the broker.
func runOptions(app cli.App, f cli.ServerFlags) broker.RunOptions {
	flags := map[string]string{}
	for name, value := range map[string]string{"data-dir": f.DataDir, "listen": f.Listen, "http": f.HTTP, "tls": f.TLS} {
		if value != "" {
			flags[name] = value
		}
	}
	return broker.RunOptions{
		ConfigFile: f.ConfigFile, Env: os.Environ(), Sets: f.Set, Flags: flags,
		LogLevel: f.LogLevel, LogFormat: f.LogFormat, LogTo: os.Stderr, Terminal: app.StderrIsTerminal,
	}
}

// adopted puts the broker's account of an adoption into the form of the output.
func adopted(a *broker.Adoption, dryRun bool) cli.Adopted {
	out := cli.Adopted{LogDirs: a.LogDirs, DryRun: dryRun, Known: a.Known}
	for _, t := range a.Topics {
		topic := cli.AdoptedTopic{Name: t.Name, NewID: t.NewID, Partitions: t.Partitions, Configs: t.Configs}
		if !t.ID.IsZero() {
			topic.ID = t.ID.String()
		}
		for _, l := range t.Logs {
			topic.Logs = append(topic.Logs, cli.AdoptedPartition{Partition: l.Partition, Dir: l.Dir,
				StartOffset: l.Start, EndOffset: l.End, Bytes: l.Bytes, SetAsideBytes: l.SetAside})
		}
		out.Topics = append(out.Topics, topic)
	}
	return out
}
