package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/login"
	"github.com/farthing402/farthing/webhook"
	"github.com/farthing402/farthing/webhook/courier"
	"github.com/farthing402/farthing/x402"
)

const deliveriesMax = 100

// endpointAnswer tells a secret only where it has just been made.
type endpointAnswer struct {
	ID           string         `json:"id"`
	User         *evm.Address   `json:"user_address"` // null: the operator's
	URL          string         `json:"url"`
	Types        []webhook.Type `json:"types"` // empty: all
	Description  string         `json:"description"`
	Status       courier.Status `json:"status"`
	Reason       string         `json:"reason,omitempty"`
	FailingSince time.Time      `json:"failing_since,omitzero"`
	CreatedAt    time.Time      `json:"created_at"`
	Secret       string         `json:"secret,omitempty"`
	BeforeUntil  time.Time      `json:"previous_secret_until,omitzero"`
}

func endpointOf(e courier.Endpoint) endpointAnswer {
	a := endpointAnswer{
		ID: e.ID, URL: e.URL, Types: e.Types, Description: e.Description, Status: e.Status, Reason: e.Reason,
		FailingSince: e.FailingSince, CreatedAt: e.CreatedAt, BeforeUntil: e.BeforeUntil,
	}
	if a.Types == nil {
		a.Types = []webhook.Type{}
	}
	if !e.Owner.IsZero() {
		a.User = &e.Owner
	}
	return a
}

type deliveryAnswer struct {
	Event     string          `json:"event_id"`
	Type      webhook.Type    `json:"type"`
	State     courier.State   `json:"state"`
	Tries     int             `json:"tries"`
	CreatedAt time.Time       `json:"created_at"`
	DueAt     time.Time       `json:"next_attempt_at,omitzero"`
	Attempts  []attemptAnswer `json:"attempts,omitempty"`
	Body      json.RawMessage `json:"event,omitempty"`
}

type attemptAnswer struct {
	At      time.Time `json:"at"`
	Millis  int64     `json:"elapsed_ms"`
	Status  int       `json:"status"` // HTTP; 0: no answer
	Trouble string    `json:"trouble,omitempty"`
}

func deliveryOf(d courier.Delivery) deliveryAnswer {
	a := deliveryAnswer{Event: d.Event, Type: d.Type, State: d.State, Tries: d.Tries, CreatedAt: d.CreatedAt, DueAt: d.DueAt, Body: d.Body}
	for _, t := range d.Attempts {
		a.Attempts = append(a.Attempts, attemptAnswer{t.At, t.Elapsed.Milliseconds(), t.Status, t.Trouble})
	}
	return a
}

// hooks answers for the endpoints of the wallet that the path names, or for the operator's where it names none. Who may ask
// is decided before; an endpoint of somebody else is not found here.
func (h *handler) hooks(f func(r *http.Request, owner evm.Address) (any, error)) answer {
	return func(r *http.Request) (any, error) {
		if h.Webhooks == nil {
			return nil, x402.Errorf("not_found", "this clearing house sends no webhooks")
		}
		var owner evm.Address
		if text := r.PathValue("user"); text != "" {
			var err error
			if owner, err = evm.ParseAddress(text); err != nil || owner.IsZero() {
				return nil, x402.Errorf("malformed_request", "user: no address of a wallet")
			}
		}
		return f(r, owner)
	}
}

// webhookRoutes are what a wallet does with its endpoints, and the operator with those that are told of everybody.
func (h *handler) webhookRoutes() (routes []route) {
	for base, who := range map[string]access{"/core/users/{user}/webhooks": own("user", RoleAdmin), "/core/admin/webhooks": administers(login.ScopeWebhooks)} {
		for pattern, f := range map[string]func(*http.Request, evm.Address) (any, error){
			"GET ": h.listHooks, "POST ": h.addHook,
			"GET /{id}": h.hook, "PATCH /{id}": h.changeHook, "DELETE /{id}": h.dropHook,
			"POST /{id}/secret":                        h.rotateHook,
			"POST /{id}/test":                          h.testHook,
			"GET /{id}/deliveries":                     h.deliveries,
			"GET /{id}/deliveries/{event}":             h.delivery,
			"POST /{id}/deliveries/{event}/redelivery": h.redeliver,
		} {
			method, path, _ := strings.Cut(pattern, " ")
			routes = append(routes, route{method + " " + base + path, who, h.hooks(f)})
		}
	}
	return routes
}

// endpointChange is the body that makes or changes an endpoint. What is left out stays as it is.
type endpointChange struct {
	URL         *string         `json:"url"`
	Types       *[]webhook.Type `json:"types"`
	Description *string         `json:"description"`
	Status      *courier.Status `json:"status"`
}

