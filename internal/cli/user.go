package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"moldau/internal/security"
)

// AddUser is what moldau user add was asked to do to a stopped broker.
type AddUser struct {
	Name       string
	Mechanisms []string
	Iterations int
	Password   string
}

func newUser(c *command) *cobra.Command {
	group := &cobra.Command{Use: "user", Short: "Users who authenticate by SCRAM",
		Example: "  moldau user add alice --password-file alice.txt\n  moldau user list"}
	asGroup(group)
	group.AddCommand(newUserAdd(c), newUserList(c), newUserDelete(c))
	return group
}

var scramMechanisms = []string{security.ScramSHA256, security.ScramSHA512}

// mechanismFlag adds --mechanism.
func mechanismFlag(cmd *cobra.Command, to *[]string) {
	cmd.Flags().StringSliceVar(to, "mechanism", scramMechanisms, "`MECHANISM,...` of the password: SCRAM-SHA-256, SCRAM-SHA-512")
	completeWith(cmd, "mechanism", scramMechanisms...)
}

func checkMechanisms(list []string) ([]kadm.ScramMechanism, error) {
	var out []kadm.ScramMechanism
	for _, m := range list {
		switch m {
		case security.ScramSHA256:
			out = append(out, kadm.ScramSha256)
		case security.ScramSHA512:
			out = append(out, kadm.ScramSha512)
		default:
			return nil, usagef("--mechanism %q is unknown: %s", m, strings.Join(scramMechanisms, ", "))
		}
	}
	if len(out) == 0 {
		return nil, usagef("--mechanism names none: %s", strings.Join(scramMechanisms, ", "))
	}
	return out, nil
}

func newUserAdd(c *command) *cobra.Command {
	ask := AddUser{Iterations: security.MinScramIterations}
	var file string
	var flags ServerFlags
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Add a user, or give one another password", Args: exactly(1, "one user"),
		Long: "Add a user who authenticates by SCRAM, or give one another password.\n\n" +
			"The password is the first line of standard input, or of --password-file. The broker keeps only what it needs to check it.\n" +
			"With --data-dir, --config or --set the user is added to a stopped broker's metadata: so comes the first one, before whom\n" +
			"nobody can authenticate.",
		Example: "  moldau user add alice --password-file alice.txt\n  moldau user add admin --data-dir moldau-data < admin.txt\n" +
			"  moldau user add alice -b broker:9093 --command-config admin.properties < alice.txt",
		RunE: func(cmd *cobra.Command, args []string) error {
			ask.Name = args[0]
			mechanisms, err := checkMechanisms(ask.Mechanisms)
			if err != nil {
				return err
			}
			if err := flags.check(); err != nil {
				return err
			}
			if ask.Password, err = c.password(file); err != nil {
				return err
			}
			if flags.DataDir != "" || flags.ConfigFile != "" || len(flags.Set) > 0 {
				if c.AddUser == nil {
					return errors.New("this program has no broker")
				}
				if err := c.AddUser(cmd.Context(), ask, flags); err != nil {
					return err
				}
				return c.printUser(ask.Name, "added", ask.Mechanisms)
			}
			return c.addUser(cmd.Context(), ask, mechanisms)
		},
	}
	mechanismFlag(cmd, &ask.Mechanisms)
	f := cmd.Flags()
	f.IntVar(&ask.Iterations, "iterations", ask.Iterations, "what guessing a password from the metadata costs, 4096 to 16384")
	f.StringVar(&file, "password-file", "", "`FILE` whose first line is the password; standard input by default")
	addServerFlags(cmd, &flags)
	return cmd
}

// password is the first line of a file, or of standard input.
func (c *command) password(file string) (string, error) {
	from := c.Stdin
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", usagef("--password-file: %w", err)
		}
		defer f.Close()
		from = f
	} else if c.StdinIsTerminal {
		c.note("password (it is shown; Enter ends it):")
	}
	line, err := bufio.NewReader(io.LimitReader(from, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", usagef("the password is empty: write it into the first line of standard input, or of --password-file")
	}
	return line, nil
}

