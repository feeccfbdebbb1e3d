package interop

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

// raw encodes a string for Requirements.Extra.
func raw(s string) json.RawMessage {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return text
}

// offer is what a seller asks for a way to pay in a chain's USDC.
func offer(c network.Chain, token network.Token, scheme string, amount string, extra map[string]string) x402.Requirements {
	r := x402.Requirements{
		Scheme: scheme, Network: c.CAIP2(), Amount: amount, Asset: token.Address.String(),
		PayTo: account(accountPayee).Address().String(), MaxTimeoutSeconds: 300,
		Extra: map[string]json.RawMessage{"name": raw(token.Name), "version": raw(token.Version)},
	}
	for k, v := range extra {
		r.Extra[k] = raw(v)
	}
	return r
}

// stall answers every request with the terms, as farthing's seller writes them.
func stall(t testing.TB, terms x402.Terms) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		terms := terms
		terms.Required.Resource.URL = "http://" + r.Host + r.URL.Path
		if err := x402.WritePaymentRequired(w, terms, "", nil); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// Payments that the published clients sign for terms as farthing writes them, also when the list has ways to pay and
// networks that a client does not know, are read, checked and found signed.
func TestPaymentsOfPublishedClientsAreRead(t *testing.T) {
	real(t)
	base := must(network.Lookup("base-sepolia"))(t)
	arbitrum := must(network.Lookup("arbitrum"))(t)
	usdc := must(base.Token("USDC"))(t)
	other := offer(arbitrum, must(arbitrum.Token("USDC"))(t), exact.Scheme, "10000", nil)
	credit := offer(base, usdc, "4mica-credit", "10000", nil)
	facilitator := account(accountReference).Address().String()
	plain := offer(base, usdc, exact.Scheme, "10000", nil)
	permit2 := offer(base, usdc, exact.Scheme, "10000", map[string]string{"assetTransferMethod": "permit2"})
	upto := offer(base, usdc, exact.UptoScheme, "90000", map[string]string{"assetTransferMethod": "permit2", "facilitatorAddress": facilitator})
	legacy := offer(base, usdc, exact.LegacyScheme, "5000", map[string]string{"tokenType": "legacy", "spender": facilitator})
	for _, c := range []struct {
		name, buyer string
		more        options
		offers      []x402.Requirements
		pays        int // which of them
		dialect     x402.Dialect
		version     int
	}{
		{"version 2", "buyer-x402.mjs", nil, []x402.Requirements{plain}, 0, x402.X402, 2},
		{"version 2 of a list with a guarantee and Arbitrum", "buyer-x402.mjs", nil, []x402.Requirements{credit, plain, other}, 1, x402.X402, 2},
		{"version 2, where Arbitrum stands first", "buyer-x402.mjs", nil, []x402.Requirements{credit, other, plain}, 1, x402.X402, 2},
		{"version 1", "buyer-x402-v1.mjs", nil, []x402.Requirements{plain}, 0, x402.X402, 1},
		{"version 1 of a list with a guarantee and Arbitrum", "buyer-x402-v1.mjs", nil, []x402.Requirements{credit, other, upto, plain}, 3, x402.X402, 1},
		{"Permit2", "buyer-x402.mjs", nil, []x402.Requirements{permit2}, 0, x402.X402, 2},
		{"upto", "buyer-x402.mjs", options{"schemes": []string{"upto"}}, []x402.Requirements{plain, upto}, 1, x402.X402, 2},
		{"T402", "t402.mjs", options{"role": "buyer"}, []x402.Requirements{credit, plain, other}, 1, x402.T402, 2},
		{"T402's exact-legacy", "t402.mjs", options{"role": "buyer"}, []x402.Requirements{credit, legacy}, 1, x402.T402, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			url := stall(t, x402.Terms{Price: "$0.01", WaysToPay: []string{"exact"}, Required: x402.PaymentRequired{
				X402Version: 2, Dialect: x402.Both, Resource: x402.Resource{Description: "Käse, 1 ₮"}, Accepts: c.offers,
			}})
			key := must(evm.GenerateKey())(t)
			r := once(t, c.buyer, options{"url": url + "/x", "key": secret(key), "hold": true, "network": base.V1Name}.with(c.more))
			if r.Status != 299 {
				t.Fatalf("the client does not pay: %d %s\n%s\n%s", r.Status, r.Error, r.Terms, r.Offered)
			}
			p := must(x402.ReadPayment(http.Header{http.CanonicalHeaderKey(r.Header): {r.Payment}}))(t)
			if p == nil || p.Version != c.version || p.Dialect != c.dialect {
				t.Fatalf("read as %+v", p)
			}
			asked := c.offers[c.pays]
			if p.Accepted != nil && !x402.Matches(*p.Accepted, asked) {
				t.Errorf("accepted %+v, offered %+v", p.Accepted, asked)
			}
			a := must(exact.Read(*p, asked))(t)
			check(t, a.Accept(asked, time.Now()))
			if a.From != key.Address() {
				t.Errorf("pays from %s, the key is %s", a.From, key.Address())
			}
		})
	}
}

