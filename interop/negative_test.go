package interop

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// answer is what somebody who holds a payment gets for presenting it.
type answer struct {
	status  int
	body    string
	receipt bool
}

// present sends a request with headers as they are given.
func present(t testing.TB, method, url, body string, headers http.Header) answer {
	t.Helper()
	r := must(http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body)))(t)
	for name, values := range headers {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	client := &http.Client{Timeout: patience}
	resp, err := client.Do(r)
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	s, ok := x402.ReadReceipt(resp)
	return answer{resp.StatusCode, string(text), ok && s.Success}
}

// carrying are the headers that carry a payment.
func (r result) carrying() http.Header {
	return http.Header{http.CanonicalHeaderKey(r.Header): {r.Payment}}
}

// held is a payment that a published client has signed and nobody has seen.
func (w *world) held(t testing.TB, b buyer, p *payer, url string) result {
	t.Helper()
	r := once(t, b.script, b.more.with(options{"url": url, "key": secret(p.PrivateKey), "hold": true}))
	if r.Status != 299 || r.Payment == "" {
		t.Fatalf("the client does not pay: %+v", r)
	}
	return r
}

// Whoever presents a payment again, at once or sixteen times at the same time, gets no second service and pays nothing
// more; whoever presents it for something else gets nothing.
func TestOnePaymentBuysOneThing(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for name, b := range w.stock() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				g := w.gate(t, w.farthingFacilitator(t), `
					GET /weather: $0.01
					GET /many: $0.01
					POST /echo: $0.01`)
				p := w.payer(t)
				r := w.held(t, b, p, g.url+"/weather")
				answers := make([]answer, 16)
				var wg sync.WaitGroup
				for i := range answers {
					wg.Go(func() { answers[i] = present(t, "GET", g.url+"/weather", "", r.carrying()) })
				}
				wg.Wait()
				answers = append(answers, present(t, "GET", g.url+"/weather", "", r.carrying()))
				granted := 0
				for _, a := range answers {
					switch {
					case a.status == 200 && a.receipt && strings.Contains(a.body, "weather"):
						granted++ // the same answer, stored
					case a.status != 409:
						t.Errorf("presented again: %d %s", a.status, a.body)
					}
				}
				if granted == 0 || g.served("/weather") != 1 {
					t.Errorf("%d of 17 were answered, the work was done %d times", granted, g.served("/weather"))
				}
				for _, elsewhere := range []struct{ method, path, body string }{{"GET", "/many", ""}, {"POST", "/echo", "x"}, {"GET", "/weather?for=somebody-else", ""}} {
					if a := present(t, elsewhere.method, g.url+elsewhere.path, elsewhere.body, r.carrying()); a.status < 400 || strings.Contains(a.body, "goods") {
						t.Errorf("the payment for /weather opened %s: %d %s", elsewhere.path, a.status, a.body)
					}
				}
				if g.served("/many") != 0 || g.served("/echo") != 0 || g.served("/weather") != 1 {
					t.Error("work was done for a payment that was spent")
				}
				if paid, n := p.paid(t), p.transfers(t); paid != 10_000 || n != 1 || g.earned(t) != paid {
					t.Errorf("paid %d in %d transfers, earned %d", paid, n, g.earned(t))
				}
			})
		}
	})
}

// A payment was signed for one body. What comes with another after it was used is not served.
func TestBodyCannotBeSwapped(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		g := w.gate(t, w.farthingFacilitator(t), `POST /echo: $0.01`)
		for name, b := range w.stock() {
			p := w.payer(t)
			before := g.served("/echo")
			r := once(t, b.script, b.more.with(options{"url": g.url + "/echo", "method": "POST", "body": "first", "key": secret(p.PrivateKey)}))
			r.bought(t)
			if a := present(t, "POST", g.url+"/echo", "second", r.carrying()); a.status < 400 || strings.Contains(a.body, "second") {
				t.Errorf("%s: another body was served: %d %s", name, a.status, a.body)
			}
			if g.served("/echo") != before+1 || p.paid(t) != 10_000 {
				t.Errorf("%s: served %d times, paid %d", name, g.served("/echo")-before, p.paid(t))
			}
		}
	})
}

