package paywall_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
)

// gate puts a gate before an upstream.
func (w *world) gate(upstream http.HandlerFunc, routes ...paywall.Route) (*paywall.Gate, *httptest.Server) {
	w.t.Helper()
	server := httptest.NewServer(upstream)
	w.t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	g, err := paywall.NewGate(w.pw, paywall.GateConfig{Upstream: u, Routes: routes})
	if err != nil {
		w.t.Fatal(err)
	}
	w.server.Config.Handler = g
	return g, server
}

func TestGate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *paywall.Config) { c.TabPath = "/x402/tab" })
	var ran atomic.Int32
	w.gate(func(rw http.ResponseWriter, r *http.Request) {
		ran.Add(1)
		for name := range r.Header {
			if strings.Contains(strings.ToUpper(name), "PAYMENT") {
				t.Errorf("upstream sees %s", name)
			}
		}
		b, _ := io.ReadAll(r.Body)
		rw.Header().Set("X-Payment-Response", "forged")
		rw.Header().Set("X-Record-Count", "137")
		fmt.Fprintf(rw, "%s %s %s %v", r.Method, r.URL, b, purchase.ValidID(r.Header.Get("Farthing-Purchase")))
	},
		paywall.Route{Pattern: "GET /health", Price: "free"},
		paywall.Route{Pattern: "GET /quote/{symbol}", Price: "$0.0005"},
		paywall.Route{Pattern: "POST /records", Price: "$0.01 per 100 records",
			Options: []paywall.Option{paywall.UpTo("$0.10"), paywall.Count(paywall.HeaderCount("X-Record-Count"))}},
	)
	forged := get("/health").with("Farthing-Purchase", purchase.IDFromPayment([32]byte{}))
	if a := w.do(forged); a.StatusCode != 200 || a.body != "GET /health  false" || a.Header.Get("X-Payment-Response") != "" {
		t.Errorf("free: %d %q %v", a.StatusCode, a.body, a.Header)
	}
	if a := w.do(w.paid(get("/quote/ACME?x=%20y"))); a.StatusCode != 200 || a.body != "GET /quote/ACME?x=%20y  true" || receiptOf(t, a).Amount != "500" {
		t.Errorf("sold: %d %q", a.StatusCode, a.body)
	}
	if a := w.do(w.paid(call{method: "POST", path: "/records", body: "q"})); a.body != "POST /records q true" || receiptOf(t, a).Amount != "20000" {
		t.Errorf("measured: %d %q", a.StatusCode, a.body)
	}
	before := ran.Load()
	for _, c := range []call{get("/"), get("/quote"), get("/quote/a/b"), {method: "POST", path: "/health"}, {method: "DELETE", path: "/quote/ACME"}, get("/records")} {
		if a := w.do(c); a.StatusCode != 404 || a.code() != "route_unlisted" {
			t.Errorf("%s %s: %d %s", c.method, c.path, a.StatusCode, a.body)
		}
	}
	for _, path := range []string{"//quote/ACME", "/health/../quote/ACME", "/quote%2fACME", "/x/%2e%2e/quote/ACME", "/health/..;/quote/ACME"} {
		if a := w.do(get(path)); a.StatusCode != 400 || a.code() != "path_ambiguous" {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	if ran.Load() != before {
		t.Errorf("upstream saw %d requests that were not for sale", ran.Load()-before)
	}
	if a := w.do(call{method: "POST", path: "/x402/tab", body: `{"userAddress":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8"}`}); a.StatusCode != 200 {
		t.Errorf("tab: %d %s", a.StatusCode, a.body)
	}
}

func TestAnUpstreamThatFailsIsNotCharged(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		upstream http.HandlerFunc
		down     bool
		status   int
		code     string
		outcome  string
	}{
		{"down", nil, true, 502, "upstream_unreachable", "upstream_unreachable"},
		{"with an error", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(503) }, false, 503, "", "handler_failed"},
		{"before it answers", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false, 502, "upstream_unreachable", "upstream_unreachable"},
		{"in the middle of its answer", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(rw, "half")
		}, false, 502, "upstream_unreachable", "upstream_unreachable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			_, upstream := w.gate(c.upstream, paywall.Route{Pattern: "GET /x", Price: "$0.0005"})
			paid := w.paid(get("/x"))
			if c.down {
				upstream.Close()
			}
			a := w.do(paid)
			if a.StatusCode != c.status || a.code() != c.code || c.code != "" && !strings.Contains(a.body, "Not charged") {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			w.drain()
			if p := w.book.only(t); p.State != purchase.Void || p.Outcome != c.outcome || !w.house.owed().IsZero() {
				t.Errorf("%s, %q, owed %s", p.State, p.Outcome, w.house.owed())
			}
			if e := w.lastEvent(); e.Kind != paywall.NotCharged || e.Status != c.status {
				t.Errorf("event %+v", e)
			}
		})
	}
}

