package main

import (
	crand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/farthing402/farthing/webhook/courier"
)

// openWebhooks makes what tells wallets of the house's events. Each house has one; the book sees to it that each event is
// told once.
func (h *house) openWebhooks() (err error) {
	h.Webhooks, err = courier.New(courier.Config{
		Book: h.Store.Webhooks(), House: h.House, Network: fmt.Sprintf("eip155:%d", h.Deployment.ChainID),
		WithdrawalDelay: time.Duration(h.Deployment.WithdrawalDelay) * time.Second, Now: h.Now, Random: crand.Reader, Jitter: rand.Float64,
		Node: crand.Text(), Private: h.Dev || h.WebhooksPrivate, Log: h.Log,
	})
	return err
}
