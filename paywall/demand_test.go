package paywall_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/x402"
)

func TestThePriceIsAnnounced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *paywall.Config) {
		c.BaseURL, c.DevNote, c.Help, c.TabPath = "https://api.example.org", "Development money.", "https://docs.example.org/pay", "/x402/tab"
	})
	w.handle("GET /quote/{symbol}", "$0.0005", hello,
		paywall.Alternative("/quote-delayed"), paywall.Refund("full on failure within 24h"), paywall.Describe("One quote", "application/json"))
	a := w.do(get("/quote/ACME?x=1").with("User-Agent", "curl/8.5").with("Origin", "https://shop.example"))
	if a.StatusCode != 402 || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Link") != `<https://docs.example.org/pay>; rel="help"` ||
		!strings.Contains(a.Header.Get("Access-Control-Expose-Headers"), "PAYMENT-REQUIRED") {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	header := a.Header.Get(x402.HeaderRequired)
	if len(header) > 3<<10 {
		t.Errorf("header of %d bytes for one offer", len(header))
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	accepts := got["accepts"].([]any)[0].(map[string]any)
	extra := accepts["extra"].(map[string]any)
	if q, _ := extra["quote"].(string); len(q) != 43 {
		t.Errorf("quote %q", q)
	}
	delete(extra, "quote")
	want := map[string]any{
		"x402Version": 1.0,
		"error":       "Payment required: $0.0005 for GET /quote/ACME. Nothing has been charged. Development money.",
		"accepts": []any{map[string]any{
			"scheme": "4mica-credit", "network": "eip155:84532", "maxAmountRequired": "500", "amount": "500",
			"asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "payTo": w.seller.Address().String(),
			"resource": "https://api.example.org/quote/ACME?x=1", "description": "One quote", "mimeType": "application/json", "maxTimeoutSeconds": 60.0,
			"extra": map[string]any{
				"price": "$0.0005", "completion": "charged after success", "refund": "full on failure until the cutoff of its cycle",
				"uncaptured": "what is not charged is never owed", "expires": 1782122460.0, "tabEndpoint": "https://api.example.org/x402/tab",
			},
		}},
		"price": "$0.0005", "waysToPay": []any{"guarantee"}, "completion": "charged after success", "refund": "full on failure until the cutoff of its cycle",
		"quoteExpires": "2026-06-22T10:01:00Z", "alternative": "/quote-delayed",
		"try": "farthing get --max '$0.001' 'https://api.example.org/quote/ACME?x=1'",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	var required x402.PaymentRequired
	if err := x402.DecodeHeader(header, &required); err != nil {
		t.Fatal(err)
	}
	if required.X402Version != 2 || required.Accepts[0].Amount != "500" || required.Resource.URL != "https://api.example.org/quote/ACME?x=1" || required.Error != "Payment required" {
		t.Errorf("header %+v", required)
	}
}

func TestMeasuredPricesAnnounceTheirBounds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("POST /generate", "$0.00001 per token", hello, paywall.UpTo("$0.02"), paywall.Minimum("$0.0002"))
	a := w.do(call{method: "POST", path: "/generate"})
	for _, want := range []string{"$0.00001 per token, minimum $0.0002, at most $0.02", `"maxAmountRequired":"20000"`, "farthing get -X POST --max '$0.04'"} {
		if !strings.Contains(a.body, want) {
			t.Errorf("no %q in %s", want, a.body)
		}
	}
}

func TestBrowsersGetAPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x/{q}", "$0.0005", hello)
	browser := get("/x/%3Cscript%3Ealert(1)%3C").with("Accept", "text/html,*/*").with("User-Agent", "Mozilla/5.0")
	a := w.do(browser)
	if a.StatusCode != 402 || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || a.Header.Get(x402.HeaderRequired) == "" ||
		a.Header.Get("Content-Security-Policy") == "" || a.Header.Get("Vary") != "Accept" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	for _, want := range []string{"$0.0005", "charged after success", "Nothing has been charged", "farthing get"} {
		if !strings.Contains(a.body, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if strings.Contains(a.body, "<script") {
		t.Error("the page repeats what the address bar says")
	}
	if a := w.do(get("/x/1").with("Accept", "text/html").with("User-Agent", "curl/8")); !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") {
		t.Errorf("curl gets %s", a.Header.Get("Content-Type"))
	}
}

// A price that was given stays good: through a change of prices and a restart, until it expires, and only for its route.
func TestQuotesAreHonoured(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /x", "$0.0005", hello)
	old := w.paid(get("/x"))
	oldStock := w.paid(get("/x"), func(d *draft) { d.stock, d.accepted.Extra = true, nil })
	late := w.paid(get("/x"))
	w.restart("$0.0009", hello)
	w.clock.advance(60 * time.Second)
	if a := w.do(old); a.StatusCode != 200 || receiptOf(t, a).Amount != "500" {
		t.Errorf("the old price, quoted: %d %s", a.StatusCode, a.body)
	}
	if a := w.do(oldStock); a.code() != "payment_mismatch" {
		t.Errorf("the old price, not quoted: %d %s", a.StatusCode, a.body)
	}
	if a := w.do(w.paid(get("/x"))); a.StatusCode != 200 || receiptOf(t, a).Amount != "900" {
		t.Errorf("the new price: %d %s", a.StatusCode, a.body)
	}
	w.clock.advance(time.Second)
	a := w.do(late)
	if a.StatusCode != 402 || a.code() != "quote_expired" || !strings.Contains(a.body, `"price":"$0.0009"`) {
		t.Errorf("a second late: %d %s", a.StatusCode, a.body)
	}
	if a := w.do(old); a.StatusCode != 200 || receiptOf(t, a).Amount != "500" {
		t.Errorf("what was bought in time: %d %s", a.StatusCode, a.body)
	}
}

func TestAMeasuredQuoteKeepsItsUnitPrice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := func(_ http.ResponseWriter, r *http.Request) { paywall.Charge(r.Context(), 100) }
	w.handle("GET /x", "$0.00001 per token", h, paywall.UpTo("$0.02"))
	old := w.paid(get("/x"))
	w.pw = w.open()
	w.server.Config.Handler = w.pw.Price("$0.00009 per token", http.HandlerFunc(h), paywall.UpTo("$0.02"))
	mux := http.NewServeMux()
	mux.Handle("GET /x", w.server.Config.Handler)
	w.server.Config.Handler = mux
	if a := w.do(old); a.StatusCode != 200 || receiptOf(t, a).Amount != "1000" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	mux = http.NewServeMux()
	mux.Handle("GET /x", w.pw.Price("$0.01 per second", http.HandlerFunc(h), paywall.UpTo("$0.02")))
	counted := w.paid(get("/x"))
	w.server.Config.Handler = mux
	if a := w.do(counted); a.code() != "quote_expired" {
		t.Errorf("a quote in other units: %d %s", a.StatusCode, a.body)
	}
}

func TestPricesThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		price string
		opts  []paywall.Option
		says  string
	}{
		{"no price", "many dollars", nil, "does not begin with"},
		{"below one unit", "$0.0000001", nil, "below one unit of USDC"},
		{"in another token", "0.01 DOGE", nil, "DOGE"},
		{"measured without a bound", "$0.00001 per token", nil, "up_to"},
		{"a minimum above the bound", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0.02"), paywall.Minimum("$0.03")}, "below the minimum"},
		{"a bound that is none", "$0.00001 per token", []paywall.Option{paywall.UpTo("lots")}, "up_to"},
		{"a bound of nothing", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0")}, "up_to"},
		{"measured after and charged before", "$0.00001 per token", []paywall.Option{paywall.UpTo("$0.02"), paywall.ChargeRule("before work")}, "before"},
		{"a rule nobody knows", "$0.01", []paywall.Option{paywall.ChargeRule("by stage")}, "by stage"},
		{"a body for nobody", "$0.01", []paywall.Option{paywall.Body("v3")}, "v3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.mux.Handle("GET /x", w.pw.Price(c.price, http.HandlerFunc(hello), c.opts...))
			err := w.pw.Check()
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("check: %v", err)
			}
			if a := w.do(get("/x")); a.StatusCode != 500 || a.code() != "price_invalid" {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
		})
	}
	w := newWorld(t, func(c *paywall.Config) { c.PayTo, c.Signer = c.Signer.Address().String(), nil })
	w.pw.Price("$0.01", http.HandlerFunc(hello), paywall.ChargeRule("after success"))
	w.pw.Price("$0.01 per token", http.HandlerFunc(hello), paywall.UpTo("$1"))
	if err := w.pw.Check(); err == nil || len(strings.Split(err.Error(), "\n")) != 2 {
		t.Errorf("without a key: %v", err)
	}
}

