package payer

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// What arrives is signed by the buyer, for exactly what was offered and asked.
func TestPaymentIsForTheTermsOfTheOffer(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	p := newPayer(t, perDay("$1"))
	address := s.url + "/quote/ACME?x=1"
	req, err := http.NewRequest("POST", address+"#part", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: p}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "sold for 500" || s.asked != 1 || len(s.payments) != 1 {
		t.Fatalf("%q, asked %d times, %d payments", body, s.asked, len(s.payments))
	}
	got := s.payments[0]
	if _, err := got.Signed.Verify(deployment.ClaimsSeparator(), guarantee.Rules{}); err != nil {
		t.Error(err)
	}
	o := s.offer()
	terms := purchase.Terms{
		Purchase: got.id, Quote: "q", Price: "$0.0005", Scheme: o.Scheme, Network: o.Network, Asset: evm.MustAddress(o.Asset),
		Payee: sellerKey.Address(), Amount: money.Units(500), Method: "POST", Resource: address, Body: purchase.BodyDigest([]byte("hello")),
		Completion: "charged after success", Refund: "none", Uncaptured: "voided", Expires: noon.Add(time.Minute).Unix(),
	}
	if got.Claims.ReqID != terms.Hash() || !purchase.ValidID(got.id) {
		t.Errorf("request id is not the hash of the terms (purchase %q)", got.id)
	}
	if got.Claims.Payer != buyerKey.Address() || got.Claims.Timestamp != uint64(noon.Unix()) || string(got.body) != "hello" {
		t.Errorf("claims %+v, body %q", got.Claims, got.body)
	}
	if got.Accepted == nil || !x402.Matches(*got.Accepted, o) {
		t.Errorf("accepted %+v", got.Accepted)
	}
	r, ok := Receipt(resp)
	if !ok || r.State != Charged || r.Charged != money.Units(500) || r.ID != got.id || r.Digest != got.Claims.Digest(deployment.ClaimsSeparator()) {
		t.Errorf("receipt %+v, %v", r, ok)
	}
	if want := "paid $0.0005 to " + sellerKey.Address().Short() + " by guarantee · purchase " + got.id; r.String() != want {
		t.Errorf("got %q, want %q", r, want)
	}
	if today(t, p) != "$0.9995" {
		t.Errorf("left %s", today(t, p))
	}
	if resp.Request.Header.Get(x402.HeaderSignature) != "" || resp.Request.URL.String() != address+"#part" {
		t.Errorf("the answer's request is not the caller's: %v", resp.Request)
	}
	if again, err := p.ReceiptOf(got.id); err != nil || again.Charged != r.Charged || again.Method != "POST" {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestWhatHasNoPricePassesThrough(t *testing.T) {
	t.Parallel()
	var got atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got.Store(fmt.Sprintf("%s %s %d", r.Method, b, r.ContentLength))
		w.WriteHeader(418)
	}))
	defer server.Close()
	p := newPayer(t)
	resp, err := (&http.Client{Transport: p}).Post(server.URL, "text/plain", strings.NewReader("body"))
	if err != nil || resp.StatusCode != 418 || got.Load() != "POST body 4" {
		t.Errorf("%v, %v, %v", resp, err, got.Load())
	}
	if _, ok := Receipt(resp); ok {
		t.Error("a receipt for nothing")
	}
}

// Whoever pays by himself is not paid for twice.
func TestARequestThatCarriesAPaymentIsLeftAlone(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(402) }))
	defer server.Close()
	req, _ := http.NewRequest("GET", server.URL, nil)
	req.Header.Set(x402.HeaderPayment, "mine")
	resp, err := newPayer(t).RoundTrip(req)
	if err != nil || resp.StatusCode != 402 {
		t.Errorf("%v, %v", resp, err)
	}
}

// A hundred goroutines cannot pass the budget together, and none of it is lost to the race.
func TestParallelPurchasesKeepToTheBudget(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"", journalFile(t)} {
		s := (&seller{}).start(t)
		p := newPayer(t, perDay("$0.0105"), inFile(journal)) // 21 calls
		var paid, refused atomic.Int64
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				switch _, _, err := get(p, s.url); {
				case err == nil:
					paid.Add(1)
				case code(err) == "budget_exceeded":
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if paid.Load() != 21 || refused.Load() != 79 || s.distinct() != 21 || today(t, p) != "$0.00" {
			t.Errorf("%d paid, %d refused, %d signed, %s left", paid.Load(), refused.Load(), s.distinct(), today(t, p))
		}
	}
}

