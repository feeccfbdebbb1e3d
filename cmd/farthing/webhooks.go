package main

import (
	"context"
	crand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/farthing402/farthing/webhook/courier"
)

// webhooksLead is how long the other nodes wait before they derive webhooks in place of one that is gone without a word.
const webhooksLead = 10 * time.Second

// openWebhooks makes what tells wallets of the house's events. Each house has one; the book sees to it that each event is
// told once.
func (h *house) openWebhooks() (err error) {
	h.Webhooks, err = courier.New(courier.Config{
		Book: h.Store.Webhooks(), House: h.House, Network: fmt.Sprintf("eip155:%d", h.Deployment.ChainID),
		WithdrawalDelay: time.Duration(h.Deployment.WithdrawalDelay) * time.Second, Now: h.Now, Random: crand.Reader, Jitter: rand.Float64,
		Node: crand.Text(), Private: h.Dev || h.WebhooksPrivate, Log: h.Log,
		Lead: func(ctx context.Context, run func(context.Context) error) error {
			return h.Store.Lead(ctx, "webhooks", webhooksLead, run)
		},
	})
	return err
}
