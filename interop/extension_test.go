package interop

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/keystore"
)

// Who has paid comes back within the time that the route says, by signing in; who has not, cannot.
func TestStockBuyerSignsInInsteadOfPayingAgain(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		g := w.gate(t, w.farthingFacilitator(t), `GET /weather: {price: $0.01, valid: 1h}`)
		p := w.payer(t)
		o := options{"url": g.url + "/weather", "key": secret(p.PrivateKey), "signIn": true}
		once(t, "buyer-x402.mjs", o).bought(t)
		for range 2 {
			if r := once(t, "buyer-x402.mjs", o); r.Status != 200 || r.Attempts != 0 || !strings.Contains(r.Body, "weather") {
				t.Errorf("%d after %d payments: %s", r.Status, r.Attempts, r.Body)
			}
		}
		if p.paid(t) != 10_000 || g.served("/weather") != 3 {
			t.Errorf("paid %d, served %d", p.paid(t), g.served("/weather"))
		}
		stranger := w.payer(t)
		once(t, "buyer-x402.mjs", o.with(options{"key": secret(stranger.PrivateKey)})).bought(t) // with money
		if stranger.paid(t) != 10_000 {
			t.Errorf("somebody else's signature opened the route: paid %d", stranger.paid(t))
		}
	})
}

// With the payment's identifier a retry that signs anew is one purchase all the same.
func TestStockBuyerNamesItsPayment(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		g := w.gate(t, w.farthingFacilitator(t), `GET /weather: $0.01`)
		p := w.payer(t)
		o := options{"url": g.url + "/weather", "key": secret(p.PrivateKey), "payment": "pay_0123456789abcdef0123456789abcdef"}
		first := once(t, "buyer-x402.mjs", o)
		first.bought(t)
		if !strings.Contains(string(first.Terms), `"payment-identifier"`) {
			t.Errorf("the terms do not offer it: %s", first.Terms)
		}
		if again := present(t, "GET", g.url+"/weather", "", first.carrying()); again.status != 200 || !again.receipt || !strings.Contains(again.body, "weather") {
			t.Errorf("the same payment under the same name: %d %s", again.status, again.body)
		}
		if r := once(t, "buyer-x402.mjs", o); r.Status != 409 {
			t.Errorf("another payment under the same name: %d %s %s", r.Status, r.Body, r.Error)
		}
		once(t, "buyer-x402.mjs", o.with(options{"payment": "pay_ffffffffffffffffffffffffffffffff"})).bought(t)
		if p.paid(t) != 20_000 || g.served("/weather") != 2 {
			t.Errorf("paid %d, served %d", p.paid(t), g.served("/weather"))
		}
	})
}

// Signed offers and receipts, and what a route says to those who look for something to buy, are what the published
// package takes for good.
func TestPublishedPackageReadsOurExtensions(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		for _, form := range []string{"eip712", "jws"} {
			t.Run(form, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				seller := must(evm.GenerateKey())(t)
				key := filepath.Join(dir, "seller.json")
				check(t, keystore.Import(key, seller, nil, keystore.Light))
				g := w.gateOf(t, gateFile{Facilitator: w.farthingFacilitator(t), Head: "sign_offers: " + form, PayTo: seller.Address(),
					Routes: `GET /weather: {price: $0.01, listed: true, description: The weather}`}, "--key", key)
				p := w.payer(t)
				r := once(t, "buyer-x402.mjs", options{"url": g.url + "/weather", "key": secret(p.PrivateKey)})
				r.bought(t)
				var terms any
				check(t, json.Unmarshal(r.Terms, &terms))
				cmd := exec.CommandContext(t.Context(), "node", "extensions.mjs", options{
					"terms": terms, "receipt": r.ReceiptHeader, "payer": p.Address().String(), "facilitator": w.farthingFacilitator(t),
				}.json())
				var stderr strings.Builder
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%v\n%s", err, stderr.String())
				}
				var said struct {
					Offers []struct {
						Format, Signer string
						Index          int
					}
					Receipt *struct {
						Format, Signer string
						Matches        bool
						Payload        map[string]any
					}
					Bazaar *struct{ Consistent, Specified struct{ Valid bool } }
					Listed []struct{ Resource string }
				}
				check(t, json.Unmarshal(out, &said))
				bySeller := func(format, signer string) bool { // a JWS names its key, and the package checks it by that
					return format == form && (form == "jws" || strings.EqualFold(signer, seller.Address().String()))
				}
				if len(said.Offers) != 1 || said.Offers[0].Index != 0 || !bySeller(said.Offers[0].Format, said.Offers[0].Signer) {
					t.Errorf("offers: %s", out)
				}
				if said.Receipt == nil || !said.Receipt.Matches || !bySeller(said.Receipt.Format, said.Receipt.Signer) {
					t.Errorf("receipt: %s", out)
				}
				if said.Bazaar == nil || !said.Bazaar.Consistent.Valid || !said.Bazaar.Specified.Valid {
					t.Errorf("bazaar: %s", out)
				}
				listed := false
				for _, l := range said.Listed {
					listed = listed || l.Resource == g.url+"/weather"
				}
				if !listed {
					t.Errorf("the facilitator lists %+v, not %s/weather", said.Listed, g.url)
				}
			})
		}
	})
}
