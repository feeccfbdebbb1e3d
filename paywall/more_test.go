package paywall_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// The stored answer belongs to whoever has the payer's signature, also when the payment is no longer good for more.
func TestAStoredAnswerIsNotForWhoCannotSign(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "secret") })
	d := w.draft(get("/x"))
	if a := w.do(get("/x").with(x402.HeaderSignature, w.sign(d))); a.body != "secret" {
		t.Fatal(a.body)
	}
	sig, err := key(t).Sign(context.Background(), d.claims.Digest(w.house.deployment.ClaimsSeparator()))
	if err != nil {
		t.Fatal(err)
	}
	forged := get("/x").with(x402.HeaderSignature, w.wrap(d, guarantee.Signed{Claims: d.claims, Signature: sig, Form: guarantee.EIP712}))
	for _, c := range []struct {
		name string
		wait time.Duration
		code string
	}{{"while the quote stands", 0, "payer_signature_invalid"}, {"when it is over", time.Hour, "quote_expired"}} {
		w.clock.advance(c.wait)
		if a := w.do(forged); a.StatusCode != 402 || a.code() != c.code || strings.Contains(a.body, "secret") {
			t.Errorf("%s: %d %s", c.name, a.StatusCode, a.body)
		}
	}
}

func TestAPurchaseIDBelongsToOnePayment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ran atomic.Int32
	w.handle("GET /x", "$0.0005", counting(&ran))
	first := w.draft(get("/x"))
	if a := w.do(get("/x").with(x402.HeaderSignature, w.sign(first))); a.StatusCode != 200 {
		t.Fatal(a.StatusCode)
	}
	w.payer = key(t)
	a := w.do(w.paid(get("/x"), func(d *draft) {
		d.id, d.terms.Purchase = first.id, first.id
		d.claims.ReqID = d.terms.Hash()
	}))
	if a.StatusCode != 402 || a.code() != "payment_mismatch" || ran.Load() != 1 {
		t.Errorf("%d, ran %d: %s", a.StatusCode, ran.Load(), a.body)
	}
}

func TestAnEchoThatContradictsTheSignatureIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", hello)
	for _, alter := range []func(*draft){
		func(d *draft) { d.accepted.Amount = "1" },
		func(d *draft) { d.accepted.PayTo = "0x2222222222222222222222222222222222222222" },
		func(d *draft) { d.accepted.Asset = "0x2222222222222222222222222222222222222222" },
	} {
		if a := w.do(w.paid(get("/x"), func(d *draft) { d.stock, d.accepted.Extra = true, nil; alter(d) })); a.code() != "payment_mismatch" {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
}

// Whoever changes the address that is paid does not go on selling for the old one.
func TestAQuoteForAnotherPayeeIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", hello)
	old := w.paid(get("/x"))
	w.cfg.Signer = key(t)
	w.restart("$0.0005", hello)
	if a := w.do(old); a.StatusCode != 402 || a.code() != "quote_expired" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// The outcome was not written down and nobody restarts anything: the next time the payment is shown settles it.
func TestALostOutcomeIsEndedWhenAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ran atomic.Int32
	w.handle("GET /x", "$0.0005", counting(&ran))
	paid := w.paid(get("/x"))
	failing := true
	w.book.set(func(method string, _ purchase.Purchase) error {
		if method == "finish" && failing {
			failing = false
			return errBook
		}
		return nil
	})
	if a := w.do(paid); a.code() != "settlement_pending" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := w.do(paid); a.code() != "payment_void" || ran.Load() != 1 {
		t.Errorf("%d, ran %d: %s", a.StatusCode, ran.Load(), a.body)
	}
}

func TestAStreamWhoseOutcomeIsLostBreaksOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, r *http.Request) { hello(rw, r); rw.(http.Flusher).Flush() })
	w.book.set(func(method string, _ purchase.Purchase) error {
		if method == "finish" {
			return errBook
		}
		return nil
	})
	resp := w.stream(context.Background(), w.paid(get("/x")))
	if resp.Header.Get("Cache-Control") != "private" {
		t.Errorf("Cache-Control %q", resp.Header.Get("Cache-Control"))
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the answer ended as if it were paid for")
	}
}

func TestPaidAnswersArePrivate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Cache-Control", r.URL.Query().Get("c"))
	})
	for in, want := range map[string]string{
		"": "private", "no-store": "no-store", "private,max-age=5": "private, max-age=5", "public,s-maxage=9,max-age=5": "max-age=5, private", "Public": "private",
	} {
		if a := w.do(w.paid(get("/x?c=" + in))); a.Header.Get("Cache-Control") != want {
			t.Errorf("%q became %q, want %q", in, a.Header.Get("Cache-Control"), want)
		}
	}
}

func TestABodyOfUnknownLengthIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *paywall.Config) { c.BodyBytes = 10 })
	var ran atomic.Int32
	w.handle("POST /x", "$0.0005", counting(&ran))
	paid := w.paid(call{method: "POST", path: "/x", body: "01234567890"})
	r, err := http.NewRequest("POST", w.server.URL+"/x", io.MultiReader(strings.NewReader("0123456789"), strings.NewReader("0")))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = paid.header
	resp, err := w.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 || ran.Load() != 0 {
		t.Errorf("status %d, ran %d", resp.StatusCode, ran.Load())
	}
}

// A clearing house behind HTTP that takes the guarantee and says nothing.
func TestASlowHouseOverHTTP(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	defer slow.Close()
	defer close(stop)
	w := newWorld(t, func(c *paywall.Config) {
		c.House, c.ClearingHouse = nil, slow.URL
		c.HTTPClient = &http.Client{Transport: &http.Transport{ResponseHeaderTimeout: 10 * time.Millisecond}}
	})
	var ran atomic.Int32
	w.handle("GET /x", "$0.0005", counting(&ran))
	if a := w.do(w.paid(get("/x"))); a.StatusCode != 503 || a.code() != "house_unreachable" || ran.Load() != 0 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestPlainHandlersBehindStripPrefix(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mux.Handle("/api/", http.StripPrefix("/api", w.pw.Price("$0.0005", http.HandlerFunc(hello))))
	if got := w.terms(get("/api/x?y=1")).Resource.URL; got != w.server.URL+"/api/x?y=1" {
		t.Errorf("announces %s, which the buyer never asked for", got)
	}
	if a := w.do(w.paid(get("/api/x?y=1"))); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// The price went up while the clearing house was away: what was reserved at the old one, by a client that echoes no
// quote, is neither served at it nor lost sight of.
func TestAReservationWithoutAQuoteAfterThePriceChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", hello)
	paid := w.paid(get("/x"), func(d *draft) { d.v1 = true })
	w.house.set(func() {
		w.house.certify = func(guarantee.Signed) (guarantee.Certificate, error) {
			return guarantee.Certificate{}, x402.Errorf("house_unreachable", "away")
		}
	})
	w.do(paid)
	w.house.set(func() { w.house.certify = nil })
	w.restart("$0.0009", hello)
	if a := w.do(paid); a.StatusCode != 402 || a.code() != "payment_mismatch" || w.book.only(t).State != purchase.Reserved {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestABuyerThatLeavesBeforeWorkBegins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ran atomic.Int32
	w.handle("GET /x", "$0.0005", counting(&ran))
	paid := w.paid(get("/x"))
	ctx, leave := context.WithCancel(context.Background())
	w.house.set(func() {
		w.house.certify = func(s guarantee.Signed) (guarantee.Certificate, error) { leave(); return w.house.sign(s) }
	})
	r, err := http.NewRequestWithContext(ctx, "GET", w.server.URL+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header, r.RequestURI = paid.header, "/x"
	w.mux.ServeHTTP(&discard{header: http.Header{}}, r)
	if p := w.book.only(t); p.State != purchase.Reserved || ran.Load() != 0 {
		t.Errorf("%s, ran %d", p.State, ran.Load())
	}
	if a := w.do(paid); a.StatusCode != 200 || ran.Load() != 1 {
		t.Errorf("when it is back: %d", a.StatusCode)
	}
}

func TestTheFirstStatusCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(201); rw.WriteHeader(500) })
	if a := w.do(w.paid(get("/x"))); a.StatusCode != 201 || receiptOf(t, a).Amount != "500" {
		t.Errorf("%d", a.StatusCode)
	}
}

// Without the payee's key nothing can be let go, so nothing may be booked as if it were.
func TestFailWithoutAKeyChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *paywall.Config) { c.PayTo, c.Signer = c.Signer.Address().String(), nil })
	w.handle("GET /x", "$0.0005", func(_ http.ResponseWriter, r *http.Request) { paywall.Fail(r.Context(), "no_data") })
	w.do(w.paid(get("/x")))
	if p := w.book.only(t); p.State != purchase.Committed || p.Charged != w.house.owed() || p.Outcome != "no_data" {
		t.Errorf("%s, charged %s, owed %s", p.State, p.Charged, w.house.owed())
	}
}

func TestTroubleWithTheHouseIsNotTheBuyersFault(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"unauthorized", "not_found", "malformed_request", "internal", "a_code_of_next_year"} {
		w := newWorld(t)
		w.house.certify = func(guarantee.Signed) (guarantee.Certificate, error) {
			return guarantee.Certificate{}, x402.Errorf(code, "no")
		}
		w.handle("GET /x", "$0.0005", hello)
		if a := w.do(w.paid(get("/x"))); a.StatusCode != 503 || a.code() != "house_refused" {
			t.Errorf("%s: %d %s", code, a.StatusCode, a.body)
		}
	}
}
