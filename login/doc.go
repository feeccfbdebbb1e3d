// Package login decides who somebody is: it makes and checks sign-in messages (EIP-4361), access tokens (JWT, HS256),
// refresh tokens and API keys. What they may do is decided by whoever asks.
//
// Most callers want [New], [Service.Nonce], [Service.Verify], [Service.Refresh] and [Service.Bearer].
//
// # Invariants
//
// A nonce signs in at most once, on whichever node. It is a MAC over the address and its own age, so that asking for one
// writes nothing: only one that was used is remembered, until it would have expired anyway.
//
// A refresh token is used at most once. One that comes again was copied, by somebody or from somebody: every token that
// came from the same sign-in ends.
//
// Secrets of refresh tokens and keys are kept as hashes only.
//
// # Concurrency
//
// A [Service] is safe for concurrent use; several may share one [Book] and one secret, one on each node. Time is an argument.
package login
