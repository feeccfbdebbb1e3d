package interop

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/keystore"
	"github.com/farthing402/farthing/x402"
)

// sellers starts the published sellers, settling through a facilitator and, where that is another, T402's.
func (w *world) sellers(t testing.TB, facilitator, t402 string) map[string]*server {
	payee := account(accountPayee).Address().String()
	asset := options{"address": w.usdc.Address.String(), "name": w.usdc.Name, "version": w.usdc.Version}
	return map[string]*server{
		"@x402/express": serve(t, "seller-x402.mjs", options{"facilitator": facilitator, "payTo": payee, "network": w.chain.CAIP2(), "asset": asset}),
		"x402-express":  serve(t, "seller-x402-v1.mjs", options{"facilitator": facilitator, "payTo": payee, "network": w.chain.V1Name}),
		"@t402/core":    serve(t, "t402.mjs", options{"role": "seller", "facilitator": t402, "payTo": payee, "network": w.chain.CAIP2(), "legacy": asset}),
	}
}

// Published sellers settle through farthing's facilitator what published buyers pay.
func TestPublishedSellersSettleThroughFarthing(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		sellers := w.sellers(t, w.farthingFacilitator(t), w.farthingFacilitator(t))
		v1 := options{"network": w.chain.V1Name}
		upto := options{"schemes": []string{"upto"}, "rpc": w.rpc}
		for _, c := range []struct {
			name, seller, path, buyer string
			more                      options
			allow                     bool // Permit2 beforehand
			pays                      uint64
		}{
			{"exact", "@x402/express", "/exact", "buyer-x402.mjs", nil, false, 10_000},
			{"exact, settled before work", "@x402/express", "/upfront", "buyer-x402.mjs", nil, false, 5000},
			{"a failing handler", "@x402/express", "/fails", "buyer-x402.mjs", nil, false, 0},
			{"Permit2", "@x402/express", "/permit2", "buyer-x402.mjs", nil, true, 3000},
			{"Permit2 with an approval that the facilitator pays for", "@x402/express", "/sponsored", "buyer-x402.mjs", options{"rpc": w.rpc}, false, 4000},
			{"upto", "@x402/express", "/upto", "buyer-x402.mjs", upto, true, 1234},
			{"upto that came to nothing", "@x402/express", "/free-of-charge", "buyer-x402.mjs", upto, true, 0},
			{"version 1", "x402-express", "/exact", "buyer-x402-v1.mjs", v1, false, 10_000},
			{"version 1, bought by a client of version 2", "x402-express", "/exact", "buyer-x402.mjs", nil, false, 10_000},
			{"version 1 with a failing handler", "x402-express", "/fails", "buyer-x402-v1.mjs", v1, false, 0},
			{"T402", "@t402/core", "/exact", "t402.mjs", options{"role": "buyer"}, false, 10_000},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				p := w.payer(t)
				if c.allow {
					p.approve(t, permit2)
				}
				r := once(t, c.buyer, options{"url": sellers[c.seller].url + c.path, "key": secret(p.PrivateKey)}.with(c.more))
				if strings.HasSuffix(c.path, "fails") {
					if r.Status != 500 || r.Attempts != 1 {
						t.Errorf("%d after %d payments: %s %s", r.Status, r.Attempts, r.Refusal, r.Error)
					}
				} else {
					r.bought(t)
				}
				if paid := p.paid(t); paid != c.pays {
					t.Errorf("paid %d, want %d", paid, c.pays)
				}
			})
		}
	})
}

// T402's exact-legacy leaves no trace of its nonce on the chain, and T402's own facilitator would pay the same
// authorization again. Farthing's does not.
func TestLegacyTokensArePaidOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		facilitator := w.farthingFacilitator(t)
		seller := w.sellers(t, facilitator, facilitator)["@t402/core"]
		p := w.payer(t)
		asked := must(terms(t, seller.url+"/legacy"))(t)
		p.approve(t, must(evm.ParseAddress(asked.Accepts[0].ExtraString("spender")))(t))
		r := once(t, "t402.mjs", options{"role": "buyer", "url": seller.url + "/legacy", "key": secret(p.PrivateKey)})
		r.bought(t)
		payment := must(x402.ReadPayment(r.carrying()))(t)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { present(t, "GET", seller.url+"/legacy", "", r.carrying()) })
			wg.Go(func() { // the seller's middleware reserves nothing, so it is the facilitator that has to know
				f := &x402.Client{Base: facilitator, Dialect: x402.T402, Timeout: patience}
				if _, err := f.Settle(t.Context(), *payment, asked.Accepts[0]); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if paid, n := p.paid(t), p.transfers(t); paid != 5000 || n != 1 {
			t.Errorf("paid %d in %d transfers", paid, n)
		}
	})
}