func readChange(r *http.Request) (c courier.Change, err error) {
	var q endpointChange
	if err := readOptional(r, &q); err != nil {
		return c, err
	}
	c = courier.Change{URL: q.URL, Types: q.Types, Description: q.Description}
	if q.Status != nil {
		if *q.Status != courier.Enabled && *q.Status != courier.Disabled {
			return c, x402.Errorf("malformed_request", "status %q: it can be set to enabled and to disabled", clip(string(*q.Status)))
		}
		enabled := *q.Status == courier.Enabled
		c.Enabled = &enabled
	}
	return c, nil
}

// readOptional reads a body that may be left out.
func readOptional(r *http.Request, into any) error {
	body, err := readBody(r)
	if err != nil || len(body) == 0 {
		return err
	}
	if err := x402.Decode(body, into); err != nil {
		return malformed(err)
	}
	return nil
}

func (h *handler) listHooks(r *http.Request, owner evm.Address) (any, error) {
	list, err := h.Webhooks.Endpoints(r.Context(), owner)
	if err != nil {
		return nil, err
	}
	out := make([]endpointAnswer, len(list))
	for i, e := range list {
		out[i] = endpointOf(e)
	}
	return map[string]any{"webhooks": out}, nil
}

func (h *handler) addHook(r *http.Request, owner evm.Address) (any, error) {
	c, err := readChange(r)
	if err != nil {
		return nil, err
	}
	e, err := h.Webhooks.Add(r.Context(), owner, c)
	if err != nil {
		return nil, err
	}
	return withSecret(e), nil
}

func withSecret(e courier.Endpoint) endpointAnswer {
	a := endpointOf(e)
	a.Secret = e.Secret.Text()
	return a
}

func (h *handler) hook(r *http.Request, owner evm.Address) (any, error) {
	return endpointAnswered(h.Webhooks.Endpoint(r.Context(), owner, r.PathValue("id")))
}

func (h *handler) changeHook(r *http.Request, owner evm.Address) (any, error) {
	c, err := readChange(r)
	if err != nil {
		return nil, err
	}
	return endpointAnswered(h.Webhooks.Change(r.Context(), owner, r.PathValue("id"), c))
}

func endpointAnswered(e courier.Endpoint, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return endpointOf(e), nil
}

func (h *handler) dropHook(r *http.Request, owner evm.Address) (any, error) {
	if err := h.Webhooks.Drop(r.Context(), owner, r.PathValue("id")); err != nil {
		return nil, err
	}
	return map[string]bool{"deleted": true}, nil
}

func (h *handler) rotateHook(r *http.Request, owner evm.Address) (any, error) {
	q := struct {
		Overlap *uint32 `json:"overlap_seconds"`
	}{}
	if err := readOptional(r, &q); err != nil {
		return nil, err
	}
	overlap := courier.DefaultOverlap
	if q.Overlap != nil {
		overlap = time.Duration(*q.Overlap) * time.Second
	}
	e, err := h.Webhooks.Rotate(r.Context(), owner, r.PathValue("id"), overlap)
	if err != nil {
		return nil, err
	}
	return withSecret(e), nil
}

func (h *handler) testHook(r *http.Request, owner evm.Address) (any, error) {
	return deliveryAnswered(h.Webhooks.Test(r.Context(), owner, r.PathValue("id")))
}

func (h *handler) deliveries(r *http.Request, owner evm.Address) (any, error) {
	limit, err := limitOf(r, 20, deliveriesMax)
	if err != nil {
		return nil, err
	}
	state := courier.State(r.URL.Query().Get("state"))
	switch state {
	case "", courier.Pending, courier.Sending, courier.Delivered, courier.Failed, courier.Dropped:
	default:
		return nil, x402.Errorf("malformed_request", "state %q: there are pending, sending, delivered, failed and dropped", clip(string(state)))
	}
	list, err := h.Webhooks.Deliveries(r.Context(), owner, r.PathValue("id"), state, r.URL.Query().Get("before"), limit)
	if err != nil {
		return nil, err
	}
	out := make([]deliveryAnswer, len(list))
	for i, d := range list {
		d.Body = nil // asked for one by one
		out[i] = deliveryOf(d)
	}
	return map[string]any{"deliveries": out}, nil
}

func (h *handler) delivery(r *http.Request, owner evm.Address) (any, error) {
	return deliveryAnswered(h.Webhooks.Delivery(r.Context(), owner, r.PathValue("id"), r.PathValue("event")))
}

func (h *handler) redeliver(r *http.Request, owner evm.Address) (any, error) {
	return deliveryAnswered(h.Webhooks.Redeliver(r.Context(), owner, r.PathValue("id"), r.PathValue("event")))
}

func deliveryAnswered(d courier.Delivery, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return deliveryOf(d), nil
}
