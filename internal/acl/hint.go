package acl

import "strings"

// GrantCommand is the shell command that gives the query's principal a role in which the operation is allowed; "" where no role is
// near enough to it. It is no help where a rule denies. A query without a name gets a placeholder for one.
func (q Query) GrantCommand() string {
	user := shellWord(q.user())
	name := shellWord(q.Name)
	if q.Name == "" {
		name = "NAME"
	}
	switch {
	case q.Type == Topic && (q.Operation == Write || q.Operation == Create):
		return "moldau acl grant producer " + user + " " + name
	case q.Type == Topic && (q.Operation == Read || q.Operation == Describe):
		return "moldau acl grant consumer " + user + " " + name
	case q.Type == Topic:
		return "moldau acl grant admin " + user + " " + name
	case q.Type == Group && (q.Operation == Read || q.Operation == Describe):
		return "moldau acl grant consumer " + user + " TOPIC --group " + name
	case q.Type == TransactionalID && (q.Operation == Write || q.Operation == Describe):
		return "moldau acl grant producer " + user + " TOPIC --transactional-id " + name
	}
	return ""
}

// WhyCommand is the shell command that explains what is decided about the query.
func (q Query) WhyCommand() string {
	resource := strings.ToLower(q.Type.String())
	if q.Type != Cluster {
		resource += ":" + q.Name
	}
	return "moldau acl why " + shellWord(q.user()) + " " + strings.ToLower(q.Operation.String()) + " " + shellWord(resource)
}

// user is the principal as the commands take it.
func (q Query) user() string { return strings.TrimPrefix(q.Principal, "User:") }

// shellWord quotes what a shell would read otherwise. Clients choose the names that they ask for, and somebody may copy the command.
func shellWord(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/@=+,%"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
