// Package webhook is what a clearing house's webhooks are on the wire: events, and signatures by Standard Webhooks 1.0
// (https://www.standardwebhooks.com). Package courier below it sends them.
//
// A receiver wants [Receive], which reads, verifies and decodes a request:
//
//	event, err := webhook.Receive(r, time.Now(), secret)
//	if err != nil {
//		http.Error(w, err.Error(), http.StatusBadRequest)
//		return
//	}
//	switch event.Type {
//	case webhook.CollateralDeposited:
//		var d webhook.Deposit
//		err = event.Decode(&d)
//	}
//
// # Invariants
//
// An event keeps its ID through every attempt to deliver it, to every endpoint. It may come more than once, and in any
// order: the ID is the key under which a receiver remembers what it has done.
package webhook
