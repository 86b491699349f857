package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// profiles are what can be captured, and how they are read.
var profiles = map[string]struct {
	timed bool // over some seconds
	doc   string
	read  string
}{
	"cpu":       {true, "where processor time goes", "go tool pprof -http=: "},
	"trace":     {true, "what each goroutine did, to the microsecond", "go tool trace "},
	"heap":      {false, "what is in memory", "go tool pprof -http=: "},
	"allocs":    {false, "what was ever allocated", "go tool pprof -http=: "},
	"goroutine": {false, "where each goroutine is", "go tool pprof -http=: "},
}

const defaultHTTP = "localhost:9644"

func newProfile(c *command) *cobra.Command {
	var address, file string
	var seconds time.Duration
	names := sortedKeys(profiles)
	var list strings.Builder
	for _, name := range names {
		fmt.Fprintf(&list, "  %-10s %s\n", name, profiles[name].doc)
	}
	cmd := &cobra.Command{
		Use: "profile KIND", Short: "Capture what a broker is busy with into a file", Args: exactly(1, "one of "+strings.Join(names, ", ")),
		Long: "Capture what a broker is busy with into a file, for Go's tools. KIND is one of\n" + list.String() + "\n" +
			"It comes from /debug/pprof of the broker's HTTP listener (moldau.http.listener), which is on localhost\n" +
			"unless somebody has changed that; the ports of Kafka's protocol do not have it. A profile holds names\n" +
			"of functions and addresses, no records. While it runs a broker is some percent slower.",
		Example:   "  moldau profile cpu\n  moldau profile trace --for 2s --file slow.trace\n  moldau profile heap --http localhost:9645",
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, ok := profiles[args[0]]
			if !ok {
				if guess := nearest(args[0], names); guess != "" {
					return usagef("there is no profile %q: did you mean %s?", args[0], guess)
				}
				return usagef("there is no profile %q: %s", args[0], strings.Join(names, ", "))
			}
			if seconds < time.Second || seconds > time.Hour || seconds%time.Second != 0 {
				return usagef("--for %s: whole seconds, from 1s to 1h", seconds)
			}
			url := "http://" + address + "/debug/pprof/" + map[string]string{"cpu": "profile"}[args[0]]
			if args[0] != "cpu" {
				url += args[0]
			}
			if p.timed {
				url += fmt.Sprintf("?seconds=%d", seconds/time.Second)
				c.note("capturing for %s …", seconds)
			} else {
				seconds = 0
			}
			if file == "" {
				file = fmt.Sprintf("moldau-%s-%s.pprof", args[0], c.Now().UTC().Format("20060102T150405"))
			}
			return c.capture(cmd.Context(), address, url, file, p.read, seconds)
		},
	}
	f := cmd.Flags()
	f.StringVar(&address, "http", defaultHTTP, "the broker's moldau.http.listener, `HOST:PORT`")
	f.DurationVar(&seconds, "for", 10*time.Second, "how long cpu and trace look")
	f.StringVarP(&file, "file", "f", "", "write to `FILE` (default moldau-KIND-TIME.pprof)")
	return cmd
}

type capturedJSON struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

// capture fetches into a file that appears when it is complete.
func (c *command) capture(ctx context.Context, address, url, file, read string, seconds time.Duration) error {
	asking, cancel := context.WithTimeout(ctx, seconds+c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(asking, http.MethodGet, url, nil)
	if err != nil {
		return usagef("--http %q is no HOST:PORT", address)
	}
	resp, err := http.DefaultClient.Do(req)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, syscall.ECONNREFUSED):
		return &failure{cause: "nothing listens on " + address, help: "name the broker's moldau.http.listener with --http; its ready line shows it", err: err}
	case err != nil:
		return &failure{cause: "the broker's HTTP listener does not answer", value: join(address, networkReason(err)), help: "name it with --http HOST:PORT; the ready line shows it", err: err}
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusForbidden {
		return &failure{cause: "the broker gives profiles only on its own machine", value: address, help: "ask there, or set moldau.http.details=all"}
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return &failure{cause: "the broker gave no profile", value: join(url, resp.Status, oneLine(errors.New(string(text)))), help: "is this a Moldau broker? moldau doctor shows what listens where"}
	}
	n, err := writeComplete(file, resp.Body)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return &failure{cause: "the profile could not be written", value: err.Error(), help: "choose another place with --file", err: err}
	}
	if c.json() {
		return writeJSON(c.Stdout, capturedJSON{file, n})
	}
	_, err = fmt.Fprintf(c.Stdout, "%s (%s): %s%s\n", file, bytesText(n), read, file)
	return err
}

// writeComplete writes under another name first, and leaves nothing behind when it fails.
func writeComplete(file string, from io.Reader) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".moldau-profile-*")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	n, err = io.Copy(f, from)
	if err = errors.Join(err, f.Close()); err != nil {
		return n, err
	}
	return n, os.Rename(f.Name(), file)
}