// Whatever is changed in a payment, it buys nothing, costs nothing, and the handler does not run.
func TestAlteredPaymentsBuyNothing(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		g := w.gate(t, w.farthingFacilitator(t), `GET /weather: $0.01`)
		other := must(evm.GenerateKey())(t).Address().String()
		set := func(v any, path ...string) func(map[string]any) {
			return func(o map[string]any) {
				for _, name := range path[:len(path)-1] {
					inner, ok := o[name].(map[string]any)
					if !ok {
						return // version 1 has no such member
					}
					o = inner
				}
				o[path[len(path)-1]] = v
			}
		}
		past, future := fmt.Sprint(time.Now().Unix()-60), fmt.Sprint(time.Now().Unix()+3000)
		alterations := map[string]func(map[string]any){
			"less":                  set("1", "payload", "authorization", "value"),
			"less, also accepted":   both(set("1", "payload", "authorization", "value"), set("1", "accepted", "amount")),
			"another payee":         set(other, "payload", "authorization", "to"),
			"another payee, agreed": both(set(other, "payload", "authorization", "to"), set(other, "accepted", "payTo")),
			"another payer":         set(other, "payload", "authorization", "from"),
			"a later end":           set(future, "payload", "authorization", "validBefore"),
			"an earlier end":        set(past, "payload", "authorization", "validBefore"),
			"a later beginning":     set(future, "payload", "authorization", "validAfter"),
			"another nonce":         set("0x"+strings.Repeat("11", 32), "payload", "authorization", "nonce"),
			"no signature":          set("0x", "payload", "signature"),
			"another signature":     set("0x"+strings.Repeat("11", 64)+"1b", "payload", "signature"),
			"no payload":            set(map[string]any{}, "payload"),
			"a payload of null":     set(nil, "payload"),
			"another network":       both(set("eip155:8453", "accepted", "network"), set("base", "network")),
			"another scheme":        both(set("upto", "accepted", "scheme"), set("upto", "scheme")),
			"another token":         both(set(other, "accepted", "asset"), set("eip155:1", "network")),
			"another domain":        both(set("Other", "accepted", "extra", "name"), set("0x12", "payload", "signature")),
			"a number for a string": set(10_000, "payload", "authorization", "value"),
			"version 7":             both(set(7, "x402Version"), set(7, "t402Version")),
		}
		for name, b := range w.stock() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := w.payer(t)
				r := w.held(t, b, p, g.url+"/weather")
				text := must(base64.StdEncoding.DecodeString(r.Payment))(t)
				for what, alter := range alterations {
					var payment map[string]any
					check(t, json.Unmarshal(text, &payment))
					alter(payment)
					altered := must(json.Marshal(payment))(t)
					headers := http.Header{r.Header: {base64.StdEncoding.EncodeToString(altered)}}
					if a := present(t, "GET", g.url+"/weather", "", headers); a.status < 400 || a.status >= 500 || a.receipt {
						t.Errorf("%s: %d %s", what, a.status, a.body)
					}
				}
				for what, headers := range map[string]http.Header{
					"garbage":             {r.Header: {"garbage!"}},
					"base64 of nothing":   {r.Header: {""}},
					"base64url":           {r.Header: {strings.NewReplacer("+", "-", "/", "_").Replace(r.Payment) + "-_"}},
					"half a payment":      {r.Header: {r.Payment[:len(r.Payment)/2/4*4]}},
					"an oversized header": {r.Header: {base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{' '}, 40<<10))}},
					"two payments":        {r.Header: {r.Payment, r.Payment}},
					"both headers":        {"PAYMENT-SIGNATURE": {r.Payment}, "X-PAYMENT": {r.Payment}},
				} {
					if a := present(t, "GET", g.url+"/weather", "", headers); a.status < 400 || a.status >= 500 || a.receipt {
						t.Errorf("%s: %d %s", what, a.status, a.body)
					}
				}
				if g.served("/weather") != 0 || p.paid(t) != 0 {
					t.Errorf("served %d, paid %d", g.served("/weather"), p.paid(t))
				}
			})
		}
	})
}

// both makes two alterations.
func both(a, b func(map[string]any)) func(map[string]any) {
	return func(o map[string]any) { a(o); b(o) }
}

// Properly signed, and good for nothing: expired, about to expire, not yet valid, more and less than the price, for
// another chain's copy of the token, from an account that is empty.
func TestSignedPaymentsThatAreNoGood(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		g := w.gate(t, w.farthingFacilitator(t), `GET /weather: $0.01`)
		asked := must(terms(t, g.url+"/weather"))(t)
		now := uint64(time.Now().Unix())
		for what, change := range map[string]func(*exact.Authorization){
			"expired":         func(a *exact.Authorization) { a.ValidBefore = now - 1 },
			"about to expire": func(a *exact.Authorization) { a.ValidBefore = now + 4 },
			"not yet valid":   func(a *exact.Authorization) { a.ValidAfter = now + 100 },
			"less":            func(a *exact.Authorization) { a.Amount = money.Units(9_999) },
			"more":            func(a *exact.Authorization) { a.Amount = money.Units(10_001) },
			"another chain":   func(a *exact.Authorization) { a.ChainID = 8453 },
			"another token":   func(a *exact.Authorization) { a.Asset = a.To },
			"another domain":  func(a *exact.Authorization) { a.Name = "USD Coin" },
			"an empty account": func(a *exact.Authorization) {
				a.Amount = money.Units(10_000) // as it is
			},
		} {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				p := &payer{PrivateKey: must(evm.GenerateKey())(t), w: w}
				if what != "an empty account" {
					p = w.payer(t)
				}
				a := must(exact.Pay(t.Context(), p, asked.Accepts[0], nonce(t), time.Now()))(t)
				change(&a)
				signature := must(p.Sign(t.Context(), a.Digest()))(t)
				a.Signature = signature[:]
				payment := must(x402.NewPayment(asked, asked.Accepts[0], must(a.Payload())(t)))(t)
				name, value, err := payment.Header()
				check(t, err)
				if a := present(t, "GET", g.url+"/weather", "", http.Header{name: {value}}); a.status != 402 || a.receipt {
					t.Errorf("%d %s", a.status, a.body)
				}
				if p.paid(t) != 0 {
					t.Errorf("paid %d", p.paid(t))
				}
			})
		}
		t.Cleanup(func() {
			if g.served("/weather") != 0 {
				t.Error("work was done")
			}
		})
	})
}

