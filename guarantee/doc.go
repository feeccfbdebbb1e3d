// Package guarantee is the x402 scheme "4mica-credit", versions 1 and 2 of its claims: what a payer signs, what a clearing
// house certifies, what a payee checks before it works, and the note by which a payee takes less than it was promised.
// Claims of version 2 have a [Policy]: they are payable once a validator has answered well enough.
// It is bytes, digests and signatures only.
//
// A payer calls [Pay], or [Sign] when it has the claims already. A payee calls [ParsePayload] and [Matches], and then
// [Verifier.Verify] on the clearing house's answer. A clearing house calls [Signed.Verify] and certifies through an
// [Authority].
//
// # Invariants
//
// A guarantee is named for ever by the values of payer, payee, asset and request id ([Claims.Key]), and its content by
// the EIP-712 digest of its claims ([Claims.Digest]), whatever form its signature has. A certificate covers exactly the
// bytes it carries: one whose bytes, domain or fields differ anywhere from what was asked does not verify. A batch
// certificate cannot pass for a single one, nor an inner node of its tree for a leaf.
//
// # Concurrency
//
// Values may be shared once made. [Authority] and [Verifier] are safe for concurrent use. The package starts no
// goroutine that outlives a call, reads no clock, opens no file and speaks to no network.
//
// # Compatibility
//
// Digests, claims bytes and JSON are those of 4Mica's cycle-based protocol. Batch certificates and notes are
// Farthing's.
package guarantee

// Scheme is the x402 name of this way to pay.
const Scheme = "4mica-credit"

// ShortScheme is what 4Mica's own paywall calls it unless told otherwise. Buyers answer to it; nobody else does.
const ShortScheme = "4mica"
