package payer

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A seller that takes a payment over a connection kept from before, and is gone at once: net/http sends the request again
// over a new connection and tells only that this one was refused. The payment has left all the same, and may be charged.
func TestPaymentLeftBeforeTheSellerWasGone(t *testing.T) {
	t.Parallel()
	var server *httptest.Server
	s := &seller{T: t, answer: func(w http.ResponseWriter, _ *http.Request, _ payment) bool {
		_ = server.Listener.Close()
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return false
		}
		return conn.Close() == nil
	}}
	server = httptest.NewServer(s)
	defer server.Close()
	p := newPayer(t, inFile(journalFile(t)), perDay("$1"), func(c *Config) { c.Transport = &http.Transport{} })
	_, _, err := get(p, server.URL+"/quote")
	var refused *net.OpError
	if !errors.As(err, &refused) || refused.Op != "dial" {
		t.Fatalf("the seller is not gone: %v", err)
	}
	var pending *PendingError
	if !errors.As(err, &pending) || code(err) != "settlement_pending" {
		t.Fatalf("want a pending purchase, got %v", err)
	}
	if s.arrived() != 1 {
		t.Fatalf("%d payments arrived", s.arrived())
	}
	if left := today(t, p); left != "$0.9995" {
		t.Errorf("%s is left of the budget; what may still be charged counts as spent", left)
	}
}
