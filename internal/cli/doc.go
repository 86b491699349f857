// Package cli is the command line: it alone knows commands, flags, what output
// looks like, and how an error is told to a person.
//
// Its door is Main with an App, the process's surroundings. The client commands
// speak Kafka's protocol like any other client and work against Kafka and Moldau
// alike; they know nothing of the broker's packages. What needs a broker in this
// process (server, log adopt) is handed in as a function of App, and the command
// is absent where the function is.
//
// Invariants:
//  1. Standard output carries results only; progress, notes, summaries and errors
//     go to standard error. So every output can be piped.
//  2. A failure is one line: "moldau: cause (value): what helps"; several are as many
//     lines. The exit code is 1, or 2 when the command line itself was wrong.
//  3. Records pass through in bounded memory, whatever the size of a file or topic.
//  4. The package has no state; two Mains may run in one process.
package cli
