// Package chain talks to an EVM network through a node's JSON-RPC: it reads, sends transactions until they are deep
// enough to count, and follows contracts' logs through reorganisations. It also packs the calls of our contracts, reads
// their events and deploys them.
//
// Most callers want [Dial], [Sender], [Follower] and [Contracts].
//
// # Invariants
//
// A signed transaction is recorded before it is broadcast, so a crash at any moment leaves either nothing or bytes that
// can be broadcast again. All attempts of one call share a nonce: at most one of them takes effect.
//
// The follower hands a block to its [Sink] only with the logs of exactly that block, on top of the block handed over
// before. A node whose answers contradict each other is an error, and nothing is applied.
//
// # Trust
//
// The node may be slow or hostile. Every request has a time limit and every answer a size limit; the node's errors and
// fee suggestions are bounded. What a node claims about the chain's content is believed.
package chain

import "errors"

// Errors that callers branch on.
var (
	// ErrChainID is the error of a node that serves another chain than the one asked for.
	ErrChainID = errors.New("node serves another chain")
	// ErrInconsistent is the error of a node whose answers contradict each other, for example in the middle of a
	// reorganisation. Trying again later is right.
	ErrInconsistent = errors.New("node's answers contradict each other")
	// ErrBehind is the error of a node that has not reached a block which was applied before: it lags, or lost blocks. The
	// applied state stays until the node has a block of that height to compare.
	ErrBehind = errors.New("node is behind what was applied")
	// ErrTooDeep is the error of a reorganisation that goes past every block the sink remembers.
	ErrTooDeep = errors.New("reorganisation is deeper than what is remembered")
	// ErrNotFound is the error of a block that the node does not have.
	ErrNotFound = errors.New("node has no such block")
)
