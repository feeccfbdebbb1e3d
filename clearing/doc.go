// Package clearing admits guarantees against collateral, nets them once per cycle, has the net posted on chain, and
// decides what happens to whom afterwards. Most callers want [House.Admit], [House.Note], [House.CloseDue] and, for the
// chain's blocks, [House.Apply]. It holds no clock, no socket and no file: time is an argument, what must last is in a
// [Book], and what must be sent is asked for through the book's outbox.
//
// # Invariants
//
//   - A certificate is made only of a guarantee that is on disk.
//   - Per owner and asset, exposure plus requested withdrawal is at most confirmed collateral when a guarantee is admitted.
//     Exposure is every guarantee of every cycle until the cycle's seal is applied at depth, gross.
//   - (payer, payee, asset, request id) names one guarantee for ever, by value.
//   - In each cycle net debits and net credits are the same sum, and the order in which guarantees came does not matter.
//   - What an event of the chain changed can be taken back exactly, as long as its block is remembered.
//   - A guarantee is netted in the cycle that its certificate names, or not at all; one that depends on a validator in that
//     cycle or in one of the next three, after the answer ([Validation]).
//
// [House.Check] proves what of this can be seen in the books.
//
// # Concurrency
//
// A [House] is safe for concurrent use and starts no goroutine that outlives a call. Several houses, in one process or in
// many, may share a [Book]: whatever is decided is decided in a transaction.
//
// # Compatibility
//
// Cycle names, the leaves of R and its proofs are those of 4Mica's cycle-based protocol. Statements and the batch form of
// certificates are Farthing's; docs/spec/clearing.md has the bytes.
package clearing
