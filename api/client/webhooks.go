package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/webhook"
)

// Webhook is an endpoint that a wallet has named. Secret is told once, when it is made.
type Webhook struct {
	ID           string         `json:"id"`
	URL          string         `json:"url"`
	Types        []webhook.Type `json:"types"` // none: all
	Description  string         `json:"description"`
	Status       string         `json:"status"` // enabled, failing, disabled
	Reason       string         `json:"reason,omitempty"`
	FailingSince time.Time      `json:"failing_since,omitzero"`
	CreatedAt    time.Time      `json:"created_at"`
	Secret       string         `json:"secret,omitempty"`
	BeforeUntil  time.Time      `json:"previous_secret_until,omitzero"`
}

// WebhookChange makes an endpoint, or changes what is set.
type WebhookChange struct {
	URL         string         `json:"url,omitempty"`
	Types       []webhook.Type `json:"types,omitempty"`
	Description string         `json:"description,omitempty"`
	Status      string         `json:"status,omitempty"` // enabled, disabled
}

// WebhookDelivery is one event on its way to an endpoint.
type WebhookDelivery struct {
	Event     string           `json:"event_id"`
	Type      webhook.Type     `json:"type"`
	State     string           `json:"state"` // pending, sending, delivered, failed, dropped
	Tries     int              `json:"tries"`
	CreatedAt time.Time        `json:"created_at"`
	DueAt     time.Time        `json:"next_attempt_at,omitzero"`
	Attempts  []WebhookAttempt `json:"attempts,omitempty"`
}

// WebhookAttempt is one try. Status is 0 where there was no answer.
type WebhookAttempt struct {
	At      time.Time `json:"at"`
	Millis  int64     `json:"elapsed_ms"`
	Status  int       `json:"status"`
	Trouble string    `json:"trouble,omitempty"`
}

func webhooksPath(user evm.Address, parts ...string) string {
	path := "/core/users/" + user.Lower() + "/webhooks"
	for _, p := range parts {
		path += "/" + url.PathEscape(p)
	}
	return path
}

// AddWebhook names an endpoint of a wallet, which must be signed in.
func (c *Client) AddWebhook(ctx context.Context, user evm.Address, w WebhookChange) (out Webhook, err error) {
	err = c.own(ctx, http.MethodPost, webhooksPath(user), w, &out)
	return out, err
}

// Webhooks returns a wallet's endpoints, the oldest first.
func (c *Client) Webhooks(ctx context.Context, user evm.Address) ([]Webhook, error) {
	var out struct {
		Webhooks []Webhook `json:"webhooks"`
	}
	err := c.getOwn(ctx, webhooksPath(user), &out)
	return out.Webhooks, err
}

// ChangeWebhook changes an endpoint.
func (c *Client) ChangeWebhook(ctx context.Context, user evm.Address, id string, w WebhookChange) (out Webhook, err error) {
	err = c.own(ctx, http.MethodPatch, webhooksPath(user, id), w, &out)
	return out, err
}

// DropWebhook forgets an endpoint.
func (c *Client) DropWebhook(ctx context.Context, user evm.Address, id string) error {
	var out struct{}
	return c.own(ctx, http.MethodDelete, webhooksPath(user, id), nil, &out)
}

// RotateWebhook gives an endpoint another secret. The one before signs beside it for the time of the overlap.
func (c *Client) RotateWebhook(ctx context.Context, user evm.Address, id string, overlap time.Duration) (out Webhook, err error) {
	err = c.own(ctx, http.MethodPost, webhooksPath(user, id, "secret"), map[string]int64{"overlap_seconds": int64(overlap / time.Second)}, &out)
	return out, err
}

// TestWebhook has an event sent that says it is a test.
func (c *Client) TestWebhook(ctx context.Context, user evm.Address, id string) (out WebhookDelivery, err error) {
	err = c.own(ctx, http.MethodPost, webhooksPath(user, id, "test"), struct{}{}, &out)
	return out, err
}

// WebhookDeliveries returns an endpoint's newest deliveries.
func (c *Client) WebhookDeliveries(ctx context.Context, user evm.Address, id string, limit int) ([]WebhookDelivery, error) {
	var out struct {
		Deliveries []WebhookDelivery `json:"deliveries"`
	}
	err := c.getOwn(ctx, webhooksPath(user, id, "deliveries")+"?limit="+strconv.Itoa(limit), &out)
	return out.Deliveries, err
}

// WebhookDelivery returns one delivery with its attempts.
func (c *Client) WebhookDelivery(ctx context.Context, user evm.Address, id, event string) (out WebhookDelivery, err error) {
	err = c.getOwn(ctx, webhooksPath(user, id, "deliveries", event), &out)
	return out, err
}

// RedeliverWebhook has a delivery made once more, under the same id.
func (c *Client) RedeliverWebhook(ctx context.Context, user evm.Address, id, event string) (out WebhookDelivery, err error) {
	err = c.own(ctx, http.MethodPost, webhooksPath(user, id, "deliveries", event, "redelivery"), struct{}{}, &out)
	return out, err
}