// Several processes with one journal are one buyer. Each payer here has opened the file by itself, as a process would.
func TestPayersWithOneJournalShareItsBudget(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	path := journalFile(t)
	var paid atomic.Int64
	var wg sync.WaitGroup
	var last *Payer
	for range 4 {
		p := newPayer(t, perDay("$0.01"), inFile(path))
		last = p
		for range 15 {
			wg.Go(func() {
				if _, _, err := get(p, s.url); err == nil {
					paid.Add(1)
				} else if code(err) != "budget_exceeded" {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if paid.Load() != 20 || s.distinct() != 20 || today(t, last) != "$0.00" {
		t.Errorf("%d paid, %d signed, %s left", paid.Load(), s.distinct(), today(t, last))
	}
	if list, err := last.Receipts(); err != nil || len(list) != 20 {
		t.Errorf("%d receipts, %v", len(list), err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		budget Budget
		calls  int
		reason string
	}{
		{"per call", Budget{PerCall: "$0.0004"}, 0, "asks $0.0005, your limit per call is $0.0004"},
		{"per day", Budget{PerCall: "$1", PerDay: "$0.0014"}, 2, "asks $0.0005, and $0.0004 is left of your budget for today"},
		{"in total", Budget{PerCall: "$1", PerDay: "$9", Total: "$0.0005"}, 1, "asks $0.0005, and $0.00 is left of your budget in total"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := (&seller{}).start(t)
			p := newPayer(t, func(c *Config) { c.Budget = test.budget })
			for range test.calls {
				if _, _, err := get(p, s.url); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err := get(p, s.url)
			n := need(err)
			if n == nil || n.Code != "budget_exceeded" || !contains(n.Reason, test.reason) || n.Asked.String() != "$0.0005" || s.distinct() != test.calls {
				t.Errorf("%v, %d signed", err, s.distinct())
			}
		})
	}
}

func TestADayEndsAndTheTotalDoesNot(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	now := noon
	path := journalFile(t)
	open := func() *Payer {
		return newPayer(t, inFile(path), func(c *Config) {
			c.Budget = Budget{PerCall: "$1", PerDay: "$0.0005", Total: "$0.0020"}
			c.Now = func() time.Time { return now }
		})
	}
	s.offers = func(o x402.Requirements) []x402.Requirements {
		delete(o.Extra, "expires")
		return []x402.Requirements{o}
	}
	p := open()
	for day := range 5 {
		_, _, err := get(p, s.url)
		if day < 4 != (err == nil) {
			t.Errorf("day %d: %v", day, err)
		}
		if _, _, err := get(p, s.url); code(err) != "budget_exceeded" {
			t.Errorf("day %d, second call: %v", day, err)
		}
		now = now.Add(24 * time.Hour)
		if day == 1 { // also across a restart
			p.Close()
			p = open()
		}
	}
}

func TestSellers(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	port := mustURL(s.url).Port()
	for pattern, allowed := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:" + port: true, "127.*": true, "*": true, "*.example.org": false, "127.0.0.1:1": false, "10.0.0.1": false,
	} {
		p := newPayer(t, func(c *Config) { c.Budget.Sellers = []string{pattern} })
		_, _, err := get(p, s.url)
		if allowed && err != nil || !allowed && code(err) != "seller_not_allowed" {
			t.Errorf("%q: %v", pattern, err)
		}
	}
	var l limits
	l.sellers = []string{"*.example.org"}
	for host, want := range map[string]bool{"api.example.org": true, "a.b.example.org:8443": true, "example.org": false, "example.org.evil.net": false, "evilexample.org": false} {
		if l.allows(host) != want {
			t.Errorf("%s: %v", host, !want)
		}
	}
}

func TestTheOwnerDecides(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	var asked []string
	decision := Proceed
	p := newPayer(t, func(c *Config) {
		c.Budget = Budget{PerCall: "$0.0001", PerDay: "$0.0002", Sellers: []string{"x"}}
		c.Ask = func(_ context.Context, n Need) Decision {
			asked = append(asked, n.Code)
			return decision
		}
	})
	if _, _, err := get(p, s.url); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(asked) != "[seller_not_allowed budget_exceeded]" {
		t.Errorf("asked %v", asked)
	}
	decision = Stop
	if _, _, err := get(p, s.url); code(err) != "seller_not_allowed" || s.distinct() != 1 {
		t.Errorf("%v", err)
	}
}

// A seller that wants its money elsewhere is not paid before its buyer says so, and then remembered.
func TestPayeeThatChanges(t *testing.T) {
	t.Parallel()
	payee := sellerKey.Address()
	s := (&seller{offers: func(o x402.Requirements) []x402.Requirements { o.PayTo = payee.String(); return []x402.Requirements{o} }}).start(t)
	path := journalFile(t)
	trusted := false
	ask := func(c *Config) {
		c.Ask = func(context.Context, Need) Decision {
			if trusted {
				return Proceed
			}
			return Stop
		}
	}
	p := newPayer(t, inFile(path), ask)
	if _, _, err := get(p, s.url); err != nil {
		t.Fatal(err)
	}
	payee = otherKey.Address()
	p = newPayer(t, inFile(path), ask) // another process knows it too
	_, _, err := get(p, s.url)
	n := need(err)
	if n == nil || n.Code != "payee_changed" || n.Payee != payee || !contains(n.Reason, sellerKey.Address().String()) || !contains(n.Hint, payee.String()) || s.distinct() != 1 {
		t.Fatalf("%v, %d signed", err, s.distinct())
	}
	trusted = true
	if _, _, err := get(p, s.url); err != nil {
		t.Fatal(err)
	}
	trusted = false
	if _, _, err := get(p, s.url); err != nil {
		t.Errorf("the new payee is not remembered: %v", err)
	}
}

// No byte of a signature leaves for an offer that contradicts itself, the request, or what the buyer holds.
func TestOffersThatAreNotPaid(t *testing.T) {
	t.Parallel()
	change := func(f func(*x402.Requirements)) func(*seller) {
		return func(s *seller) {
			s.offers = func(o x402.Requirements) []x402.Requirements { f(&o); return []x402.Requirements{o} }
		}
	}
	text := func(v string) json.RawMessage { b, _ := json.Marshal(v); return b }
	for _, test := range []struct {
		name string
		set  func(*seller)
		code string
	}{
		{"another resource", func(s *seller) { s.terms = func(t *x402.Terms) { t.Required.Resource.URL = "http://127.0.0.1/other" } }, "offer_invalid"},
		{"another host's resource", func(s *seller) { s.terms = func(t *x402.Terms) { t.Required.Resource.URL = "https://bank.example/" } }, "offer_invalid"},
		{"another query", func(s *seller) { s.terms = func(t *x402.Terms) { t.Required.Resource.URL += "?n=100" } }, "offer_invalid"},
		{"unknown network", change(func(r *x402.Requirements) { r.Network = "eip155:999999" }), "no_common_option"},
		{"network without collateral", change(func(r *x402.Requirements) {
			r.Network, r.Asset = "eip155:8453", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
		}), "no_common_option"},
		{"unknown asset", change(func(r *x402.Requirements) { r.Asset = "0x00000000000000000000000000000000000000aa" }), "no_common_option"},
		{"native coin", change(func(r *x402.Requirements) { r.Asset = "0x0000000000000000000000000000000000000000" }), "no_common_option"},
		{"another scheme", change(func(r *x402.Requirements) { r.Scheme = "exact" }), "no_common_option"},
		{"foreign vault", change(func(r *x402.Requirements) { r.Extra["vault"] = text(otherKey.Address().String()) }), "no_common_option"},
		{"vault that is none", change(func(r *x402.Requirements) { r.Extra["vault"] = text("mine") }), "no_common_option"},
		{"foreign domain", change(func(r *x402.Requirements) { r.Extra["eip712Name"] = text("4Mica 0x66") }), "no_common_option"},
		{"foreign domain version", change(func(r *x402.Requirements) { r.Extra["eip712Version"] = text("2") }), "no_common_option"},
		{"validation first", change(func(r *x402.Requirements) { r.Extra["validatorAddress"] = text(otherKey.Address().String()) }), "no_common_option"},
		{"unknown flow", change(func(r *x402.Requirements) { r.Extra["paymentFlow"] = text("escrow") }), "no_common_option"},
		{"payee is nobody", change(func(r *x402.Requirements) { r.PayTo = evm.Address{}.String() }), "no_common_option"},
		{"payee is the buyer", change(func(r *x402.Requirements) { r.PayTo = buyerKey.Address().String() }), "no_common_option"},
		{"payee is a name", change(func(r *x402.Requirements) { r.PayTo = "bob" }), "no_common_option"},
		{"nothing asked", change(func(r *x402.Requirements) { r.Amount = "0" }), "no_common_option"},
		{"more than can be counted", change(func(r *x402.Requirements) { r.Amount = strings.Repeat("9", 77) }), "no_common_option"},
		{"more than numbers go", change(func(r *x402.Requirements) { r.Amount = strings.Repeat("9", 100) }), "no_common_option"},
		{"negative", change(func(r *x402.Requirements) { r.Amount = "-500" }), "offer_invalid"},
		{"quote of yesterday", change(func(r *x402.Requirements) {
			r.Extra["expires"] = json.RawMessage(fmt.Sprint(noon.Add(-time.Minute).Unix()))
		}), "quote_expired"},
		{"an offer too long to be paid", change(func(r *x402.Requirements) { r.Extra["quote"] = text(strings.Repeat("x", 8<<10)) }), "offer_invalid"},
		{"no offer", func(s *seller) { s.offers = func(x402.Requirements) []x402.Requirements { return nil } }, "offer_invalid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &seller{}
			test.set(s)
			s.start(t)
			p := newPayer(t, perDay("$1"))
			_, _, err := get(p, s.url+"/quote")
			if n := need(err); code(err) != test.code || n == nil && test.name != "an offer too long to be paid" || s.arrived() != 0 || today(t, p) != "$1.00" {
				t.Errorf("%v (%s), %d payments, %s left", err, code(err), s.arrived(), today(t, p))
			}
		})
	}
}

func TestWhatA402IsAbout(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		announced, asked string
		same             bool
	}{
		{"https://a.example/x?q=1", "https://a.example/x?q=1", true},
		{"", "https://a.example/x", true},
		{"/x?q=1", "https://a.example/x?q=1", true},
		{"https://a.example/x", "https://a.example/x?q=1", true}, // as stock sellers of version 1 write it
		{"http://a.example/x", "https://a.example/x", true},      // behind a proxy
		{"https://A.example:443/x", "https://a.example/x", true},
		{"https://a.example", "https://a.example/", true},
		{"https://a.example/x", "http://a.example/x", false},
		{"https://a.example/x?q=2", "https://a.example/x?q=1", false},
		{"https://a.example/x?q=1", "https://a.example/x", false},
		{"https://a.example/y", "https://a.example/x", false},
		{"https://b.example/x", "https://a.example/x", false},
		{"https://a.example:444/x", "https://a.example/x", false},
		{"https://me@a.example/x", "https://a.example/x", false},
		{"mcp://tool/x", "https://a.example/x", false},
		{"https://a.example/X", "https://a.example/x", false},
		{"://", "https://a.example/x", false},
	} {
		if got := sameResource(test.announced, mustURL(test.asked)); got != test.same {
			t.Errorf("%s for %s: %v", test.announced, test.asked, got)
		}
	}
}

// A 402 that shows one price and asks for another in its header is not paid at either.
func TestHeaderAndBodyThatDiffer(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*x402.Requirements){
		"price": func(r *x402.Requirements) { r.Amount = "9999" },
		"payee": func(r *x402.Requirements) { r.PayTo = otherKey.Address().String() },
	} {
		s := &seller{}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(x402.HeaderSignature) != "" {
				t.Error(name, "was paid")
			}
			shown, asked := s.offer(), s.offer()
			change(&asked)
			required := func(o x402.Requirements) x402.PaymentRequired {
				return x402.PaymentRequired{X402Version: 2, Resource: x402.Resource{URL: "http://" + r.Host + "/"}, Accepts: []x402.Requirements{o}}
			}
			header, _ := x402.EncodeHeader(required(asked))
			w.Header().Set(x402.HeaderRequired, header)
			w.WriteHeader(402)
			json.NewEncoder(w).Encode(required(shown))
		}))
		defer server.Close()
		if _, _, err := get(newPayer(t), server.URL); code(err) != "offer_invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestA402ThatIsNone(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter){
		"nothing":      func(http.ResponseWriter) {},
		"a page":       func(w http.ResponseWriter) { fmt.Fprint(w, "<html>pay us") },
		"nesting":      func(w http.ResponseWriter) { fmt.Fprint(w, strings.Repeat(`{"accepts":[`, 10_000)) },
		"without end":  func(w http.ResponseWriter) { io.Copy(w, io.LimitReader(zeros{}, 64<<20)) },
		"false header": func(w http.ResponseWriter) { w.Header().Set(x402.HeaderRequired, "not base64!") },
		"header of garbage": func(w http.ResponseWriter) {
			w.Header().Set(x402.HeaderRequired, base64.StdEncoding.EncodeToString([]byte(`{"accepts":17}`)))
		},
		"header too long": func(w http.ResponseWriter) { w.Header().Set(x402.HeaderRequired, strings.Repeat("AAAA", 50_000)) },
		"two headers": func(w http.ResponseWriter) {
			w.Header().Add(x402.HeaderRequired, "e30=")
			w.Header().Add(x402.HeaderRequired, "e30=")
		},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			if name == "without end" {
				w.WriteHeader(402)
				answer(w)
				return
			}
			rec := httptest.NewRecorder()
			answer(rec)
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(402)
			w.Write(rec.Body.Bytes())
		}))
		if _, _, err := get(newPayer(t), server.URL); code(err) != "offer_invalid" || need(err) == nil {
			t.Errorf("%s: %v", name, err)
		}
		server.Close()
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestTheCheapestOfferIsPaidAndTiesKeepTheSellersOrder(t *testing.T) {
	t.Parallel()
	with := func(o x402.Requirements, amount, quote string) x402.Requirements {
		extra := map[string]json.RawMessage{}
		for k, v := range o.Extra {
			extra[k] = v
		}
		extra["quote"], _ = json.Marshal(quote)
		o.Amount, o.Extra = amount, extra
		return o
	}
	s := (&seller{offers: func(o x402.Requirements) []x402.Requirements {
		other := with(o, "1", "other way")
		other.Scheme = "exact"
		return []x402.Requirements{with(o, "700", "dear"), other, with(o, "300", "first"), with(o, "300", "second")}
	}}).start(t)
	if _, _, err := get(newPayer(t), s.url); err != nil {
		t.Fatal(err)
	}
	if q := s.payments[0].Accepted.ExtraString("quote"); q != "first" {
		t.Errorf("paid %q", q)
	}
}

