// Package farthing is the root of a self-hostable micropayment network. It holds no code: sellers import
// [github.com/farthing402/farthing/paywall], buyers [github.com/farthing402/farthing/payer], and everyone else runs the
// command in cmd/farthing. docs/ARCHITECTURE.md draws the house.
//
// # Words
//
// One word, one meaning, in code, help, JSON and documents.
//
//   - amount: an integer in an asset's smallest units. price: what a person wrote, "$0.0001 per call". quote: a price made
//     exact for one request, with an expiry. terms: the canonical bytes of what a payer accepts for one purchase.
//   - payer, payee: the two keys of a payment; buyer and seller are the people.
//   - way to pay: exact, guarantee and so on; "scheme" only beside the wire.
//   - guarantee: a payer's signed promise, backed by collateral. certificate: the clearing house's signature on it.
//     note: the payee's signature that lowers what a guarantee pays; void is a note for nothing.
//   - authorization: a payer's signature over one transfer of a token, which anybody, or whom it names, may carry out.
//     move: the call that carries it out. proven: the receipt shows the transfer.
//   - reserve: make a payment durably one purchase's. charge: what a purchase costs in the end. void and refund: undo
//     before and after the charge. job: work that goes on after a 202, charged or void later by its purchase's id.
//   - bundle: units bought ahead by one payment. draw: a request takes units from it. credit: what a seller owes a payer,
//     kept for its next purchases.
//   - collateral: what a net debit can be taken from. exposure: what a payer has guaranteed and not yet settled.
//     headroom: collateral less exposure less requested withdrawals.
//   - cycle: the guarantees of one asset and one period, netted together. net position: what a participant owes or gets.
//     statement: what one participant's cycle came to, line by line. default: a net debit that was not paid in its window.
//   - settle: money moves on a chain. collect: a seller fetches what is owed.
//   - facilitator: verifies and settles payments for sellers. clearing house: certifies guarantees and runs cycles.
package farthing
