// Package payer is an [http.RoundTripper] that answers 402 Payment Required under a [Budget]: it chooses among a
// seller's offers, signs at most what its owner allowed, and presents the payment. It pays by guarantee, by signed transfer
// (exact, upto) and from bundles that it bought ahead, whichever is the cheapest that its policy allows and its account
// covers, to sellers of x402 in either version, of T402 and of 4Mica.
//
// Make one with [New] and put it into an http.Client as its Transport. What a purchase came to is told by [Receipt];
// what stood in its way by a [*NeedError], and what is not known yet by a [*PendingError].
//
// # Invariants
//
// A budget is reserved before anything is signed, and together all purchases, parallel ones and those of other
// processes with the same journal included, never pass it. A payment is on disk before it leaves the process. One
// purchase is signed once: a lost answer is asked for again with the same signature, which no seller can charge twice.
// A call that a bundle has in stock is drawn by a signature that moves nothing. Nothing is signed for a vault that the
// configured clearing house does not name, for a resource other than the one asked for, or for a payee other than the one
// paid before, unless the owner says so.
//
// What may still be charged counts as spent. A seller's word that nothing was charged gives the amount back. Where the
// seller did not also sign it away (a note), the word is believed for at most one more daily budget, and one more total:
// whoever says so and charges all the same cannot take more. Of a transfer the chain knows better than its seller: with
// a [Wallet] what it shows counts, and a transfer whose time is over and whose nonce is unused counts no more.
//
// # Concurrency
//
// A [Payer] is safe for concurrent use and starts no goroutine. Cancelling a request's context after its payment has
// left does not undo the payment: the error is then a [*PendingError].
package payer