// A thousand offers are no reason to write a thousand lines about them.
func TestAThousandOffers(t *testing.T) {
	t.Parallel()
	s := (&seller{offers: func(o x402.Requirements) []x402.Requirements {
		o.Scheme, o.Extra = "x", nil
		list := make([]x402.Requirements, 1000)
		for i := range list {
			list[i] = o
		}
		return list
	}}).start(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, r)
		w.WriteHeader(402) // in the body only: no header is that long
		w.Write(rec.Body.Bytes())
	}))
	defer server.Close()
	_, _, err := get(newPayer(t), server.URL)
	if n := need(err); n == nil || n.Code != "no_common_option" || len(n.Reason) > 10_000 || len(n.Ways) > offersMax {
		t.Errorf("%.300v", err)
	}
}

// Terms in a body of version 1 are answered in version 1, with the network as 4Mica's clients write it, and the scheme as
// its sellers do.
func TestVersion1(t *testing.T) {
	t.Parallel()
	for scheme, members := range map[string]string{
		"4mica-credit": `"maxAmountRequired":"500","resource":"u","description":"","mimeType":""`, "4mica": `"amount":"500"`,
	} {
		s := &seller{T: t}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(x402.HeaderPayment) != "" {
				s.ServeHTTP(w, r)
				return
			}
			o := s.offer()
			w.WriteHeader(402)
			fmt.Fprintf(w, `{"x402Version":1,"error":"pay","resource":{"url":"http://%s/a"},"accepts":[{"scheme":%q,"network":"eip155:31337",%s,"asset":%q,"payTo":%q,
				"maxTimeoutSeconds":60,"extra":{"tabEndpoint":"http://%s/tab"}}]}`, r.Host, scheme, members, o.Asset, o.PayTo, r.Host)
		}))
		defer server.Close()
		if _, r, err := get(newPayer(t), server.URL+"/a"); err != nil || r.State != Charged {
			t.Fatalf("%s: %+v, %v", scheme, r, err)
		}
		raw, _ := base64.StdEncoding.DecodeString(s.payments[0].header)
		for _, want := range []string{`"network":"eip155:31337"`, `"x402Version":1`, fmt.Sprintf(`"scheme":%q`, scheme)} {
			if !bytes.Contains(raw, []byte(want)) {
				t.Errorf("%s: sent %s", scheme, raw)
			}
		}
	}
}