func TestConfigs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		name   string
		change func(*paywall.Config)
		code   string
	}{
		{"nobody to pay", func(c *paywall.Config) { c.Signer = nil }, "config_invalid"},
		{"an address that is none", func(c *paywall.Config) { c.PayTo = "0x12" }, "config_invalid"},
		{"offers signed by somebody else", func(c *paywall.Config) { c.PayTo, c.SignOffers = evm.Address{1}.String(), "eip712" }, "config_invalid"},
		{"no network", func(c *paywall.Config) { c.Network = "basement" }, "network_unknown"},
		{"no such token", func(c *paywall.Config) { c.Assets = []string{"USDT"} }, "asset_unknown"},
		{"no clearing house", func(c *paywall.Config) { c.House = nil }, "config_invalid"},
		{"a clearing house at no address", func(c *paywall.Config) { c.House, c.ClearingHouse = nil, "ftp://x" }, "config_invalid"},
		{"no book", func(c *paywall.Config) { c.Purchases = nil }, "config_invalid"},
		{"a way to pay that is none", func(c *paywall.Config) { c.Accept = []string{"cash"} }, "config_invalid"},
		{"an origin with a path", func(c *paywall.Config) { c.BaseURL = "https://x/y" }, "config_invalid"},
	} {
		cfg := w.cfg
		c.change(&cfg)
		if _, err := paywall.New(cfg); err == nil {
			t.Errorf("%s: taken", c.name)
		} else if e, ok := x402.AsError(err); !ok || e.Code != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	cfg := w.cfg
	cfg.PayTo, cfg.Network = "0x12", "basement"
	if _, err := paywall.New(cfg); err == nil || !strings.Contains(err.Error(), "pay_to") || !strings.Contains(err.Error(), "basement") {
		t.Errorf("two faults: %v", err)
	}
}

func TestFreeRoutesAreNotSold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handle("GET /health", "free", func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get(x402.HeaderPayment) != "" {
			t.Error("handler sees a payment")
		}
		paywall.Charge(r.Context(), 5) // means nothing here
		paywall.Fail(r.Context(), "x")
		paywall.Cost(r.Context(), money.Units(1))
		if id := paywall.PurchaseID(r.Context()); id != "" {
			t.Errorf("purchase %s", id)
		}
		hello(rw, r)
	})
	if a := w.do(get("/health").with(x402.HeaderPayment, "x")); a.StatusCode != 200 || a.body != "hello" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestTabs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mux.Handle("/x402/tab", w.pw.Tabs())
	ask := func(body string) answer { return w.do(call{method: "POST", path: "/x402/tab", body: body}) }
	question := `{"guaranteeVersion":1,"userAddress":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","paymentRequirements":{"scheme":"4mica-credit",
		"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","amount":"100000","payTo":"` + w.seller.Address().Lower() + `"}}`
	seen := map[string]bool{}
	for range 3 {
		a := ask(question)
		var got struct{ UserAddress, RecipientAddress, AssetAddress, NextReqID string }
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		if got.UserAddress != "0x70997970C51812dc3A010C7d01b50e0d17dc79C8" || got.RecipientAddress != w.seller.Address().String() || seen[got.NextReqID] {
			t.Errorf("%+v", got)
		}
		if _, err := money.ParseAmount(got.NextReqID); err != nil {
			t.Error(err)
		}
		seen[got.NextReqID] = true
	}
	for _, bad := range []string{"", "{}", `{"userAddress":"me"}`, strings.Replace(question, `"guaranteeVersion":1`, `"guaranteeVersion":2`, 1), strings.Replace(question, "4mica-credit", "exact", 1),
		strings.Replace(question, w.seller.Address().Lower(), "0x2222222222222222222222222222222222222222", 1), strings.Replace(question, `"guaranteeVersion":1`, `"guaranteeVersion":1,"x402Version":2`, 1)} {
		if a := ask(bad); a.StatusCode != 400 {
			t.Errorf("%q: %d", bad, a.StatusCode)
		}
	}
	if a := w.do(get("/x402/tab")); a.StatusCode != 405 {
		t.Errorf("GET: %d", a.StatusCode)
	}
}

func TestSeveralAssetsAreOffered(t *testing.T) {
	t.Parallel()
	all := network.Known()
	if err := all.Add(network.Chain{ID: 84532, Test: true, Tokens: []network.Token{{
		Symbol: "EUSD", Address: evm.MustAddress("0xE0000000000000000000000000000000000000E5"), Decimals: 6, Name: "E", Version: "1", EIP3009: true, Dollar: true,
	}}}); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *paywall.Config) { c.Networks, c.Assets = &all, []string{"USDC", "EUSD", "usdc"} })
	w.handle("GET /x", "$0.0005", hello)
	if n := len(w.terms(get("/x")).Accepts); n != 2 {
		t.Errorf("%d offers", n)
	}
	if a := w.do(w.paid(get("/x"), func(d *draft) { d.v1 = true })); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
