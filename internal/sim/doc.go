// Package sim is a world to try a clearing house in: a model of the vault and clearing-house contracts on a chain of
// blocks that can be reorganised, a sender that drains a book's outbox into it, and a follower that brings a house up to
// date. Nothing in it waits, reads a clock or draws a number: time, delays, losses and reorganisations are what the caller
// says, so a test that draws them from a seed can be run again exactly. Most callers want [New], [Chain.Mine], [Sender.Step]
// and [Follow].
//
// Tokens that are deployed ([Chain.Deploy]) move by signature too, each nonce once, with Multicall3, Permit2 and x402's
// proxies beside them; a [Node] shows the chain to a real facilitator, a [Lane] sends its transactions, and a [Facilitator]
// has both together, for tests of sellers.
//
// The model keeps to the contracts' time windows, refusals, sums and events; it knows no gas, no disputes (a caller may
// [Chain.Void] a cycle) and no redemption. The package's tests are the seeded world itself: payers, payees, several
// clearing houses over one book, crashes, and checkers after every step. Run one again, or longer, by
//
//	go test ./internal/sim -run TestWorld -sim.seed=7 -sim.steps=2000
//
// # Invariants
//
// After every block, per asset: what the vault holds is Σ collateral + Σ pots + bond, and what the vault and everybody's
// wallets hold is what was minted ([Chain.Check]).
//
// # Concurrency
//
// A [Chain] is safe for concurrent use. A [Sender] belongs to one goroutine.
package sim