// A second 402 is explained; nothing is signed again for it.
func TestARefusalIsExplainedAndNotLooped(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		reason  *x402.Error
		code    string
		signed  int
		explain func(*NeedError) bool
	}{
		{"without a reason", nil, "payment_refused", 1, nil},
		{"a reason of another protocol", &x402.Error{Code: "invalid_exact_evm_payload_signature"}, "", 1, nil},
		{"a mismatch", x402.Errorf("payment_mismatch", "signed for other terms"), "payment_mismatch", 1, nil},
		{"a wrong clock", x402.Errorf("timestamp_skew", "your clock is 94 s ahead"), "timestamp_skew", 1, nil},
		{"too late, and again", x402.Errorf("quote_expired", "the quote expired"), "quote_expired", 2, nil},
		{"given up, and again", x402.Errorf("payment_void", "ended without a charge"), "payment_void", 2, nil},
		{"not enough collateral", &x402.Error{Code: "collateral_insufficient", Message: "not enough", Details: map[string]string{"asked": "500", "available": "320"}},
			"collateral_insufficient", 1, func(n *NeedError) bool {
				return n.Available.String() == "$0.00032" && n.Asked.String() == "$0.0005" && len(n.Ways) == 1 && n.Ways[0].Kind == Deposit &&
					n.Ways[0].Amount.String() == "$0.00018" && n.Ways[0].Text == "farthing deposit '$0.00018'"
			}},
		{"not enough, in figures that are none", &x402.Error{Code: "collateral_insufficient", Message: "not enough", Details: map[string]string{"available": "-1"}},
			"collateral_insufficient", 1, func(n *NeedError) bool { return n.Available.Symbol == "" && len(n.Ways) == 1 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &seller{}
			s.answer = func(w http.ResponseWriter, r *http.Request, _ payment) bool { s.demand(w, r, test.reason); return true }
			s.start(t)
			p := newPayer(t)
			_, _, err := get(p, s.url)
			n := need(err)
			if n == nil || test.code != "" && n.Code != test.code || s.distinct() != test.signed || s.arrived() != test.signed {
				t.Fatalf("%v (%+v), %d signed, %d arrived", err, n, s.distinct(), s.arrived())
			}
			if test.explain != nil && !test.explain(n) {
				t.Errorf("explained as %+v", n.Need)
			}
			if list, _ := p.Receipts(); len(list) != test.signed || list[0].State != Void || list[0].Proven {
				t.Errorf("journal %+v", list)
			}
		})
	}
}

func TestAnExpiredQuoteIsBoughtAnewOnce(t *testing.T) {
	t.Parallel()
	s := &seller{}
	s.answer = func(w http.ResponseWriter, r *http.Request, _ payment) bool {
		if s.distinct() == 1 {
			s.demand(w, r, x402.Errorf("quote_expired", "the quote expired"))
			return true
		}
		return false
	}
	s.start(t)
	p := newPayer(t, perDay("$1"))
	body, r, err := get(p, s.url)
	if err != nil || body != "sold for 500" || r.State != Charged || s.distinct() != 2 || s.payments[0].id == s.payments[1].id {
		t.Fatalf("%q, %+v, %v", body, r, err)
	}
	if today(t, p) != "$0.9995" {
		t.Errorf("left %s", today(t, p))
	}
}

