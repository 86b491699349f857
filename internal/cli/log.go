package cli

import "github.com/spf13/cobra"

func newLog(c *command) *cobra.Command {
	group := &cobra.Command{Use: "log", Short: "Look into log directories"}
	asGroup(group)
	group.AddCommand(newLogDump(c))
	if c.AdoptDir != nil {
		group.AddCommand(newLogAdopt(c))
	}
	return group
}

func newLogAdopt(c *command) *cobra.Command {
	var flags ServerFlags
	cmd := &cobra.Command{
		Use: "adopt DIR", Short: "Bring partition directories into a stopped broker's metadata", Args: exactly(1, "one directory"),
		Long: "Bring partition directories into a stopped broker's metadata.\n\n" +
			"A partition directory that the metadata does not know is left alone by the server, and never deleted.\n" +
			"This command registers it, or with a log directory all in it, under its topic's name and id.",
		Example: "  moldau log adopt moldau-data/log/orders-0\n  moldau log adopt --config server.properties /var/lib/kafka",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(); err != nil {
				return err
			}
			return c.AdoptDir(cmd.Context(), args[0], flags)
		},
	}
	addServerFlags(cmd, &flags)
	return cmd
}
