package interop

import (
	"testing"
)

// The published packages among themselves, on this chain. If these fail, the chain or this harness is wrong, not
// farthing; and they show what the packages do where their documentation is silent.
func TestPublishedPackagesAmongThemselves(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		payee := account(accountPayee).Address().String()
		facilitator := w.referenceFacilitator(t)
		asset := options{"address": w.usdc.Address.String(), "name": w.usdc.Name, "version": w.usdc.Version}
		v2 := serve(t, "seller-x402.mjs", options{"facilitator": facilitator, "payTo": payee, "network": w.chain.CAIP2(), "asset": asset})
		v1 := serve(t, "seller-x402-v1.mjs", options{"facilitator": facilitator, "payTo": payee, "network": w.chain.V1Name})
		t402 := serve(t, "t402.mjs", options{"role": "seller", "facilitator": w.t402Facilitator(t), "payTo": payee, "network": w.chain.CAIP2()})
		for _, c := range []struct {
			name, buyer string
			seller      *server
			path        string
			more        options
			pays        uint64
		}{
			{"version 2", "buyer-x402.mjs", v2, "/exact", nil, 10_000},
			{"version 1", "buyer-x402-v1.mjs", v1, "/exact", options{"network": w.chain.V1Name}, 10_000},
			{"version 1 bought by a client of version 2", "buyer-x402.mjs", v1, "/exact", nil, 10_000},
			{"upto", "buyer-x402.mjs", v2, "/upto", options{"schemes": []string{"upto"}, "approve": true}, 1234},
			{"Permit2 with an approval that the facilitator pays for", "buyer-x402.mjs", v2, "/sponsored", options{"rpc": w.rpc}, 4000},
			{"T402", "t402.mjs", t402, "/exact", options{"role": "buyer"}, 10_000},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				p := w.payer(t)
				if c.more["approve"] == true {
					p.approve(t, permit2)
				}
				before := c.seller.served(c.path)
				r := once(t, c.buyer, options{"url": c.seller.url + c.path, "key": secret(p.PrivateKey)}.with(c.more))
				r.bought(t)
				if paid := p.paid(t); paid != c.pays {
					t.Errorf("%d left the account, want %d", paid, c.pays)
				}
				if c.seller.served(c.path) == before {
					t.Error("the handler did not run")
				}
			})
		}
	})
}