func TestWaysOnAreListedInOrder(t *testing.T) {
	t.Parallel()
	price := "50"
	s := (&seller{
		offers: func(o x402.Requirements) []x402.Requirements {
			exact := o
			exact.Scheme, exact.Amount = "exact", price
			return []x402.Requirements{o, exact}
		},
		terms: func(t *x402.Terms) { t.Alternative = "/quote-small" },
	}).start(t)
	poor := func(c *Config) { c.Budget.PerCall, c.PayBy = "$0.0001", []string{"guarantee"} }
	_, _, err := get(newPayer(t, poor), s.url+"/quote")
	n := need(err)
	if n == nil || len(n.Ways) != 3 || n.Ways[0].Kind != OtherWay || n.Ways[0].Scheme != "exact" || n.Ways[0].Amount.String() != "$0.00005" ||
		n.Ways[1].Kind != Alternative || n.Ways[1].URL != s.url+"/quote-small" || n.Ways[2].Kind != Budgeting || n.Ways[2].Text != "--max '$0.0005'" {
		t.Fatalf("%+v", n)
	}
	var coded *x402.Error
	if !errors.As(err, &coded) || !contains(coded.Hint, "--max '$0.0005'") || coded.Reason().Exit != 3 {
		t.Errorf("as the table knows it: %+v", coded)
	}
	s.terms = func(t *x402.Terms) { t.Alternative = "https://elsewhere.example/" }
	if _, _, err := get(newPayer(t, poor), s.url+"/quote"); len(need(err).Ways) != 2 {
		t.Errorf("another host's alternative is listed: %+v", need(err).Ways)
	}
	price = "500"
	if _, _, err := get(newPayer(t, poor), s.url+"/quote"); len(need(err).Ways) != 1 {
		t.Errorf("a way that is over the budget too is listed: %+v", need(err).Ways)
	}
}

// transport loses what a test wants it to lose.
type transport struct {
	lose func(paid bool, n int, req *http.Request, next http.RoundTripper) (*http.Response, error)
	mu   sync.Mutex
	paid int
}

func (l *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	paid := req.Header.Get(x402.HeaderSignature) != ""
	l.mu.Lock()
	n := l.paid
	if paid {
		l.paid++
	}
	l.mu.Unlock()
	return l.lose(paid, n, req, http.DefaultTransport)
}

var errLost = errors.New("connection reset by peer")

// Whatever is lost, wherever: one signature, one charge, and a budget that knows.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	before := func(paid bool, _ int, req *http.Request, next http.RoundTripper) (*http.Response, error) {
		if paid {
			return nil, dial
		}
		return next.RoundTrip(req)
	}
	lost := func(times int) func(bool, int, *http.Request, http.RoundTripper) (*http.Response, error) {
		return func(paid bool, n int, req *http.Request, next http.RoundTripper) (*http.Response, error) {
			resp, err := next.RoundTrip(req)
			if paid && n < times && err == nil {
				resp.Body.Close()
				return nil, errLost
			}
			return resp, err
		}
	}
	unsent := func(paid bool, n int, req *http.Request, next http.RoundTripper) (*http.Response, error) {
		if paid && n == 0 {
			return nil, errLost // perhaps sent, perhaps not
		}
		return next.RoundTrip(req)
	}
	mixed := func(paid bool, n int, req *http.Request, next http.RoundTripper) (*http.Response, error) {
		if paid && n > 0 {
			return nil, dial
		}
		return lost(1)(paid, n, req, next)
	}
	for _, test := range []struct {
		name            string
		lose            func(bool, int, *http.Request, http.RoundTripper) (*http.Response, error)
		arrived, signed int
		state           State
		pending         bool
		left            string
	}{
		{"before it leaves", before, 0, 0, Void, false, "$1.00"},
		{"perhaps before it leaves", unsent, 1, 1, Charged, false, "$0.9995"},
		{"the answer, once", lost(1), 2, 1, Charged, false, "$0.9995"},
		{"the answer, thrice", lost(3), 4, 1, Charged, false, "$0.9995"},
		{"the answer, always", lost(99), 4, 1, Sent, true, "$0.9995"},
		{"the answer, then the line", mixed, 1, 1, Sent, true, "$0.9995"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := (&seller{}).start(t)
			p := newPayer(t, perDay("$1"), func(c *Config) { c.Transport = &transport{lose: test.lose} })
			_, _, err := get(p, s.url)
			var pending *PendingError
			if errors.As(err, &pending) != test.pending || (err == nil) != (test.state == Charged) {
				t.Fatalf("got %v", err)
			}
			if s.arrived() != test.arrived || s.distinct() != test.signed || today(t, p) != test.left {
				t.Errorf("%d arrived, %d signed, %s left", s.arrived(), s.distinct(), today(t, p))
			}
			list, _ := p.Receipts()
			if len(list) != 1 || list[0].State != test.state {
				t.Fatalf("journal %+v", list)
			}
			if pending == nil {
				return
			}
			var coded *x402.Error
			if !errors.As(err, &coded) || coded.Code != "settlement_pending" || coded.Reason().Exit != 5 || !contains(coded.Hint, list[0].ID) || pending.Purchase != list[0].ID {
				t.Errorf("pending as %+v", coded)
			}
		})
	}
}

