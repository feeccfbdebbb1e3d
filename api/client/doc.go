// Package client speaks to a clearing house over HTTP: it has guarantees certified, delivers notes, and reads cycles,
// balances and proofs.
//
// A payee calls [Client.Certify] for every payment; a payer calls [Client.Params] once and trusts what it says only as
// far as it trusts the address that it asked. Certificates are not checked here: see [guarantee.Verifier].
//
// # Errors
//
// Every error is an [*x402.Error]. Where the clearing house answered, its own code is kept; where it did not, or
// answered with something that is no answer, the code is house_unreachable and nothing is known about what was asked.
// Posting the same guarantee or note again is always safe: it is answered as the first time.
//
// # Concurrency
//
// A [Client] is safe for concurrent use. Guarantees that are certified at the same time travel in one call; that call
// runs in a goroutine of its own, which ends with it, so that no caller's context can fail its neighbours.
package client
