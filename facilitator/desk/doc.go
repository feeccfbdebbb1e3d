// Package desk is the gas desk of a facilitator: it brings payers' signed transfers to one chain, pays their gas, and
// says of each whether the money moved. It holds no clock, no socket and no file: time is an argument, and the book, the
// chain and the senders are small interfaces.
//
// Most callers want [New], [Desk.Ask], [Desk.Wait] and, on one goroutine, [Desk.Step].
//
// # Invariants
//
// A settlement is a record before anything is signed for it, named by what the chain carries out at most once. Asking
// again joins the same record, whatever happened since; asking for something else under its name is refused.
//
// A settlement is settled only when a block as deep as was asked for holds a transaction with the transfer that was
// asked for, no other value and no other parties, and with the mark of this very authorization. Who sent the transaction
// does not matter: somebody who brings the payer's authorization to the chain first has paid the gas, and the payee.
// Nothing that was sent is called failed before the chain says so.
//
// A transaction is simulated before it is signed, so that an authorization which is used up, or whose payer is empty,
// costs neither gas nor one of the sender's nonces.
//
// # States
//
//	queued ─→ sent ─→ settled
//	  ↑        │
//	  └────────┤   shared a transaction in which its part failed: tried again, alone
//	           └─→ failed
//
// A queued settlement fails, or is settled by another's transaction, without being sent. A reorganisation takes settled
// and failed back to sent, or to queued if the transaction was another's.
//
// # Batches
//
// Settlements that anybody may carry out share one transaction (Multicall3, each part allowed to fail), so that the
// fixed price of a transaction is shared too. A payee says how long its settlement may wait for company; while a sender is
// busy the others gather anyway. Settlements that name their sender, need a step before, or come from an account with
// code never share: a contract's signature check could burn the gas of its neighbours.
//
// # Concurrency
//
// A Desk is safe for concurrent use. It must be the only one over its book and senders: one process owns a lane.
package desk
