// Package purchase is one request that is paid: from a price that is promised, over a payment that is reserved for it,
// to a charge or none. It holds the rules and the bytes; a [Book] holds the rows. docs/spec/purchase.md is its contract
// with everyone who writes another payer or another paywall.
//
// A payer wants [Terms], [NewID] and [SignDraw]; a paywall [Quote], [Book], [Purchase.Shown] and [Work.Verdict]; who writes
// another [Book] the functions that say what each of its changes makes of a row, from [Purchase.Ready] on, and package
// purchasetest.
//
// # Invariants
//
// One payment is one purchase, and one purchase is run at most once. A purchase that is committed or void stays so. A
// charge is never above what was signed, and nothing is charged that the completion rule did not earn. While nobody knows
// whether a purchase's money moved, it is neither. Of a [Bundle], what remains, what purchases have drawn of it and what was
// paid back come to its total; a purchase has one [Refund] at most.
//
// # Concurrency
//
// Everything here is a value or a pure function, safe for concurrent use; a [Book] has to be. Time is an argument.
package purchase
