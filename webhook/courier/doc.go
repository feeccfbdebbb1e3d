// Package courier derives webhooks from what a clearing house has applied of the chain, and delivers them.
//
// Most callers want [New] and [Courier.Run]; the methods named after what is done with endpoints serve an API.
//
// # Invariants
//
// Every event of the Confirmed stream is told to each endpoint that wants it, at least once: the cursor moves in the
// transaction that writes the messages, and the book keeps blocks until the cursor has passed them. Deriving twice, after a
// crash or on two nodes, makes the same messages under the same IDs, which the book keeps once.
//
// A delivery is claimed for a while, attempted, and its outcome recorded. A process that dies in between leaves the claim to
// run out; the attempt is then made again with the same ID. What is delivered once is not sent again unless somebody asks.
//
// An event goes to endpoints of the wallets that it is about, and to the operator's. An endpoint is found only together
// with its owner.
//
// # Reorganisations
//
// Blocks are applied at a depth where the chain does not take them back. If it does all the same, each event of such a
// block is followed by an event.voided with its ID, what was not delivered yet is not sent, and what happens in the blocks
// that took their place is told under new IDs.
//
// # Concurrency
//
// A Courier is safe for concurrent use, and several processes may run one each over the same book. [Courier.Run] starts
// goroutines and ends when they have ended.
package courier
