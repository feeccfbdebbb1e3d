// Package facilitator verifies and settles payments for sellers: the HTTP service that x402 and T402 call a facilitator,
// and the same in process, as an [x402.Facilitator]. It pays the gas of what it settles, through a gas desk for each
// network (package facilitator/desk), and can change neither amount nor recipient: both are under the payer's signature.
// A guarantee it settles by having a clearing house certify it; see [House].
//
// Most callers want [Open] for each network, [New] and [Facilitator.Run].
//
// # Routes
//
//	POST /verify, /settle                  x402 version 1 and 2, and T402
//	POST /tabs                             a request id for a guarantee
//	GET  /supported, /discovery/resources
//	GET  /settlements/{id}                 what became of a settlement, and what it cost
//	GET  /health, /ready, /metrics
//
// A refusal is 200 with a reason: the code itself in version 2 of x402, the nearest one of the closed list in version 1 and
// in T402. 400 is a body that cannot be read, 401 a missing or wrong key where keys are asked for, 429 too many requests,
// 503 a chain that does not answer or more work than is taken; the last two say in Retry-After when to come again.
//
// # Trust
//
// A node is believed about its chain. Tokens and contracts are compared with the chain when a network is opened: a token
// that answers differently than the registry says is not offered, and payments in it are refused with what was found.
//
// # Concurrency
//
// A Facilitator is safe for concurrent use. [Facilitator.Run] is its only loop; nothing else starts a goroutine.
package facilitator