// After a restart the very same payment is shown again, with the same request.
func TestResumeAfterARestart(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	path := journalFile(t)
	broken := &transport{lose: func(paid bool, _ int, req *http.Request, next http.RoundTripper) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if paid {
			return nil, errLost
		}
		return resp, err
	}}
	p := newPayer(t, perDay("$1"), inFile(path), func(c *Config) { c.Transport = broken })
	resp, err := (&http.Client{Transport: p}).Post(s.url+"/generate", "application/json", strings.NewReader(`{"n":1}`))
	var pending *PendingError
	if !errors.As(err, &pending) {
		t.Fatalf("%v, %v", resp, err)
	}
	if _, err := p.Resume(context.Background(), pending.Purchase); !errors.As(err, &pending) {
		t.Fatalf("still broken: %v", err)
	}
	p.Close()

	p = newPayer(t, perDay("$1"), inFile(path))
	if today(t, p) != "$0.9995" {
		t.Errorf("left %s before it is known", today(t, p))
	}
	s.receipt = func(r *x402.SettleResponse, p payment) {
		r.Amount = "200"
		r.Extra = noteExtra(s.note(p, sellerKey, 200))
	}
	resp, err = p.Resume(context.Background(), pending.Purchase)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "sold for 200" || s.distinct() != 1 || today(t, p) != "$0.9998" {
		t.Errorf("%q, %d signed, %s left", body, s.distinct(), today(t, p))
	}
	last := s.payments[len(s.payments)-1]
	if string(last.body) != `{"n":1}` {
		t.Errorf("body %q", last.body)
	}
	if r, ok := Receipt(resp); !ok || r.ID != pending.Purchase || r.Charged != money.Units(200) || !r.Proven {
		t.Errorf("receipt %+v", r)
	}
	for _, id := range []string{"p_nothing", ""} {
		if _, err := p.Resume(context.Background(), id); code(err) != "not_found" {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func noteExtra(n *guarantee.SignedNote) map[string]json.RawMessage {
	raw, err := json.Marshal(n)
	if err != nil {
		panic(err)
	}
	return map[string]json.RawMessage{"note": raw}
}

// Codes that say "same payment" are followed, others are not.
func TestAnswersThatSayAskAgain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code           string
		times, arrived int
		pending        bool
	}{
		{"payment_in_progress", 2, 3, false},
		{"house_unreachable", 1, 2, false},
		{"book_unavailable", 99, 4, true},
		{"settlement_pending", 99, 4, true},
		{"payment_used", 99, 1, false}, // charged: the answer says so to the caller
	} {
		s := &seller{}
		s.answer = func(w http.ResponseWriter, _ *http.Request, p payment) bool {
			if p.try < test.times {
				x402.WriteError(w, x402.Errorf(test.code, "not yet"))
			}
			return p.try < test.times
		}
		s.start(t)
		p := newPayer(t, perDay("$1"))
		_, _, err := get(p, s.url)
		var pending *PendingError
		if errors.As(err, &pending) != test.pending || (err == nil) == test.pending || s.arrived() != test.arrived || s.distinct() != 1 || today(t, p) != "$0.9995" {
			t.Errorf("%s: %v, %d arrived, %s left", test.code, err, s.arrived(), today(t, p))
		}
		// Who was turned away reads one thing about its money, not two.
		if text := fmt.Sprint(err); test.code == "book_unavailable" && (!contains(text, "not charged so far") || contains(text, "may still") || contains(text, "Not charged")) {
			t.Errorf("%s", text)
		}
	}
}

// A seller's own failure is the caller's to see; whether it counts is in the receipt, if there is one.
func TestAnswersOfTheSellersOwn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		answer func(s *seller, w http.ResponseWriter, p payment)
		status int
		state  State
		left   string
	}{
		{"500, voided by a note", func(s *seller, w http.ResponseWriter, p payment) {
			_ = x402.SetReceipt(w.Header(), x402.SettleResponse{ErrorReason: "handler_failed", Amount: "0", Extra: noteExtra(s.note(p, sellerKey, 0))})
			w.WriteHeader(500)
		}, 500, Void, "$1.00"},
		{"500 with a code, not charged by its word", func(_ *seller, w http.ResponseWriter, _ payment) {
			x402.WriteError(w, x402.Errorf("handler_failed", "GET / failed. Not charged."))
		}, 500, Void, "$1.00"},
		{"500 of something in between", func(_ *seller, w http.ResponseWriter, _ payment) { http.Error(w, "oops", 500) }, 500, Sent, "$0.9995"},
		{"502 that is ours and internal", func(_ *seller, w http.ResponseWriter, _ payment) {
			x402.WriteError(w, x402.Errorf("internal", "internal error"))
		}, 500, Sent, "$0.9995"},
		{"404, charged before work", func(_ *seller, w http.ResponseWriter, p payment) {
			_ = x402.SetReceipt(w.Header(), x402.SettleResponse{Success: true, Amount: "500"})
			w.WriteHeader(404)
		}, 404, Charged, "$0.9995"},
		{"200 without a receipt", func(_ *seller, w http.ResponseWriter, _ payment) { fmt.Fprint(w, "here") }, 200, Charged, "$0.9995"},
		{"200 charged above what was signed", func(_ *seller, w http.ResponseWriter, _ payment) {
			_ = x402.SetReceipt(w.Header(), x402.SettleResponse{Success: true, Amount: "999999999"})
		}, 200, Charged, "$0.9995"},
		{"200 with a receipt of garbage", func(_ *seller, w http.ResponseWriter, _ payment) {
			w.Header().Set(x402.HeaderResponse, "e30")
		}, 200, Charged, "$0.9995"},
		{"302 to somewhere", func(_ *seller, w http.ResponseWriter, _ payment) {
			_ = x402.SetReceipt(w.Header(), x402.SettleResponse{Success: true, Amount: "500"})
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(302)
		}, 302, Charged, "$0.9995"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &seller{}
			s.answer = func(w http.ResponseWriter, _ *http.Request, p payment) bool { test.answer(s, w, p); return true }
			s.start(t)
			p := newPayer(t, perDay("$1"))
			req, _ := http.NewRequest("GET", s.url, nil)
			resp, err := p.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			r, ok := Receipt(resp)
			if resp.StatusCode != test.status || !ok || r.State != test.state || today(t, p) != test.left || s.distinct() != 1 {
				t.Errorf("%d, %+v, %s left", resp.StatusCode, r, today(t, p))
			}
		})
	}
}

// A redirect takes no payment along: not to the seller's other paths, and not to another host.
func TestRedirectsTakeNoPaymentAlong(t *testing.T) {
	t.Parallel()
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if strings.Contains(strings.ToUpper(name), "PAYMENT") {
				t.Errorf("the other host got %s", name)
			}
		}
		fmt.Fprint(w, "stolen")
	}))
	defer thief.Close()
	s := &seller{answer: func(w http.ResponseWriter, r *http.Request, _ payment) bool {
		http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
		return true
	}}
	s.start(t)
	body, _, err := get(newPayer(t), s.url)
	if err != nil || body != "stolen" || s.distinct() != 1 {
		t.Errorf("%q, %v", body, err)
	}

	// The first answer may redirect to a seller; then that one's host is what the policy looks at.
	honest := (&seller{}).start(t)
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(honest.url, "127.0.0.1", "localhost", 1), http.StatusFound)
	}))
	defer door.Close()
	p := newPayer(t, func(c *Config) { c.Budget.Sellers = []string{"127.0.0.1"} })
	if _, _, err := get(p, door.URL); code(err) != "seller_not_allowed" || honest.arrived() != 0 {
		t.Errorf("%v", err)
	}
}

