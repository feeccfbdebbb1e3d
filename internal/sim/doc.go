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
// [Chain.Void] a cycle) and no redemption; it takes no permits (EIP-2612), and no account but the tokens' and x402's is a
// contract.
//
// The package's tests are the seeded worlds themselves. In a world, payers and payees deal with several clearing houses over
// one book. In a market, stock clients, our own payer and thieves buy by transfers and bundles from two gates over one book,
// which settle through a facilitator. Both have crashes, lost messages, reorganisations, and checkers that compare what
// everybody has. Run one again, or longer, by
//
//	go test ./internal/sim -run 'TestWorld$' -sim.seed=7 -sim.steps=2000
//	go test ./internal/sim -run 'TestMarket$' -sim.seed=7 -sim.steps=2000 -sim.trace
//	FARTHING_SIM_SEEDS=1000 go test ./internal/sim -run 'TestWorld$|TestMarket$'
//
// # Invariants
//
// After every block, per asset: what the vault holds is Σ collateral + Σ pots + bond, and what the vault and everybody's
// wallets hold is what was minted ([Chain.Check]).
//
// # Concurrency
//
// A [Chain], a [Lane], [Settlements] and a [Facilitator] are safe for concurrent use. A [Sender] belongs to one goroutine.
package sim
