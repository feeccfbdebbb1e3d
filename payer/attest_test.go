package payer

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/x402"
)

// A signed receipt is looked at: it holds and says the same, or the buyer is told. It changes nothing about the money.
func TestSignedReceiptsAreChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		by     *evm.PrivateKey
		change func(*x402.Receipt)
		spoil  func(json.RawMessage) json.RawMessage
		want   Attest
	}{
		{"as it was", sellerKey, func(*x402.Receipt) {}, nil, Attested},
		{"by who is not paid", otherKey, func(*x402.Receipt) {}, nil, Unsigned},
		{"another amount", sellerKey, func(r *x402.Receipt) { r.Amount = "499" }, nil, Refuted},
		{"another purchase", sellerKey, func(r *x402.Receipt) { r.Purchase = "p_other" }, nil, Refuted},
		{"another payer", sellerKey, func(r *x402.Receipt) { r.Payer = otherKey.Address().String() }, nil, Refuted},
		{"another resource", sellerKey, func(r *x402.Receipt) { r.ResourceURL += "x" }, nil, Refuted},
		{"altered afterwards", sellerKey, func(*x402.Receipt) {}, func(raw json.RawMessage) json.RawMessage {
			return json.RawMessage(strings.Replace(string(raw), `"version":1,"network":"eip155:31337"`, `"version":1,"network":"eip155:8453"`, 1))
		}, Refuted},
	} {
		s := &seller{}
		s.receipt = func(receipt *x402.SettleResponse, p payment) {
			signed := x402.Receipt{
				Version: 1, Network: receipt.Network, ResourceURL: s.url + "/", Payer: receipt.Payer, IssuedAt: 1, Asset: dollarText, Amount: receipt.Amount, Purchase: p.id,
			}
			c.change(&signed)
			entry, err := x402.SignReceipt(t.Context(), c.by, signed)
			if err != nil {
				t.Error(err)
			}
			if c.spoil != nil {
				entry = c.spoil(entry)
			}
			receipt.Extensions = map[string]json.RawMessage{x402.OfferReceiptKey: entry}
		}
		s.start(t)
		p := newPayer(t, perDay("$1"))
		_, bought, err := get(p, s.url+"/")
		if err != nil || bought.Attest != c.want || today(t, p) != "$0.9995" {
			t.Errorf("%s: %q, want %q (%v)", c.name, bought.Attest, c.want, err)
		}
		if contains(bought.String(), "does not hold") != (c.want == Refuted) {
			t.Errorf("%s: %s", c.name, bought)
		}
	}
}

// An offer whose signature does not hold is not paid, and nothing is signed for it.
func TestAnOfferWithAFalseSignatureIsNotPaid(t *testing.T) {
	t.Parallel()
	for _, forged := range []bool{false, true} {
		s := &seller{}
		s.terms = func(terms *x402.Terms) {
			o := x402.MakeOffer(terms.Required.Resource.URL, terms.Required.Accepts[0], 0)
			signed, err := x402.SignOffer(t.Context(), sellerKey, o, 0)
			if err != nil {
				t.Error(err)
			}
			if forged {
				signed.Signature = evm.Signature{1, 64: 29}.String()
			}
			terms.Required.Extensions = map[string]json.RawMessage{x402.OfferReceiptKey: x402.DeclareOffers([]x402.Signed{signed})}
		}
		s.start(t)
		p := newPayer(t, perDay("$1"))
		_, _, err := get(p, s.url)
		if forged != (code(err) == "offer_invalid") || (s.arrived() == 0) != forged || forged && today(t, p) != "$1.00" {
			t.Errorf("forged %v: %v, %d arrived, %s left", forged, err, s.arrived(), today(t, p))
		}
	}
}