// Giving back on a seller's word goes as far as one more budget, and no further; on its signature it goes for ever.
func TestWordsAndSignatures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		answer func(s *seller, w http.ResponseWriter, r *http.Request, p payment)
		calls  int // that are signed before the budget of 4 calls says no
	}{
		{"word", func(s *seller, w http.ResponseWriter, r *http.Request, _ payment) {
			s.demand(w, r, x402.Errorf("payment_mismatch", "no"))
		}, 8},
		{"word in a receipt", func(s *seller, w http.ResponseWriter, _ *http.Request, _ payment) {
			_ = x402.SetReceipt(w.Header(), x402.SettleResponse{Success: true, Amount: "0"})
		}, 8},
		{"signature", func(s *seller, w http.ResponseWriter, _ *http.Request, p payment) {
			s.sell(w, p, s.note(p, sellerKey, 0))
		}, 20},
		{"somebody else's signature", func(s *seller, w http.ResponseWriter, _ *http.Request, p payment) {
			s.sell(w, p, s.note(p, otherKey, 0))
		}, 8},
		{"signature over more than is said", func(s *seller, w http.ResponseWriter, _ *http.Request, p payment) {
			n := s.note(p, sellerKey, 400)
			_ = x402.SetReceipt(w.Header(), x402.SettleResponse{Success: true, Amount: "0", Extra: noteExtra(n)})
		}, 8},
		{"signature over another guarantee", func(s *seller, w http.ResponseWriter, _ *http.Request, p payment) {
			p.Claims.ReqID[0]++
			s.sell(w, p, s.note(p, sellerKey, 0))
		}, 8},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &seller{}
			s.answer = func(w http.ResponseWriter, r *http.Request, p payment) bool { test.answer(s, w, r, p); return true }
			s.start(t)
			p := newPayer(t, perDay("$0.002"))
			for range 20 {
				if _, _, err := get(p, s.url); code(err) == "budget_exceeded" {
					break
				}
			}
			if s.distinct() != test.calls {
				t.Errorf("%d signed, want %d", s.distinct(), test.calls)
			}
		})
	}
}

// What is charged by what was streamed is known at the end of the body.
func TestReceiptBehindTheBody(t *testing.T) {
	t.Parallel()
	s := &seller{}
	s.answer = func(w http.ResponseWriter, _ *http.Request, p payment) bool {
		w.Header().Add("Trailer", x402.HeaderResponse)
		early, _ := x402.EncodeHeader(x402.SettleResponse{Success: true})
		w.Header().Set(x402.HeaderXResponse, early)
		w.(http.Flusher).Flush()
		fmt.Fprint(w, "stream")
		late, _ := x402.EncodeHeader(x402.SettleResponse{Success: true, Amount: "100", Extra: noteExtra(s.note(p, sellerKey, 100))})
		w.Header().Set(x402.HeaderResponse, late)
		return true
	}
	s.start(t)
	p := newPayer(t, perDay("$1"))
	resp, err := (&http.Client{Transport: p}).Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := Receipt(resp); r.Charged != money.Units(500) || today(t, p) != "$0.9995" {
		t.Errorf("before the end: %+v, %s left", r, today(t, p))
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if r, _ := Receipt(resp); err != nil || string(body) != "stream" || r.Charged != money.Units(100) || !r.Proven || today(t, p) != "$0.9999" {
		t.Errorf("at the end: %q, %v, %+v, %s left", body, err, r, today(t, p))
	}
}

// A cancelled context does not undo a payment that has left.
func TestCancelledWhilePaying(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	arrived := make(chan struct{})
	s := &seller{answer: func(_ http.ResponseWriter, r *http.Request, _ payment) bool {
		close(arrived)
		<-r.Context().Done()
		return true
	}}
	s.start(t)
	p := newPayer(t, perDay("$1"))
	go func() { <-arrived; cancel() }()
	req, _ := http.NewRequestWithContext(ctx, "GET", s.url, nil)
	_, err := p.RoundTrip(req)
	var pending *PendingError
	if !errors.As(err, &pending) || !errors.Is(err, context.Canceled) || s.distinct() != 1 || today(t, p) != "$0.9995" {
		t.Errorf("%v, %s left", err, today(t, p))
	}
}

// slowKey signs when it is allowed to.
type slowKey struct {
	*evm.PrivateKey
	sign func(context.Context) error
}

func (k slowKey) Sign(ctx context.Context, h evm.Hash) (evm.Signature, error) {
	if err := k.sign(ctx); err != nil {
		return evm.Signature{}, err
	}
	return k.PrivateKey.Sign(ctx, h)
}

func TestASignerThatFails(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	p := newPayer(t, perDay("$1"), func(c *Config) {
		c.Key = slowKey{buyerKey, func(context.Context) error { return errors.New("device is locked") }}
	})
	if _, _, err := get(p, s.url); err == nil || !contains(err.Error(), "device is locked") || s.arrived() != 0 || today(t, p) != "$1.00" {
		t.Errorf("%v, %s left", err, today(t, p))
	}
}

// The budget is set aside before the signer is asked.
func TestReservedBeforeSigned(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	var p *Payer
	var during string
	p = newPayer(t, perDay("$1"), func(c *Config) {
		c.Key = slowKey{buyerKey, func(context.Context) error { during = today(t, p); return nil }}
	})
	if _, _, err := get(p, s.url); err != nil || during != "$0.9995" {
		t.Errorf("%v, %s left while signing", err, during)
	}
}

func TestAClearingHouseThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	s := (&seller{}).start(t)
	p := newPayer(t, perDay("$1"), func(c *Config) { c.ClearingHouse = "http://" + address })
	if _, _, err := get(p, s.url); code(err) != "house_unreachable" || s.arrived() != 0 || today(t, p) != "$1.00" {
		t.Errorf("%v", err)
	}
}

