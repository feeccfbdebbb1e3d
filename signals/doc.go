// Package signals says what selling brings in: what a call at some price costs to be paid for, what is left of it, and
// from which price on a way to pay is worth offering. It decides nothing; whoever runs a shop reads it.
//
// Most callers want [Sale.Lines], [MinBatch] and [Sale.Bundled]. Costs as a seller names them are read by [ParseCost],
// what a typical call uses by [ParseUsage]. What other rails charge stands in [Rails], what gas cost on a day in the past
// in [Dated]: both tables carry dates and sources.
//
// # Invariants
//
// Sums are rational numbers ([Dollars], [Ratio]); nothing is rounded before it is shown, and what is shown is rounded
// against the seller: fees and minimum prices up, what is left down. There is no floating-point number.
//
// A loss is a result and no error. A fee that is not known is no fee of 0: there is no [Fees] then.
//
// # Concurrency
//
// Every value is immutable and may be shared.
package signals
