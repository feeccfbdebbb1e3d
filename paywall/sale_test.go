package paywall_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

func TestAPaidRequestIsServedOnceAndItsAnswerKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ran atomic.Int32
	w.handle("GET /quote/{symbol}", "$0.0005", func(rw http.ResponseWriter, r *http.Request) {
		ran.Add(1)
		if id := paywall.PurchaseID(r.Context()); !purchase.ValidID(id) {
			t.Errorf("purchase id %q", id)
		}
		for name := range r.Header {
			if upper := strings.ToUpper(name); strings.Contains(upper, "PAYMENT") {
				t.Errorf("handler sees %s", name)
			}
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.Header().Set("Cache-Control", "public, max-age=60")
		rw.Header().Set("PAYMENT-RESPONSE", "forged")
		rw.Header().Set("X-Kept", "yes")
		_, _ = io.WriteString(rw, `{"symbol":"`+r.PathValue("symbol")+`"}`)
	})
	c := w.paid(get("/quote/ACME?x=1"))
	first := w.do(c)
	if first.StatusCode != 200 || first.body != `{"symbol":"ACME"}` {
		t.Fatalf("status %d: %s", first.StatusCode, first.body)
	}
	receipt := receiptOf(t, first)
	if !receipt.Success || receipt.Amount != "500" || receipt.Payer != w.payer.Address().String() || receipt.Network != "eip155:84532" || receipt.Transaction != "" {
		t.Errorf("receipt %+v", receipt)
	}
	var cert guarantee.Certificate
	if err := json.Unmarshal(receipt.Certificate, &cert); err != nil {
		t.Error(err)
	}
	if got := first.Header.Get("Cache-Control"); got != "max-age=60, private" {
		t.Errorf("Cache-Control %q", got)
	}

	again := w.do(c)
	if ran.Load() != 1 {
		t.Errorf("handler ran %d times", ran.Load())
	}
	if again.StatusCode != 200 || again.body != first.body || again.Header.Get("X-Kept") != "yes" ||
		again.Header.Get(x402.HeaderResponse) != first.Header.Get(x402.HeaderResponse) {
		t.Errorf("the second answer differs: %d %s %v", again.StatusCode, again.body, again.Header)
	}
	if e := w.lastEvent(); e.Kind != paywall.Replayed || e.Code != "" {
		t.Errorf("event %+v", e)
	}
	p := w.book.only(t)
	if p.State != purchase.Committed || p.Charged != money.Units(500) || p.ID != receipt.Purchase || p.Route != "GET /quote/{symbol}" ||
		p.URL != w.server.URL+"/quote/ACME?x=1" || len(p.Proof) != 0 {
		t.Errorf("purchase %+v", p)
	}
	var proof struct {
		Guarantee   guarantee.Signed
		Certificate guarantee.Certificate
	}
	if err := json.Unmarshal(p.Certificate, &proof); err != nil || proof.Guarantee.Claims.Payer != w.payer.Address() {
		t.Errorf("evidence %s: %v", p.Certificate, err)
	}
	if got := w.house.owed(); got != money.Units(500) {
		t.Errorf("owed %s", got)
	}
}

