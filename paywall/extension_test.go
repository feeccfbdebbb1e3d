package paywall_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/x402"
)

func TestAPaymentIdentifierIsOnePayments(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /x", "$0.0005", hello)
	pay := func(id string, alter ...func(*order)) answer {
		return m.do(m.buy(get("/x"), "exact", append([]func(*order){func(o *order) { o.paymentID = id }}, alter...)...))
	}
	const id = "pay_0123456789abcdef0123456789abcdef"
	if a := pay(id); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := pay(id); a.StatusCode != 409 || a.code() != "payment_id_conflict" {
		t.Errorf("another payment under the same id: %d %s", a.StatusCode, a.body)
	}
	other := key(t)
	if a := pay(id, func(o *order) { o.signer = other }); a.StatusCode != 200 {
		t.Errorf("the same id from another payer is another: %d %s", a.StatusCode, a.body)
	}
	if a := pay("short"); a.StatusCode != 400 || a.code() != "payment_id_invalid" {
		t.Errorf("no id: %d %s", a.StatusCode, a.body)
	}
	m.bank.expect(t, 1000, 2)
}

func TestExtensionsComeBackAsTheyWent(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /x", "$0.0005", hello)
	a := m.do(m.buy(get("/x"), "exact", func(o *order) {
		o.extensions = map[string]json.RawMessage{x402.PaymentIDKey: json.RawMessage(`{"info":{"required":true}}`)}
	}))
	if a.StatusCode != 402 || a.code() != "extension_echo_mismatch" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	m.bank.expect(t, 0, 0)
}

func TestOffersAndReceiptsAreSigned(t *testing.T) {
	t.Parallel()
	for _, form := range []string{x402.FormatEIP712, x402.FormatJWS} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			offersAndReceipts(t, form)
		})
	}
}

func offersAndReceipts(t *testing.T, form string) {
	m := newMarket(t, func(c *paywall.Config) { c.SignOffers = form })
	m.handle("GET /x", "$0.0005", hello)
	required := m.terms(get("/x"))
	keys := func(kid string) (evm.Address, bool) { return evm.Address{}, false } // a did:key says its key itself
	offer, signer, found, err := required.SignedOffer(required.Accepts[0], keys)
	if err != nil || !found || signer != m.seller.Address() || offer.Amount != "500" {
		t.Errorf("offer %+v by %s, %v %v", offer, signer, found, err)
	}
	paid := m.buy(get("/x"), "exact")
	var first string
	for range 2 {
		a := m.do(paid)
		receipt, signer, found, err := receiptOf(t, a).SignedReceipt(keys)
		if err != nil || !found || signer != m.seller.Address() || receipt.Amount != "500" || receipt.Transaction == "" || receipt.Payer != m.payer.Address().String() {
			t.Errorf("receipt %+v by %s, %v %v", receipt, signer, found, err)
		}
		if h := a.Header.Get(x402.HeaderResponse); first != "" && h != first {
			t.Error("asking again gave another receipt")
		} else {
			first = h
		}
	}
}

func TestWhoHasPaidReturnsWithoutPaying(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	var ran atomic.Int32
	m.handle("GET /x/{id}", "$0.0005", counting(&ran), paywall.Valid(time.Hour))
	m.handle("GET /y", "$0.0005", hello, paywall.Valid(time.Hour))
	signIn := func(path string, key evm.Signer) call {
		t.Helper()
		asked, err := url.Parse(m.server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		header, err := m.terms(get(path)).AnswerSignIn(t.Context(), key, asked)
		if err != nil {
			t.Fatal(err)
		}
		return get(path).with(x402.HeaderSignIn, header)
	}
	if a := m.do(signIn("/x/1", m.payer)); a.StatusCode != 402 || ran.Load() != 0 {
		t.Errorf("before it has paid: %d %s", a.StatusCode, a.body)
	}
	m.do(m.buy(get("/x/1"), "exact"))
	back := signIn("/x/2", m.payer)
	if a := m.do(back); a.StatusCode != 200 || a.body != "hello" || a.Header.Get("Cache-Control") == "" {
		t.Errorf("after it has paid: %d %s", a.StatusCode, a.body)
	}
	if a := m.do(back); a.StatusCode != 401 || a.code() != "sign_in_used" {
		t.Errorf("the same sign-in again: %d %s", a.StatusCode, a.body)
	}
	m.pw = m.open() // another gate on the same book, which knows the nonce as well
	m.mux = http.NewServeMux()
	m.mux.Handle("GET /x/{id}", m.pw.Price("$0.0005", counting(&ran), paywall.Valid(time.Hour)))
	m.mux.Handle("GET /y", m.pw.Price("$0.0005", http.HandlerFunc(hello), paywall.Valid(time.Hour)))
	m.server.Config.Handler = m.mux
	if a := m.do(back); a.code() != "sign_in_used" {
		t.Errorf("the same sign-in at another gate: %d %s", a.StatusCode, a.body)
	}
	stranger := key(t)
	if a := m.do(signIn("/x/1", stranger)); a.StatusCode != 402 {
		t.Errorf("somebody else: %d %s", a.StatusCode, a.body)
	}
	moved := signIn("/x/1", m.payer)
	moved.path = "/y"
	if a := m.do(moved); a.StatusCode != 401 && a.StatusCode != 402 {
		t.Errorf("on a route that was not bought: %d %s", a.StatusCode, a.body)
	}
	old := signIn("/x/1", m.payer)
	m.clock.advance(6 * time.Minute)
	if a := m.do(old); a.StatusCode != 401 || a.code() != "sign_in_expired" {
		t.Errorf("an old sign-in: %d %s", a.StatusCode, a.body)
	}
	m.clock.advance(time.Hour)
	if a := m.do(signIn("/x/1", m.payer)); a.StatusCode != 402 {
		t.Errorf("after its time: %d %s", a.StatusCode, a.body)
	}
	if ran.Load() != 2 {
		t.Errorf("ran %d times", ran.Load())
	}
	m.bank.expect(t, 500, 1)
}

func TestAListedRouteDescribesItself(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /quote/{symbol}", "$0.0005", hello, paywall.Listed(), paywall.Describe("One quote", "application/json"))
	entry := m.terms(get("/quote/ACME?at=now")).Extensions[x402.BazaarKey]
	var e struct {
		RouteTemplate string
		Info          struct {
			Input struct {
				Method      string
				QueryParams map[string]string
				PathParams  map[string]string
			}
		}
	}
	if err := json.Unmarshal(entry, &e); err != nil || e.RouteTemplate != "/quote/:symbol" || e.Info.Input.PathParams["symbol"] != "ACME" || e.Info.Input.QueryParams["at"] != "now" {
		t.Errorf("%v %s", err, entry)
	}
	if a := m.do(m.buy(get("/quote/ACME"), "exact")); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestTheHeaderOfOneOfferIsSmall(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.handle("GET /x", "$0.0005", hello, paywall.Describe("One quote of one share of one company, as it stood a moment ago", "application/json"),
		paywall.Bundle("100 calls", 24*time.Hour), paywall.Refund("full on failure within 24h"))
	if n := len(m.do(get("/x?a=1")).Header.Get(x402.HeaderRequired)); n > 3<<10 {
		t.Errorf("%d bytes", n)
	} else {
		t.Logf("%d bytes", n)
	}
}