type userJSON struct {
	Name       string   `json:"name"`
	Result     string   `json:"result"`
	Mechanisms []string `json:"mechanisms"`
}

func (c *command) printUser(name, what string, mechanisms []string) error {
	if c.json() {
		return writeJSON(c.Stdout, userJSON{name, what, mechanisms})
	}
	_, err := fmt.Fprintf(c.Stdout, "%s %s: %s\n", what, printable(name), strings.Join(mechanisms, ", "))
	return err
}

func (c *command) addUser(ctx context.Context, a AddUser, mechanisms []kadm.ScramMechanism) error {
	for i, m := range mechanisms { // a request names a user once
		err := c.alterUser(ctx, a.Name, func(ctx context.Context, cl *client) (kadm.AlteredUserSCRAMs, error) {
			return cl.adm.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: a.Name, Mechanism: m, Iterations: int32(a.Iterations), Password: a.Password}})
		})
		if err != nil {
			return fmt.Errorf("%s: %w", a.Mechanisms[i], err)
		}
	}
	return c.printUser(a.Name, "added", a.Mechanisms)
}

func (c *command) alterUser(ctx context.Context, name string, f func(context.Context, *client) (kadm.AlteredUserSCRAMs, error)) error {
	cl, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	done, err := ask(ctx, cl, name, func(ctx context.Context) (kadm.AlteredUserSCRAMs, error) { return f(ctx, cl) })
	if err != nil {
		return err
	}
	return explain(done[name].Err, done[name].ErrMessage, name)
}

func newUserList(c *command) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List users and how they authenticate", Args: exactly(0, ""),
		Example: "  moldau user list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			list, err := ask(cmd.Context(), cl, "", func(ctx context.Context) (kadm.DescribedUserSCRAMs, error) { return cl.adm.DescribeUserSCRAMs(ctx) })
			if err != nil {
				return err
			}
			type row struct {
				User       string `json:"user"`
				Mechanism  string `json:"mechanism"`
				Iterations int32  `json:"iterations"`
			}
			rows := []row{}
			t := newTable("USER", "MECHANISM", "ITERATIONS")
			for _, u := range list.Sorted() {
				for _, i := range u.CredInfos {
					rows = append(rows, row{u.User, i.Mechanism.String(), i.Iterations})
					t.add(printable(u.User), i.Mechanism, i.Iterations)
				}
			}
			if c.json() {
				return writeJSON(c.Stdout, rows)
			}
			return t.write(c.Stdout)
		},
	}
}

func newUserDelete(c *command) *cobra.Command {
	var mechanisms []string
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a user's passwords", Args: exactly(1, "one user"),
		Long: "Delete a user's passwords, those of all mechanisms unless --mechanism says which.\n\n" +
			"Connections that are open go on until they authenticate again; connections.max.reauth.ms bounds that.",
		Example: "  moldau user delete alice\n  moldau user delete alice --mechanism SCRAM-SHA-256",
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := checkMechanisms(mechanisms)
			if err != nil {
				return err
			}
			var gone []string
			for i, m := range all {
				err := c.alterUser(cmd.Context(), args[0], func(ctx context.Context, cl *client) (kadm.AlteredUserSCRAMs, error) {
					return cl.adm.AlterUserSCRAMs(ctx, []kadm.DeleteSCRAM{{User: args[0], Mechanism: m}}, nil)
				})
				if errors.Is(err, kerr.ResourceNotFound) && !cmd.Flags().Changed("mechanism") {
					continue
				}
				if err != nil {
					return err
				}
				gone = append(gone, mechanisms[i])
			}
			if gone == nil {
				return &failure{cause: "there is no such user", value: args[0], help: "moldau user list", err: kerr.ResourceNotFound}
			}
			return c.printUser(args[0], "deleted", gone)
		},
	}
	mechanismFlag(cmd, &mechanisms)
	return cmd
}