func TestWorkThatFailsIsNotCharged(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		status  int
		body    string
		code    string
		outcome string
	}{
		{"a server error", func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "broken", http.StatusServiceUnavailable) }, 503, "broken\n", "", "handler_failed"},
		{"not found", func(rw http.ResponseWriter, r *http.Request) { http.NotFound(rw, r) }, 404, "404 page not found\n", "", "handler_failed"},
		{"a redirect", func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(http.StatusNotModified) }, 304, "", "", "handler_failed"},
		{"a panic", func(http.ResponseWriter, *http.Request) { panic("oh") }, 500, "", "handler_failed", "handler_failed"},
		{"a panic after writing", func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "half"); panic("oh") }, 500, "", "handler_failed", "handler_failed"},
		{"Fail with a 200", func(rw http.ResponseWriter, r *http.Request) {
			paywall.Fail(r.Context(), "no_data")
			_, _ = io.WriteString(rw, "sorry")
		}, 200, "sorry", "", "no_data"},
		{"Fail after Charge", func(rw http.ResponseWriter, r *http.Request) {
			paywall.Charge(r.Context(), 1)
			paywall.Fail(r.Context(), "no_data")
		}, 200, "", "", "no_data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.handle("GET /x", "$0.0005", c.handler)
			paid := w.paid(get("/x"))
			a := w.do(paid)
			if a.StatusCode != c.status || c.body != "" && a.body != c.body || a.code() != c.code {
				t.Errorf("status %d, code %q: %s", a.StatusCode, a.code(), a.body)
			}
			p := w.book.only(t)
			if p.State != purchase.Void || !p.Charged.IsZero() || p.Outcome != c.outcome {
				t.Errorf("purchase %+v", p)
			}
			if c.code == "" {
				r := receiptOf(t, a)
				if r.Success || r.Amount != "0" || r.ErrorReason != c.outcome || len(r.Extra["note"]) == 0 {
					t.Errorf("receipt %+v", r)
				}
			}
			w.drain()
			if got := w.house.owed(); !got.IsZero() {
				t.Errorf("owed %s", got)
			}
			if again := w.do(paid); again.StatusCode != 402 || again.code() != "payment_void" {
				t.Errorf("shown again: %d %s", again.StatusCode, again.body)
			}
		})
	}
}

func TestChargeMakesAnyStatusASale(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, r *http.Request) {
		paywall.Charge(r.Context(), 1)
		paywall.Cost(r.Context(), money.Units(40))
		paywall.Downstream(r.Context(), money.Units(7))
		paywall.Downstream(r.Context(), money.Units(8))
		http.Error(rw, "no such symbol, and that is the answer", 404)
	})
	if a := w.do(w.paid(get("/x"))); a.StatusCode != 404 || receiptOf(t, a).Amount != "500" {
		t.Errorf("status %d", a.StatusCode)
	}
	if p := w.book.only(t); p.State != purchase.Committed || p.Cost != money.Units(40) || p.Downstream != money.Units(15) {
		t.Errorf("purchase %+v", p)
	}
}

func TestMeasuredCharges(t *testing.T) {
	t.Parallel()
	answerWith := func(header, body string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			if header != "" {
				rw.Header().Set("X-Record-Count", header)
			}
			_, _ = io.WriteString(rw, body)
		}
	}
	for _, c := range []struct {
		name    string
		price   string
		opts    []paywall.Option
		handler http.HandlerFunc
		charged uint64 // 0: void
		status  int
	}{
		{"tokens that the handler counts", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0.02")},
			func(_ http.ResponseWriter, r *http.Request) {
				paywall.Charge(r.Context(), 30)
				paywall.Charge(r.Context(), 7)
			}, 370, 200},
		{"past the cap", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0.02")},
			func(_ http.ResponseWriter, r *http.Request) { paywall.Charge(r.Context(), uint64(1)<<63) }, 20000, 200},
		{"below the minimum", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0.02"), paywall.Minimum("$0.0002")},
			func(_ http.ResponseWriter, r *http.Request) { paywall.Charge(r.Context(), 3) }, 200, 200},
		{"nothing measured costs one unit", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0.02")},
			func(_ http.ResponseWriter, r *http.Request) { paywall.Charge(r.Context(), 0) }, 1, 200},
		{"started hundreds", "$0.01 per 100 records", []paywall.Option{paywall.UpTo("$0.10"), paywall.Count(paywall.HeaderCount("X-Record-Count"))},
			answerWith("137", "…"), 20000, 200},
		{"a member of the answer", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0.02"), paywall.Count(paywall.JSONCount("usage.total_tokens"))},
			answerWith("", `{"usage":{"total_tokens":12}}`), 120, 200},
		{"bytes out", "$0.001 per KiB out", []paywall.Option{paywall.UpTo("$0.10")}, answerWith("", strings.Repeat("x", 1025)), 2000, 200},
		{"the handler's word before the meter's", "$0.01 per 100 records", []paywall.Option{paywall.UpTo("$0.10"), paywall.Count(paywall.HeaderCount("X-Record-Count"))},
			func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("X-Record-Count", "900")
				paywall.Charge(r.Context(), 5)
			}, 10000, 200},
		{"nobody counted", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0.02")}, answerWith("", "words"), 0, 502},
		{"a count that is none", "$0.01 per 100 records", []paywall.Option{paywall.UpTo("$0.10"), paywall.Count(paywall.HeaderCount("X-Record-Count"))}, answerWith("-1", ""), 0, 502},
		{"a negative charge", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0.02")},
			func(_ http.ResponseWriter, r *http.Request) { paywall.Charge(r.Context(), -1) }, 0, 502},
		{"failed after some tokens", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0.02"), paywall.Count(paywall.HeaderCount("X-Record-Count"))},
			func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("X-Record-Count", "9")
				rw.WriteHeader(500)
			}, 0, 500},
		{"failed after some tokens, charged as measured", "$0.00001 per token",
			[]paywall.Option{paywall.UpTo("$0.02"), paywall.ChargeRule("as measured"), paywall.Count(paywall.HeaderCount("X-Record-Count"))},
			func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("X-Record-Count", "9")
				rw.WriteHeader(500)
			}, 90, 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.handle("GET /x", c.price, c.handler, c.opts...)
			a := w.do(w.paid(get("/x")))
			p := w.book.only(t)
			if a.StatusCode != c.status || p.Charged != money.Units(c.charged) || (p.State == purchase.Void) != (c.charged == 0) {
				t.Errorf("status %d, %s, charged %s: %s", a.StatusCode, p.State, p.Charged, a.body)
			}
			if c.status == 502 && (a.code() != "meter_missing" || a.body == "words") {
				t.Errorf("unmeasured answer: %s", a.body)
			}
			w.drain()
			if got := w.house.owed(); got != money.Units(c.charged) {
				t.Errorf("owed %s", got)
			}
		})
	}
}

func TestBytesInAreCountedBeforeWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var got string
	w.handle("PUT /files/{name}", "$0.001 per MiB in", func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = string(b)
	})
	big := call{method: "PUT", path: "/files/a", body: strings.Repeat("x", 1<<20+1)}
	small := call{method: "PUT", path: "/files/a", body: "tiny"}
	if amount := w.terms(big).Accepts[0].Amount; amount != "2000" {
		t.Errorf("asks %s for a byte more than a MiB", amount)
	}
	forSmall := w.paid(small)
	if a := w.do(call{method: "PUT", path: "/files/a", body: big.body, header: forSmall.header}); a.StatusCode != 402 || a.code() != "payment_mismatch" {
		t.Errorf("a small file's payment for a big one: %d %s", a.StatusCode, a.code())
	}
	if a := w.do(forSmall); a.StatusCode != 200 || got != "tiny" || receiptOf(t, a).Amount != "1000" {
		t.Errorf("status %d, handler got %q", a.StatusCode, got)
	}
}

func TestPriceOfARequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var got string
	h := w.pw.PriceFunc(func(r *http.Request) (string, error) {
		if r.Header.Get(x402.HeaderSignature) != "" {
			t.Error("the price may depend on the payment")
		}
		b, err := io.ReadAll(r.Body)
		switch string(b) {
		case "gratis":
			return "free", err
		case "nonsense":
			return "many dollars", err
		}
		return "$0." + string(b), err
	}, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = string(b)
	}))
	w.mux.Handle("POST /render", h)
	cheap, dear := call{method: "POST", path: "/render", body: "01"}, call{method: "POST", path: "/render", body: "99"}
	// The quote and the signature fit each other, but not the request.
	stolen := w.paid(cheap, func(d *draft) { d.terms.Body = purchase.BodyDigest([]byte("99")); d.claims.ReqID = d.terms.Hash() })
	stolen.body = "99"
	if a := w.do(stolen); a.code() != "payment_mismatch" || got != "" {
		t.Errorf("a cheap request's quote for a dear one: %d %s", a.StatusCode, a.body)
	}
	if a := w.do(w.paid(dear)); a.StatusCode != 200 || got != "99" || receiptOf(t, a).Amount != "990000" {
		t.Errorf("status %d, handler got %q", a.StatusCode, got)
	}
	if a := w.do(call{method: "POST", path: "/render", body: "gratis"}); a.StatusCode != 200 || got != "gratis" {
		t.Errorf("free: status %d", a.StatusCode)
	}
	if a := w.do(call{method: "POST", path: "/render", body: "nonsense"}); a.StatusCode != 500 || a.code() != "price_invalid" {
		t.Errorf("nonsense: status %d %s", a.StatusCode, a.body)
	}
}