func TestAWrongConfiguration(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Config)
		code   string
	}{
		"no key":                  {func(c *Config) { c.Key = nil }, "config_invalid"},
		"no limit per call":       {func(c *Config) { c.Budget.PerCall = "" }, "config_invalid"},
		"a limit in euros":        {func(c *Config) { c.Budget.PerDay = "1 EUR" }, "config_invalid"},
		"a limit that is none":    {func(c *Config) { c.Budget.PerCall = "cheap" }, "config_invalid"},
		"a seller that is none":   {func(c *Config) { c.Budget.Sellers = []string{"[x"} }, "config_invalid"},
		"an empty seller":         {func(c *Config) { c.Budget.Sellers = []string{""} }, "config_invalid"},
		"an address that is none": {func(c *Config) { c.ClearingHouse = "clear.example.org" }, "config_invalid"},
		"an unknown network":      {func(c *Config) { c.Networks = []string{"bose"} }, "network_unknown"},
		"an unknown asset":        {func(c *Config) { c.Assets = []string{"USDX"} }, "asset_unknown"},
		"a journal in no folder":  {func(c *Config) { c.Journal = journalFile(t) + "/x/y" }, "journal_unusable"},
	} {
		c := Config{Key: buyerKey, Budget: Budget{PerCall: "$1"}, Houses: []guarantee.Deployment{deployment}}
		test.change(&c)
		if p, err := New(c); code(err) != test.code || p != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPolicyOfNetworksAndAssets(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	for _, test := range []struct {
		networks, assets []string
		paid             bool
	}{
		{nil, nil, true}, {[]string{"base"}, nil, false}, {[]string{"base", "dev"}, nil, true}, {[]string{"eip155:31337"}, nil, true},
		{nil, []string{"USDC"}, true}, {nil, []string{dollarText}, true}, {nil, []string{"0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"}, false},
	} {
		p := newPayer(t, func(c *Config) { c.Networks, c.Assets = test.networks, test.assets })
		_, _, err := get(p, s.url)
		if test.paid && err != nil || !test.paid && code(err) != "no_common_option" {
			t.Errorf("%v %v: %v", test.networks, test.assets, err)
		}
	}
}

func TestABodyTooLargeToBePaidFor(t *testing.T) {
	t.Parallel()
	var size atomic.Int64
	s := (&seller{}).start(t)
	s.terms = func(*x402.Terms) {}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		size.Store(n)
		if r.URL.Path == "/priced" {
			s.ServeHTTP(w, r)
		}
	}))
	defer server.Close()
	p := newPayer(t)
	const large = bodyMax + 12345
	for path, want := range map[string]string{"/free": "", "/priced": "body_too_large"} {
		req, _ := http.NewRequest("PUT", server.URL+path, io.LimitReader(zeros{}, large))
		resp, err := p.RoundTrip(req)
		if (want == "") != (err == nil) || want != "" && code(err) != want || size.Load() != large {
			t.Errorf("%s: %v, %d bytes arrived", path, err, size.Load())
		}
		if resp != nil {
			resp.Body.Close()
		}
	}
	if s.arrived() != 0 {
		t.Error("it was paid for")
	}
}

// Whatever a 402 says, an offer that is found payable keeps to the policy.
func FuzzOffers(f *testing.F) {
	s := &seller{}
	seed, _ := json.Marshal(x402.PaymentRequired{X402Version: 2, Accepts: []x402.Requirements{s.offer()}})
	f.Add(seed)
	f.Add([]byte(`{"x402Version":1,"accepts":[{"scheme":"4mica-credit","network":"dev","maxAmountRequired":"1","payTo":"0x","asset":"0x"}]}`))
	bundled := transferOffer("dev")
	bundled.Extra["bundle"] = raw(map[string]any{"units": 7, "unit": "tokens", "valid": "1h", "route": "x"})
	for _, o := range []x402.Requirements{transferOffer("base"), uptoOffer("arbitrum"), bundled} {
		seed, _ := json.Marshal(x402.PaymentRequired{X402Version: 2, Accepts: []x402.Requirements{o}})
		f.Add(seed)
	}
	f.Add([]byte(`{"t402Version":1,"accepts":[{"scheme":"exact","network":"base-sepolia","maxAmountRequired":"1","payTo":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","maxTimeoutSeconds":60,"extra":{"name":"USDC","version":"2"}}]}`))
	p, err := New(Config{Key: buyerKey, Budget: Budget{PerCall: "$1"}, Houses: []guarantee.Deployment{deployment}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		read, err := readTerms(&http.Response{Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))})
		if err != nil {
			if code(err) != "offer_invalid" {
				t.Fatal(err)
			}
			return
		}
		list, _, err := (&look{Payer: p, ctx: context.Background(), req: &http.Request{Method: "GET", URL: mustURL("http://127.0.0.1/")}}).options(read)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list {
			if o.amount.IsZero() || o.payee.IsZero() || o.payee == buyerKey.Address() || !o.token.Dollar || o.chain.CAIP2() != o.Network {
				t.Fatalf("payable: %+v", o)
			}
			if !o.transfers() {
				if o.deployment != deployment || o.chain.ID != 31337 {
					t.Fatalf("payable: %+v", o)
				}
				if _, err := guarantee.Pay(context.Background(), buyerKey, o.deployment, o.Requirements, evm.Hash{}, noon); err != nil {
					t.Fatalf("found payable and is not: %v", err)
				}
				continue
			}
			a, err := exact.Pay(context.Background(), buyerKey, o.Requirements, evm.Hash{}, noon)
			if err != nil {
				t.Fatalf("found payable and is not: %v", err)
			}
			if a.Amount != o.amount || a.To != o.payee || a.Asset != o.token.Address || a.Method != o.method || a.ChainID != o.chain.ID ||
				a.Method == exact.EIP3009 && (a.Name != o.token.Name || a.Version != o.token.Version || !o.token.EIP3009) ||
				a.ValidBefore > uint64(noon.Add(validMax).Unix()) || o.calls() == 0 {
				t.Fatalf("signed %+v for %+v", a, o)
			}
		}
	})
}
