// Package api is the HTTP face of a clearing house: the routes under /core that 4Mica's clients know (their cycle-based
// generation), with Farthing's additions. It decodes, asks [clearing.House], and turns what comes back into JSON; it
// decides nothing about money.
//
// Make the handler with [New].
//
// # Who may do what
//
// Posting guarantees and notes is open to everyone, because the signatures in them are the authority. So is what stands on
// the chain anyway: cycles and their times. What tells of one participant's business is shown to that participant, after a
// login (package login), and to those whom the operator has given a role. docs/spec/house.md has the rules, openapi.yaml the routes.
//
// # Limits
//
// Each kind of request has a rate, and what is worked on at once has a bound: see [Limits]. Whoever is refused is told when to
// come again.
//
// # Errors
//
// Every refusal is {"error", "code", "hint"} with a code of the table in package x402. Codes that a seller would answer
// with 402 are 400 here: a clearing house sells nothing, and 4Mica's core does the same. A cause that nobody foresaw
// is shown as "internal error" with a reference, under which the log has it.
//
// # Concurrency
//
// The handler is safe for concurrent use and keeps nothing. Time limits are the server's.
package api