func TestChargedBeforeWork(t *testing.T) {
	t.Parallel()
	fail := func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "broken", 500) }
	t.Run("because the route says so", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.handle("GET /x", "$0.0005", fail, paywall.ChargeRule("before work"))
		if e := w.terms(get("/x")).Accepts[0]; e.ExtraString("completion") != "charged before work" || e.ExtraString("refund") != "no refund" {
			t.Errorf("offer %s", e.Extra)
		}
		if a := w.do(w.paid(get("/x"))); a.StatusCode != 500 || receiptOf(t, a).Amount != "500" {
			t.Errorf("status %d", a.StatusCode)
		}
	})
	t.Run("because there is no key to let go with", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, func(c *paywall.Config) { c.PayTo, c.Signer = c.Signer.Address().String(), nil })
		w.handle("GET /x", "$0.0005", fail)
		if e := w.terms(get("/x")).Accepts[0]; e.ExtraString("completion") != "charged before work" || e.ExtraString("refund") != "no refund" {
			t.Errorf("offer %s", e.Extra)
		}
		w.do(w.paid(get("/x")))
		if p := w.book.only(t); p.State != purchase.Committed || p.Charged != money.Units(500) || len(p.Proof) != 0 {
			t.Errorf("purchase %+v", p)
		}
	})
}

func TestStockClients(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		alter func(*draft)
	}{
		{"version 2 that echoes the offer", func(d *draft) { d.stock = true; d.claims.ReqID = [32]byte{1} }},
		{"version 2 that echoes no extra", func(d *draft) { d.stock = true; d.accepted.Extra = nil }},
		{"version 1", func(d *draft) { d.v1 = true; d.claims.ReqID = [32]byte{2} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.handle("GET /x", "$0.0005", hello)
			paid := w.paid(get("/x"), c.alter)
			if c.name == "version 1" {
				paid.header = http.Header{"X-Payment": paid.header["Payment-Signature"]}
			}
			a := w.do(paid)
			if a.StatusCode != 200 || a.body != "hello" {
				t.Fatalf("status %d: %s", a.StatusCode, a.body)
			}
			p := w.book.only(t)
			if p.ID != purchase.IDFromPayment(p.Payment) {
				t.Errorf("purchase id %s", p.ID)
			}
			if a := w.do(paid); a.StatusCode != 200 || a.Header.Get(x402.HeaderXResponse) == "" {
				t.Errorf("again: %d", a.StatusCode)
			}
		})
	}
}

// Clients of 4Mica find the certificate under another name than x402's, and can verify no other than one of its own.
func TestStockBuyersGetACertificateOfTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", hello)
	for _, test := range []struct {
		name  string
		alter func(*draft)
		alone int
	}{
		{"ours", func(*draft) {}, 0},
		{"version 2 without an extension", func(d *draft) { d.stock = true }, 1},
		{"version 1", func(d *draft) { d.v1 = true }, 2},
	} {
		a := w.do(w.paid(get("/x"), test.alter))
		if a.StatusCode != 200 || w.house.alone != test.alone {
			t.Fatalf("%s: %d %s, %d certificates of their own", test.name, a.StatusCode, a.body, w.house.alone)
		}
		var old struct {
			Success     bool
			Guarantee   *guarantee.Certificate
			Certificate json.RawMessage
		}
		if err := json.Unmarshal([]byte(decode64(t, a.Header.Get(x402.HeaderXResponse))), &old); err != nil {
			t.Fatal(err)
		}
		if !old.Success || old.Guarantee == nil || old.Certificate != nil {
			t.Errorf("%s: X-PAYMENT-RESPONSE %+v", test.name, old)
		}
		r := receiptOf(t, a)
		if r.Certificate == nil || r.Guarantee != nil {
			t.Errorf("%s: PAYMENT-RESPONSE %+v", test.name, r)
		}
	}
}
