package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newLog(c *command) *cobra.Command {
	group := &cobra.Command{Use: "log", Short: "Look into log directories"}
	asGroup(group)
	group.AddCommand(newLogDump(c), newLogCheck(c), newLogRepair(c))
	if c.AdoptDir != nil {
		group.AddCommand(newLogAdopt(c))
	}
	return group
}

// Adopt is what moldau log adopt was asked to do.
type Adopt struct {
	Path     string // a log dir, or a partition directory in it
	DryRun   bool
	FillGaps bool
}

// Adopted is what it did, or would do. Its form is that of the output for programs.
type Adopted struct {
	LogDirs []string       `json:"logDirs"`
	DryRun  bool           `json:"dryRun"`
	Known   int            `json:"knownDirectories"`
	Topics  []AdoptedTopic `json:"topics"`
}

// AdoptedTopic is a topic that the metadata did not have. ID is "" where a dry run cannot know it.
type AdoptedTopic struct {
	Name       string             `json:"name"`
	ID         string             `json:"id"`
	NewID      bool               `json:"newId"`
	Partitions int32              `json:"partitions"`
	Configs    map[string]string  `json:"configs"`
	Logs       []AdoptedPartition `json:"logs"`
}

// AdoptedPartition is a partition directory.
type AdoptedPartition struct {
	Partition     int32  `json:"partition"`
	Dir           string `json:"dir"`
	StartOffset   int64  `json:"startOffset"`
	EndOffset     int64  `json:"endOffset"`
	Bytes         int64  `json:"bytes"`
	SetAsideBytes int64  `json:"setAsideBytes"`
}

func newLogAdopt(c *command) *cobra.Command {
	var flags ServerFlags
	var ask Adopt
	cmd := &cobra.Command{
		Use: "adopt DIR", Short: "Bring partition directories into a stopped broker's metadata", Args: exactly(1, "one directory"),
		Long: "Bring partition directories into a stopped broker's metadata.\n\n" +
			"A partition directory that the metadata does not know is left alone by the server, and never deleted.\n" +
			"This command registers all that are in the log directory DIR, which may be one of a stopped Apache Kafka;\n" +
			"or, if DIR is a partition directory in it, those of that topic. Where log.dirs names several directories, each\n" +
			"stands for all: the partitions of a topic may be in any of them, and stay where they are. Topics keep\n" +
			"their ids. All records are read and checked first; nothing is changed if anything is wrong.\n\n" +
			"A log directory does not say how topics were configured: records of adopted topics are kept for ever\n" +
			"(retention.ms and retention.bytes are -1) until moldau topic alter says otherwise.",
		Example: "  moldau log adopt --dry-run moldau-data/log\n  moldau log adopt moldau-data/log/orders-0\n" +
			"  moldau log adopt --config server.properties /var/lib/kafka",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(); err != nil {
				return err
			}
			ask.Path = args[0]
			done, err := c.AdoptDir(cmd.Context(), ask, flags)
			if err != nil {
				return err
			}
			return c.printAdopted(done)
		},
	}
	addServerFlags(cmd, &flags)
	f := cmd.Flags()
	f.BoolVar(&ask.DryRun, "dry-run", false, "check everything and say what would happen, change nothing")
	f.BoolVar(&ask.FillGaps, "fill-gaps", false, "a partition without a directory never had data: make it empty")
	return cmd
}

func (c *command) printAdopted(done Adopted) error {
	if c.json() {
		if done.Topics == nil {
			done.Topics = []AdoptedTopic{}
		}
		return writeJSON(c.Stdout, done)
	}
	if len(done.Topics) == 0 {
		_, err := fmt.Fprintf(c.Stdout, "nothing to adopt in %s: %s known already\n", strings.Join(done.LogDirs, ", "), directories(done.Known))
		return err
	}
	t := newTable("TOPIC", "ID", "PARTITION", "OFFSETS", "SIZE", "NOTE")
	logs := 0
	for _, topic := range done.Topics {
		id := topic.ID
		if id == "" {
			id = "(new)"
		}
		for _, l := range topic.Logs {
			note := ""
			if l.SetAsideBytes > 0 {
				note = fmt.Sprintf("torn at the end: %s set aside", bytesText(l.SetAsideBytes))
			}
			t.add(printable(topic.Name), id, l.Partition, fmt.Sprintf("%d to %d", l.StartOffset, l.EndOffset), bytesText(l.Bytes), note)
			logs++
		}
		if gaps := int(topic.Partitions) - len(topic.Logs); gaps > 0 {
			t.add(printable(topic.Name), id, "-", "-", "-", plural(int64(gaps), "partition")+" without a directory, empty")
		}
	}
	if err := t.write(c.Stdout); err != nil {
		return err
	}
	what := "adopted"
	if done.DryRun {
		what = "would adopt"
	}
	_, err := fmt.Fprintf(c.Stdout, "%s %s with %s; %s known already\n", what,
		plural(int64(len(done.Topics)), "topic"), directories(logs), directories(done.Known))
	return err
}

func directories(n int) string {
	if n == 1 {
		return "1 directory"
	}
	return fmt.Sprintf("%d directories", n)
}