// Payments that farthing signs are found good by the published facilitators, settle there, and settle once.
func TestPaymentsOfFarthingAreVerified(t *testing.T) {
	onAnvil(t, func(t *testing.T, w *world) {
		reference, t402 := w.referenceFacilitator(t), w.t402Facilitator(t)
		spender := account(accountReference).Address().String()
		legacySpender := account(accountT402).Address()
		for _, c := range []struct {
			name        string
			offer       x402.Requirements
			version     int
			dialect     x402.Dialect
			facilitator string
		}{
			{"version 2", offer(w.chain, w.usdc, exact.Scheme, "10000", nil), 2, x402.X402, reference},
			{"version 1", offer(w.chain, w.usdc, exact.Scheme, "10000", nil), 1, x402.X402, reference},
			{"Permit2", offer(w.chain, w.usdc, exact.Scheme, "10000", map[string]string{"assetTransferMethod": "permit2"}), 2, x402.X402, reference},
			{"upto", offer(w.chain, w.usdc, exact.UptoScheme, "10000", map[string]string{"assetTransferMethod": "permit2", "facilitatorAddress": spender}), 2, x402.X402, reference},
			{"T402", offer(w.chain, w.usdc, exact.Scheme, "10000", nil), 2, x402.T402, t402},
			{"T402's exact-legacy", offer(w.chain, w.usdc, exact.LegacyScheme, "10000", map[string]string{"tokenType": "legacy", "spender": legacySpender.String()}), 2, x402.T402, t402},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				p := w.payer(t)
				p.approve(t, permit2)
				p.approve(t, legacySpender)
				terms := x402.PaymentRequired{X402Version: c.version, Dialect: c.dialect, Resource: x402.Resource{URL: "http://127.0.0.1/x"}, Accepts: []x402.Requirements{c.offer}}
				payment := sign(t, p.PrivateKey, terms)
				f := &x402.Client{Base: c.facilitator, Dialect: c.dialect, Timeout: patience}
				v := must(f.Verify(t.Context(), payment, c.offer))(t)
				if !v.IsValid {
					t.Fatalf("refused: %+v", v)
				}
				s := must(f.Settle(t.Context(), payment, c.offer))(t)
				if !s.Success || s.Transaction == "" {
					t.Fatalf("not settled: %+v", s)
				}
				if paid := p.paid(t); paid != 10_000 {
					t.Errorf("%d left the account", paid)
				}
				if c.offer.Scheme == exact.LegacyScheme {
					return // T402's facilitator keeps no nonces and would pay again
				}
				if s, err := f.Settle(t.Context(), payment, c.offer); err == nil && s.Success && p.paid(t) != 10_000 {
					t.Errorf("settled twice: %+v", s)
				}
			})
		}
	})
}

// sign answers terms with a payment for their first offer.
func sign(t testing.TB, key evm.Signer, terms x402.PaymentRequired) x402.Payment {
	t.Helper()
	a := must(exact.Pay(context.Background(), key, terms.Accepts[0], nonce(t), time.Now()))(t)
	payload := must(a.Payload())(t)
	return must(x402.NewPayment(terms, terms.Accepts[0], payload))(t)
}

// nonce is one that nobody has used.
func nonce(t testing.TB) (n evm.Hash) {
	t.Helper()
	must(rand.Read(n[:]))(t)
	return n
}