// An answer of unknown length is no stream by that alone: its receipt is a header, which every client reads.
func TestAnswersOfUnknownLengthAreHeldBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind   string
		stream bool
	}{{"application/json", false}, {"text/event-stream; charset=utf-8", true}, {"application/x-ndjson", true}} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.gate(func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Type", c.kind)
				_, _ = io.WriteString(rw, "{}")
				rw.(http.Flusher).Flush()
				_, _ = io.WriteString(rw, "\n")
			}, paywall.Route{Pattern: "GET /x", Price: "$0.0005"})
			a := w.do(w.paid(get("/x")))
			if a.StatusCode != 200 || a.body != "{}\n" {
				t.Fatalf("%d %q", a.StatusCode, a.body)
			}
			if got := receiptOf(t, a).Amount; (got == "") != c.stream {
				t.Errorf("amount %q in the header", got)
			}
			if got := a.Trailer.Get("Payment-Response"); (got != "") != c.stream {
				t.Errorf("trailer %q", got)
			}
		})
	}
}

func TestSwap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g, upstream := w.gate(hello, paywall.Route{Pattern: "GET /x", Price: "$0.0005"})
	u, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	old := w.paid(get("/x"))
	err = g.Swap(paywall.GateConfig{Upstream: u, Routes: []paywall.Route{
		{Pattern: "GET /x", Price: "$0.0009"}, {Pattern: "GET /y", Price: "lots"}, {Pattern: "GET {x", Price: "free"}, {Pattern: "GET /{a", Price: "free"}, {Pattern: "GET /x", Price: "free"},
	}})
	if err == nil {
		t.Fatal("a faulty list was taken")
	}
	for _, want := range []string{"GET /y", "GET {x", "GET /{a", "GET /x"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v says nothing of %s", err, want)
		}
	}
	if amount := w.terms(get("/x")).Accepts[0].Amount; amount != "500" {
		t.Errorf("a faulty list changed the price to %s", amount)
	}
	if err := w.pw.Check(); err != nil {
		t.Errorf("a list that was not taken is still complained about: %v", err)
	}
	if err := g.Swap(paywall.GateConfig{Upstream: u, Routes: []paywall.Route{{Pattern: "GET /x", Price: "$0.0009"}}}); err != nil {
		t.Fatal(err)
	}
	if a := w.do(old); a.StatusCode != 200 || receiptOf(t, a).Amount != "500" {
		t.Errorf("the old quote: %d %s", a.StatusCode, a.body)
	}
	if a := w.do(w.paid(get("/x"))); a.StatusCode != 200 || receiptOf(t, a).Amount != "900" {
		t.Errorf("the new price: %d %s", a.StatusCode, a.body)
	}
	if got := w.house.owed(); got != money.Units(1400) {
		t.Errorf("owed %s", got)
	}
	for _, bad := range []*url.URL{nil, {Scheme: "ftp", Host: "x"}, {Path: "/x"}} {
		if err := g.Swap(paywall.GateConfig{Upstream: bad}); err == nil {
			t.Errorf("upstream %v taken", bad)
		}
	}
}
