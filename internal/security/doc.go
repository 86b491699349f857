// Package security alone knows who a client is: keys and certificates of listeners, the names that certificates stand for, and
// the conversations by which a client proves a name (SASL). It decides nothing about what a name may do, and sends nothing.
//
// Its door is New, which reads the configuration of every listener and refuses what cannot be honoured; Security.TLS, what a
// listener's handshakes need; Security.Certificate, the principal of a certificate; Security.Begin, a SASL conversation;
// Delegation, what delegation tokens are proved by.
//
// Invariants:
//  1. A setting that cannot be honoured is an error of New that names it; nothing is left out in silence.
//  2. What a conversation proves is what the server knows: the name in a token or message counts only where the proof is for it, and
//     an authorization id that differs from it is refused (CVE-2017-12610).
//  3. Secrets are compared in constant time, and no error, log line or description holds one.
//  4. A file that cannot be used any more leaves what was read before in force.
//
// It has no goroutine: who calls Reload decides when files are looked at, and a conversation does no I/O.
package security
