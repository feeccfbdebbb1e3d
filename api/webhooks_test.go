package api

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/store"
	"github.com/farthing402/farthing/webhook"
	"github.com/farthing402/farthing/webhook/courier"
)

// newHookWorld is a world whose book is a real database, with a courier over it.
func newHookWorld(t *testing.T) (*world, *courier.Courier) {
	t.Helper()
	var c *courier.Courier
	w := newWorld(t, func(config *Config, hc *clearing.Config) {
		s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "house.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		hc.Book = s.Clearing()
		house, err := clearing.New(*hc)
		if err != nil {
			t.Fatal(err)
		}
		c, err = courier.New(courier.Config{
			Book: s.Webhooks(), House: house, Network: "eip155:84532", Now: config.Now, Random: rand.Reader, Node: "node", Private: true, EndpointsMax: 3,
		})
		if err != nil {
			t.Fatal(err)
		}
		config.Webhooks = c
	})
	return w, c
}

// into makes a request that is answered with 200, and decodes the answer.
func into[T any](w *world, method, path string, body any) (v T) {
	w.Helper()
	status, out := w.ask(method, path, body)
	if status != http.StatusOK {
		w.Fatalf("%s %s: %d %s", method, path, status, out)
	}
	if err := json.Unmarshal(out, &v); err != nil {
		w.Fatal(err)
	}
	return v
}

// The life of an endpoint as its owner sees it, of a wallet and of the operator.
func TestWebhookRoutes(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"/core/users/" + party(0).Lower() + "/webhooks", "/core/admin/webhooks"} {
		t.Run(base, func(t *testing.T) {
			t.Parallel()
			w, c := newHookWorld(t)
			var secret webhook.Secret
			var got []webhook.Event
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				e, err := webhook.Receive(r, w.now, secret)
				if err != nil {
					t.Error(err)
				}
				got = append(got, e)
			}))
			t.Cleanup(server.Close)

			made := into[map[string]any](w, "POST", base, map[string]any{"url": server.URL, "types": []string{"collateral.deposited"}, "description": "books"})
			id := fmt.Sprint(made["id"])
			var err error
			if secret, err = webhook.ParseSecret(fmt.Sprint(made["secret"])); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{base, base + "/" + id} {
				if _, out := w.ask("GET", path, nil); strings.Contains(string(out), "whsec_") || !strings.Contains(string(out), `"url":"`+server.URL) {
					t.Errorf("GET %s: %s", path, out)
				}
			}
			changed := into[map[string]any](w, "PATCH", base+"/"+id, map[string]any{"types": []string{}})
			if fmt.Sprint(changed["types"]) != "[]" || changed["description"] != "books" || changed["status"] != "enabled" || changed["secret"] != nil {
				t.Errorf("changed to %v", changed)
			}
			rotated := into[map[string]any](w, "POST", base+"/"+id+"/secret", nil)
			if rotated["secret"] == made["secret"] || rotated["previous_secret_until"] == nil {
				t.Errorf("rotated to %v", rotated)
			}
			test := into[map[string]any](w, "POST", base+"/"+id+"/test", nil)
			if test["state"] != "pending" || test["type"] != "webhook.test" {
				t.Errorf("a test is %v", test)
			}
			if err := c.Deliver(t.Context()); err != nil {
				t.Fatal(err)
			}
			list := into[map[string][]map[string]any](w, "GET", base+"/"+id+"/deliveries?state=delivered", nil)["deliveries"]
			if len(list) != 1 || list[0]["event_id"] != test["event_id"] || list[0]["event"] != nil || len(got) != 1 || got[0].ID != test["event_id"] {
				t.Fatalf("delivered are %v, received %v", list, got)
			}
			one := base + "/" + id + "/deliveries/" + got[0].ID
			full := into[map[string]any](w, "GET", one, nil)
			if attempts := full["attempts"].([]any); len(attempts) != 1 || attempts[0].(map[string]any)["status"] != float64(200) || full["event"] == nil {
				t.Errorf("the delivery is %v", full)
			}
			into[map[string]any](w, "POST", one+"/redelivery", nil)
			if err := c.Deliver(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(got) != 2 || got[1].ID != got[0].ID {
				t.Errorf("asked for again: %v", got)
			}
			if _, out := w.ask("GET", "/metrics", nil); !strings.Contains(string(out), `farthing_webhook_attempts_total{result="delivered"} 2`) {
				t.Errorf("the metrics do not count two attempts: %s", out)
			}
			into[map[string]any](w, "PATCH", base+"/"+id, map[string]any{"status": "disabled"})
			if status, out := w.ask("POST", base+"/"+id+"/test", nil); status != http.StatusConflict || code(out) != "webhook_disabled" {
				t.Errorf("testing what is disabled: %d %s", status, out)
			}
			into[map[string]any](w, "DELETE", base+"/"+id, nil)
			for _, path := range []string{base + "/" + id, one, base + "/" + id + "/deliveries"} {
				if status, out := w.ask("GET", path, nil); status != http.StatusNotFound || code(out) != "not_found" {
					t.Errorf("GET %s after it was deleted: %d %s", path, status, out)
				}
			}
		})
	}
}