// got is what `farthing get --json` says.
type got struct {
	code   int
	out    string
	errors string
}

// get buys with `farthing get` for a payer, in a folder of its own.
func (p *payer) get(t testing.TB, args ...string) got {
	t.Helper()
	dir := t.TempDir()
	key := filepath.Join(dir, "buyer.json")
	check(t, keystore.Import(key, p.PrivateKey, nil, keystore.Light))
	cmd := p.w.command(append([]string{"get", "--network", p.w.chain.Name, "--key", key, "--journal", filepath.Join(dir, "purchases.journal"), "--rpc-url", p.w.rpc, "--max", "$0.20", "--yes"}, args...)...)
	cmd.Env = append(cmd.Env, "FARTHING_HOME="+dir)
	var out, errors strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errors
	_ = cmd.Run() // the code says it
	return got{cmd.ProcessState.ExitCode(), out.String(), errors.String()}
}

// farthing get buys from the published sellers, whoever settles for them.
func TestFarthingBuysFromPublishedSellers(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for whose, facilitator := range map[string][2]string{
			"farthing":  {w.farthingFacilitator(t), w.farthingFacilitator(t)},
			"reference": {w.referenceFacilitator(t), w.t402Facilitator(t)},
		} {
			sellers := w.sellers(t, facilitator[0], facilitator[1])
			for _, c := range []struct {
				name, seller, path string
				args               []string
				allow              bool
				goods              string
				pays               uint64
			}{
				{"exact", "@x402/express", "/exact", nil, false, "weather", 10_000},
				{"exact, settled before work", "@x402/express", "/upfront", nil, false, "weather", 5000},
				{"a body", "@x402/express", "/echo", []string{"-d", "Grüße", "-H", "Content-Type: text/plain; charset=utf-8"}, false, "Grüße", 2000},
				{"Permit2", "@x402/express", "/permit2", nil, true, "weather", 3000},
				{"Permit2 with an approval that the facilitator pays for", "@x402/express", "/sponsored", nil, false, "weather", 4000},
				{"upto", "@x402/express", "/upto", nil, true, "measured", 1234},
				{"version 1", "x402-express", "/exact", nil, false, "weather", 10_000},
				{"T402", "@t402/core", "/exact", nil, false, "weather", 10_000},
			} {
				t.Run(c.name+" settled by "+whose, func(t *testing.T) {
					t.Parallel()
					p := w.payer(t)
					if c.allow {
						p.approve(t, permit2)
					}
					r := p.get(t, append([]string{sellers[c.seller].url + c.path}, c.args...)...)
					if r.code != 0 || !strings.Contains(r.out, c.goods) {
						t.Fatalf("exit %d\n%s%s", r.code, r.out, r.errors)
					}
					if paid := p.paid(t); paid != c.pays {
						t.Errorf("paid %d, want %d", paid, c.pays)
					}
				})
			}
		}
	})
}

// More than the buyer's own limit is never signed, and the exit code says whose refusal it is.
func TestFarthingKeepsItsLimitAtPublishedSellers(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		seller := w.sellers(t, w.referenceFacilitator(t), w.t402Facilitator(t))["@x402/express"]
		p := w.payer(t)
		r := p.get(t, seller.url+"/exact", "--max", "$0.009", "--json")
		if r.code != 3 || p.paid(t) != 0 || seller.served("/exact") != 0 {
			t.Errorf("exit %d, paid %d, served %d\n%s%s", r.code, p.paid(t), seller.served("/exact"), r.out, r.errors)
		}
		var line struct{ Code string }
		if err := json.Unmarshal([]byte(strings.TrimSpace(r.errors)), &line); err != nil && !strings.Contains(r.errors, "budget") {
			t.Errorf("says %q", r.errors)
		}
	})
}