// terms are a seller's for a URL.
func terms(t testing.TB, url string) (x402.PaymentRequired, error) {
	resp := must(http.Get(url))(t)
	defer resp.Body.Close()
	required, _, err := x402.ParsePaymentRequired(resp)
	return required, err
}

// The payer's account is emptied while the handler works: the answer is withheld, and nothing is owed.
func TestPayerEmptiedBetweenVerifyAndSettle(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		g := w.gate(t, w.farthingFacilitator(t), `GET /slow: $0.01`)
		for name, b := range w.stock() {
			p := w.payer(t)
			r := w.held(t, b, p, g.url+"/slow")
			began, proceed := g.holdUp()
			var a answer
			var wg sync.WaitGroup
			wg.Go(func() { a = present(t, "GET", g.url+"/slow", "", r.carrying()) })
			<-began
			w.send(t, p.PrivateKey, chain.Transfer(w.usdc.Address, account(accountPayee).Address(), p.had))
			close(proceed)
			wg.Wait()
			if a.status != 402 || a.receipt || strings.Contains(a.body, "goods") {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
		if earned := g.earned(t); earned != 0 {
			t.Errorf("earned %d", earned)
		}
	})
}

// Somebody else brings the payment to the chain while the handler works. It is paid, whoever did it, and paid once.
func TestFrontRunSettlement(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		g := w.gate(t, w.farthingFacilitator(t), `GET /slow: $0.01`)
		for name, b := range map[string]buyer{"x402-fetch": w.stock()["x402-fetch"], "@x402/fetch": w.stock()["@x402/fetch"]} {
			p := w.payer(t)
			asked := must(terms(t, g.url+"/slow"))(t)
			r := w.held(t, b, p, g.url+"/slow")
			payment := must(x402.ReadPayment(r.carrying()))(t)
			began, proceed := g.holdUp()
			var a answer
			var wg sync.WaitGroup
			wg.Go(func() { a = present(t, "GET", g.url+"/slow", "", r.carrying()) })
			<-began
			somebody := &x402.Client{Base: w.referenceFacilitator(t)}
			if s := must(somebody.Settle(t.Context(), *payment, asked.Accepts[0]))(t); !s.Success {
				t.Fatalf("%s: %+v", name, s)
			}
			close(proceed)
			wg.Wait()
			if a.status != 200 || !a.receipt || !strings.Contains(a.body, "goods") {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
			if paid, n := p.paid(t), p.transfers(t); paid != 10_000 || n != 1 {
				t.Errorf("%s: paid %d in %d transfers", name, paid, n)
			}
		}
	})
}

// No spelling of a path gets by the gate.
func TestPathTricks(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		g := w.gate(t, w.farthingFacilitator(t), `
			GET /weather: $0.01
			GET /health: free`)
		for _, path := range []string{
			"/weather", "//weather", "/./weather", "/x/../weather", "/%77eather", "/weather/", "/weather//", "/WEATHER", "/weather%2f", "/%2fweather",
			"/health/../weather", "/health/..%2fweather", "/health%2f..%2fweather", "/weather;x", "/weather%00", "/weather%20", "/\\weather", "/weather?x", "/weather#x",
		} {
			for _, method := range []string{"GET", "HEAD", "get", "OPTIONS"} {
				r, err := http.NewRequestWithContext(t.Context(), method, g.url, nil)
				check(t, err)
				r.URL.Opaque = strings.TrimPrefix(g.url, "http:") + path
				resp, err := http.DefaultTransport.RoundTrip(r)
				if err != nil {
					continue // the server hung up on it
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if strings.Contains(string(body), "goods") || resp.StatusCode == 200 && strings.Contains(strings.ToLower(path), "weather") && method != "OPTIONS" {
					t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, body)
				}
			}
		}
		if n := g.served("/weather"); n != 0 {
			t.Errorf("/weather was served %d times", n)
		}
	})
}
