package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"moldau/internal/config"
)

// ServerFlags is what the command line says about a broker. An empty string means that
// the flag was not given, and the environment, the file or the default decides.
type ServerFlags struct {
	ConfigFile string   // Kafka properties
	DataDir    string   // log.dirs and metadata.log.dir
	Listen     string   // listeners, HOST:PORT; port 0 lets the system choose
	HTTP       string   // moldau.http.listener, HOST:PORT or off
	TLS        string   // moldau.tls, off or auto
	Set        []string // key=value, Kafka's property names, in the order given
	LogLevel   string   // debug, info, warn or error
	LogFormat  string   // text, json or auto: text on a terminal
}

func newServer(c *command) *cobra.Command {
	var flags ServerFlags
	cmd := &cobra.Command{
		Use: "server", Short: "Run a broker", Args: exactly(0, ""),
		Long: "Run a broker; without flags a complete cluster of one, with its data in ./moldau-data.\n\n" +
			"SIGTERM or Ctrl-C finishes what is under way and exits; a second one exits at once.\n" +
			"Flags win over the environment (KAFKA_LOG_DIRS for log.dirs), which wins over the file.\n" +
			"moldau config explain KEY says what a property means.\n\n" +
			"Defaults are Apache Kafka's, except:\n" + strings.TrimRight(config.DefaultsText(), "\n"),
		Example: "  moldau server\n  moldau server --listen localhost:0 --data-dir /var/lib/moldau\n" +
			"  moldau server --config server.properties --set log.retention.ms=86400000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(); err != nil {
				return err
			}
			return c.RunServer(cmd.Context(), flags)
		},
	}
	addServerFlags(cmd, &flags)
	f := cmd.Flags()
	f.StringVar(&flags.Listen, "listen", "", "where clients connect, `HOST:PORT` (listeners); port 0 chooses a free one")
	f.StringVar(&flags.HTTP, "http", "", "where /live, /ready and /metrics are, `HOST:PORT` or off (moldau.http.listener)")
	f.StringVar(&flags.TLS, "tls", "", "`auto` makes a CA and a certificate, and says what clients need; with --listen or alone it is for that listener (moldau.tls)")
	f.StringVar(&flags.LogLevel, "log-level", "", "`LEVEL`: debug, info (default), warn or error")
	f.StringVar(&flags.LogFormat, "log-format", "", "`FORMAT`: text, json or auto (default): text on a terminal")
	completeWith(cmd, "tls", "auto", "off")
	completeWith(cmd, "log-level", "debug", "info", "warn", "error")
	completeWith(cmd, "log-format", "text", "json", "auto")
	return cmd
}

// addServerFlags adds the flags that say which broker's data is meant.
func addServerFlags(cmd *cobra.Command, flags *ServerFlags) {
	f := cmd.Flags()
	f.StringVar(&flags.ConfigFile, "config", "", "`FILE` in Kafka's properties format; a KRaft server.properties works unchanged")
	f.StringVar(&flags.DataDir, "data-dir", "", "`DIR` for everything (log.dirs and metadata.log.dir)")
	f.StringArrayVar(&flags.Set, "set", nil, "any property, `KEY=VALUE`, under Kafka's name; may be repeated")
}

// check refuses what is wrong in form; what a property may be is the configuration's to say.
func (f *ServerFlags) check() error {
	for _, s := range f.Set {
		if _, err := parseSetting(s); err != nil {
			return usagef("--set %w", err)
		}
	}
	for _, choice := range []struct {
		flag, value string
		allowed     []string
	}{
		{"log-level", f.LogLevel, []string{"", "debug", "info", "warn", "error"}},
		{"log-format", f.LogFormat, []string{"", "text", "json", "auto"}},
	} {
		if !slices.Contains(choice.allowed, choice.value) {
			return usagef("--%s %q is unknown: %s", choice.flag, choice.value, strings.Join(choice.allowed[1:], ", "))
		}
	}
	return nil
}
