package client

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// Of several nodes one that is down, or has no database, costs no call; the one that answered is asked first from then on.
func TestNodesTakeOverFromEachOther(t *testing.T) {
	t.Parallel()
	var ill atomic.Bool
	var asked [2]atomic.Int64
	node := func(i int) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked[i].Add(1)
			if i == 0 && ill.Load() {
				http.Error(w, "no database", http.StatusServiceUnavailable)
				return
			}
			_, _ = w.Write([]byte(`{"status":"ok","db":"ok","chain_rpc":"ok"}`))
		}))
		t.Cleanup(s.Close)
		return s
	}
	first, second := node(0), node(1)
	c, err := New(first.URL + ", " + second.URL)
	if err != nil {
		t.Fatal(err)
	}
	well := func(what string, zero, one int64) {
		t.Helper()
		if h, err := c.Health(context.Background()); err != nil || h.Status != "ok" {
			t.Fatalf("%s: %+v, %v", what, h, err)
		}
		if asked[0].Load() != zero || asked[1].Load() != one {
			t.Errorf("%s: %d and %d calls arrived, want %d and %d", what, asked[0].Load(), asked[1].Load(), zero, one)
		}
	}
	well("both are well", 1, 0)
	ill.Store(true)
	well("the first is ill", 2, 1)
	well("the second is asked first now", 2, 2)
	second.Close()
	ill.Store(false)
	well("the second is gone", 3, 2)
	first.Close()
	if _, err := c.Health(context.Background()); code(err) != "house_unreachable" {
		t.Errorf("all are gone: %v", err)
	}
	if _, err := New("http://a:1,http://b:1/under"); err == nil || !strings.Contains(err.Error(), "http://b:1/under") {
		t.Errorf("nodes under different paths: %v", err)
	}
}
