// Package paywall sells HTTP requests. It answers 402 with a price, takes a payment for exactly one request, has it
// certified, runs the handler, and charges what the announced rule says. It also holds the gate, a reverse proxy that
// sells somebody else's server.
//
// Most callers want [New], [Paywall.Price] and, inside handlers, [Charge] and [Fail].
//
// # Invariants
//
// No handler with a price runs before its payment is reserved on disk for this one request, certified by the clearing
// house, and the certificate verified here. A payment runs one handler once: shown again for the same request it gets
// the stored answer, shown for another it is refused. What the completion rule did not earn is not charged, and the
// payee's signature says so to the clearing house.
//
// # Answers
//
// An answer is held back until the handler is done, so that the buyer sees nothing that is not written down. A handler
// that flushes, or that writes more than Config.AnswerBytes, streams instead: the receipt in the header then names no
// amount, and one with the amount follows as an HTTP trailer of the same name (not if the handler set Content-Length).
// Handlers see no payment header and cannot set one.
//
// # Concurrency
//
// A [Paywall] and its handlers are safe for concurrent use. [New] starts one goroutine, which delivers notes to the
// clearing house and ends purchases that a crash or a silent clearing house left behind; [Paywall.Close] ends it.
package paywall
