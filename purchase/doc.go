// Package purchase is one request that is paid: from a price that is promised, over a payment that is reserved for it,
// to a charge or none. It holds the rules and the bytes; a [Book] holds the rows. docs/spec/purchase.md is its contract
// with everyone who writes another payer or another paywall.
//
// A payer wants [Terms] and [NewID]; a paywall [Quote], [Book], [Purchase.Shown] and [Work.Verdict].
//
// # Invariants
//
// One payment is one purchase, and one purchase is run at most once. A purchase that is committed or void stays so. A
// charge is never above what was signed, and nothing is charged that the completion rule did not earn.
//
// # Concurrency
//
// Everything here is a value or a pure function, safe for concurrent use; a [Book] has to be. Time is an argument.
package purchase
