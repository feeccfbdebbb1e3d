package courier

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/webhook"
	"github.com/farthing402/farthing/x402"
)

// How long a secret that was replaced goes on signing.
const (
	DefaultOverlap = 24 * time.Hour
	OverlapMax     = 7 * 24 * time.Hour
)

const descriptionBytesMax = 200

// Change is what an owner says of an endpoint; nil leaves a member as it is.
type Change struct {
	URL         *string
	Types       *[]webhook.Type
	Description *string
	Enabled     *bool
}

// apply changes an endpoint, if the change is one that can be.
func (c *Courier) apply(e *Endpoint, change Change) error {
	if change.URL != nil {
		if err := checkURL(*change.URL, c.c.Private); err != nil {
			return err
		}
		e.URL = *change.URL
	}
	if change.Types != nil {
		for _, t := range *change.Types {
			if !t.Known() {
				return x402.Errorf("malformed_request", "event type %q: there is none", clip(string(t))).WithHint("docs/webhooks.md lists them; none named is all")
			}
		}
		if len(*change.Types) > len(webhook.Types) {
			return x402.Errorf("malformed_request", "an event type is named twice")
		}
		e.Types = *change.Types
	}
	if change.Description != nil {
		if len(*change.Description) > descriptionBytesMax || !utf8.ValidString(*change.Description) {
			return x402.Errorf("malformed_request", "description: at most %d bytes of text", descriptionBytesMax)
		}
		e.Description = *change.Description
	}
	if change.Enabled != nil {
		e.Reason, e.FailingSince = "", time.Time{}
		if e.Status = Enabled; !*change.Enabled {
			e.Status, e.Reason = Disabled, "its owner disabled it"
		}
	}
	return nil
}

// Add makes an endpoint with a secret of its own. The zero owner is the operator.
func (c *Courier) Add(ctx context.Context, owner evm.Address, change Change) (Endpoint, error) {
	e := Endpoint{Owner: owner, Status: Enabled, CreatedAt: c.c.Now().UTC().Truncate(time.Millisecond)}
	if change.URL == nil {
		return e, x402.Errorf("webhook_url_invalid", "url: it is missing")
	}
	if err := c.apply(&e, change); err != nil {
		return e, err
	}
	var name [12]byte
	if _, err := io.ReadFull(c.c.Random, name[:]); err != nil {
		return e, fmt.Errorf("name webhook endpoint: %w", err)
	}
	e.ID = fmt.Sprintf("ep_%x", name)
	var err error
	if e.Secret, err = webhook.NewSecret(c.c.Random); err != nil {
		return e, err
	}
	return e, c.c.Book.AddEndpoint(ctx, e, c.c.EndpointsMax)
}

// Endpoint returns an owner's endpoint, or [ErrNotFound].
func (c *Courier) Endpoint(ctx context.Context, owner evm.Address, id string) (Endpoint, error) {
	return c.c.Book.Endpoint(ctx, owner, id)
}

// Endpoints returns an owner's endpoints, the oldest first.
func (c *Courier) Endpoints(ctx context.Context, owner evm.Address) ([]Endpoint, error) {
	return c.c.Book.EndpointsOf(ctx, owner)
}

// Change changes an owner's endpoint.
func (c *Courier) Change(ctx context.Context, owner evm.Address, id string, change Change) (Endpoint, error) {
	return c.c.Book.ChangeEndpoint(ctx, owner, id, func(e *Endpoint) error { return c.apply(e, change) })
}

// Drop forgets an owner's endpoint and its deliveries.
func (c *Courier) Drop(ctx context.Context, owner evm.Address, id string) error {
	return c.c.Book.DropEndpoint(ctx, owner, id)
}

// Rotate gives an owner's endpoint another secret. The one before goes on signing beside it for the time of the overlap.
func (c *Courier) Rotate(ctx context.Context, owner evm.Address, id string, overlap time.Duration) (Endpoint, error) {
	if overlap < 0 || overlap > OverlapMax {
		return Endpoint{}, x402.Errorf("malformed_request", "overlap of %s: between 0 and %s", overlap, OverlapMax)
	}
	fresh, err := webhook.NewSecret(c.c.Random)
	if err != nil {
		return Endpoint{}, err
	}
	return c.c.Book.ChangeEndpoint(ctx, owner, id, func(e *Endpoint) error {
		e.Before, e.BeforeUntil, e.Secret = e.Secret, c.c.Now().Add(overlap).UTC().Truncate(time.Millisecond), fresh
		return nil
	})
}

// Test sends an owner's endpoint an event that says so, whatever its types, and returns the delivery.
func (c *Courier) Test(ctx context.Context, owner evm.Address, id string) (Delivery, error) {
	e, err := c.c.Book.Endpoint(ctx, owner, id)
	if err != nil {
		return Delivery{}, err
	}
	if e.Status == Disabled {
		return Delivery{}, x402.Errorf("webhook_disabled", "endpoint %s is disabled: %s", e.ID, e.Reason)
	}
	var name [12]byte
	if _, err := io.ReadFull(c.c.Random, name[:]); err != nil {
		return Delivery{}, fmt.Errorf("name webhook: %w", err)
	}
	data, err := json.Marshal(webhook.Ping{Message: "this is a test: nothing happened"})
	if err != nil {
		return Delivery{}, err
	}
	now := c.c.Now()
	m := Message{Key: fmt.Sprintf("test/%x", name), Type: webhook.Test, CreatedAt: now, Data: data, Endpoints: []string{e.ID}}
	if err := c.c.Book.Send(ctx, m, now); err != nil {
		return Delivery{}, err
	}
	return c.c.Book.Delivery(ctx, e.ID, m.Event(0).ID)
}

// Deliveries returns the deliveries to an owner's endpoint in a state (empty: any), the newest first, after the one named
// before.
func (c *Courier) Deliveries(ctx context.Context, owner evm.Address, id string, state State, before string, limit int) ([]Delivery, error) {
	if _, err := c.c.Book.Endpoint(ctx, owner, id); err != nil {
		return nil, err
	}
	return c.c.Book.Deliveries(ctx, id, state, before, limit)
}

// Delivery returns one delivery to an owner's endpoint, with its attempts.
func (c *Courier) Delivery(ctx context.Context, owner evm.Address, id, event string) (Delivery, error) {
	if _, err := c.c.Book.Endpoint(ctx, owner, id); err != nil {
		return Delivery{}, err
	}
	return c.c.Book.Delivery(ctx, id, event)
}

// Redeliver has a delivery that has ended made once more, under the same ID.
func (c *Courier) Redeliver(ctx context.Context, owner evm.Address, id, event string) (Delivery, error) {
	e, err := c.c.Book.Endpoint(ctx, owner, id)
	if err != nil {
		return Delivery{}, err
	}
	if e.Status == Disabled {
		return Delivery{}, x402.Errorf("webhook_disabled", "endpoint %s is disabled: %s", e.ID, e.Reason)
	}
	return c.c.Book.Redeliver(ctx, id, event, c.c.Now())
}

// clip bounds text that somebody else wrote.
func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