// Whatever cannot be is refused with its code, and changes nothing.
func TestWebhookRefusals(t *testing.T) {
	t.Parallel()
	w, _ := newHookWorld(t)
	base := "/core/users/" + party(0).Lower() + "/webhooks"
	mine := into[map[string]any](w, "POST", base, map[string]any{"url": "https://example.org/"})
	id := fmt.Sprint(mine["id"])
	other := "/core/users/" + party(1).Lower() + "/webhooks/" + id
	for _, c := range []struct {
		what, method, path string
		body               any
		status             int
		code               string
	}{
		{"no URL", "POST", base, map[string]any{}, 400, "webhook_url_invalid"},
		{"no body", "POST", base, nil, 400, "webhook_url_invalid"},
		{"no JSON", "POST", base, "{", 400, "malformed_request"},
		{"a URL that is none", "POST", base, map[string]any{"url": "mailto:a@b"}, 400, "webhook_url_invalid"},
		{"an event type that is none", "POST", base, map[string]any{"url": "https://example.org/", "types": []string{"x"}}, 400, "malformed_request"},
		{"a status that cannot be set", "PATCH", base + "/" + id, map[string]any{"status": "failing"}, 400, "malformed_request"},
		{"an overlap without end", "POST", base + "/" + id + "/secret", map[string]any{"overlap_seconds": 604801}, 400, "malformed_request"},
		{"a negative overlap", "POST", base + "/" + id + "/secret", map[string]any{"overlap_seconds": -1}, 400, "malformed_request"},
		{"no such state", "GET", base + "/" + id + "/deliveries?state=x", nil, 400, "malformed_request"},
		{"no such page", "GET", base + "/" + id + "/deliveries?before=evt_x", nil, 404, "not_found"},
		{"too many", "GET", base + "/" + id + "/deliveries?limit=1000", nil, 400, "malformed_request"},
		{"no such delivery", "GET", base + "/" + id + "/deliveries/evt_x", nil, 404, "not_found"},
		{"no such endpoint", "POST", base + "/ep_x/test", nil, 404, "not_found"},
		{"no address", "GET", "/core/users/0x12/webhooks", nil, 400, "malformed_request"},
		{"the operator as a wallet", "GET", "/core/users/0x0000000000000000000000000000000000000000/webhooks", nil, 400, "malformed_request"},
		{"another's, read", "GET", other, nil, 404, "not_found"},
		{"another's, changed", "PATCH", other, map[string]any{"url": "https://evil.example/"}, 404, "not_found"},
		{"another's, rotated", "POST", other + "/secret", nil, 404, "not_found"},
		{"another's deliveries", "GET", other + "/deliveries", nil, 404, "not_found"},
		{"another's, deleted", "DELETE", other, nil, 404, "not_found"},
		{"another's as the operator's", "GET", "/core/admin/webhooks/" + id, nil, 404, "not_found"},
	} {
		if status, out := w.ask(c.method, c.path, c.body); status != c.status || code(out) != c.code {
			t.Errorf("%s: %d %s, want %d %s", c.what, status, out, c.status, c.code)
		}
	}
	into[map[string]any](w, "POST", base, map[string]any{"url": "https://example.org/2"})
	into[map[string]any](w, "POST", base, map[string]any{"url": "https://example.org/3"})
	if status, out := w.ask("POST", base, map[string]any{"url": "https://example.org/4"}); status != http.StatusConflict || code(out) != "webhook_limit" {
		t.Errorf("one too many: %d %s", status, out)
	}
	if still := into[map[string]any](w, "GET", base+"/"+id, nil); still["url"] != "https://example.org/" {
		t.Errorf("the endpoint became %v", still)
	}
}

// Without a login nobody has webhooks, and with one each its own.
func TestWebhooksNeedALogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own := "/core/users/" + party(0).Lower() + "/webhooks"
	for _, path := range []string{own, "/core/admin/webhooks", "/core/admin/webhooks/ep_1/deliveries"} {
		if status, out := w.as(nil, "GET", path, nil); status != http.StatusUnauthorized || code(out) != "unauthorized" {
			t.Errorf("GET %s: %d %s", path, status, out)
		}
	}
	// Nor has anybody those of another wallet or of the operator, whatever the route.
	for _, r := range w.handler.(*handler).webhookRoutes() {
		method, path, _ := strings.Cut(r.pattern, " ")
		path = strings.NewReplacer("{user}", party(0).Lower(), "{id}", "ep_1", "{event}", "evt_1").Replace(path)
		if status, out := w.as(keys[1], method, path, nil); status != http.StatusForbidden || code(out) != "forbidden" {
			t.Errorf("%s %s as somebody else: %d %s", method, path, status, out)
		}
	}
}
