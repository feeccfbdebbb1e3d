package payer

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

// byGuarantee pays with a promise that collateral at the payer's own clearing house backs.
type byGuarantee struct{}

func (byGuarantee) name() string { return "guarantee" }

// asked is what an offer asks for, under the scheme's own name.
func asked(o option) x402.Requirements {
	r := o.Requirements
	r.Scheme = guarantee.Scheme
	return r
}

func (byGuarantee) read(l *look, o *option) string {
	claims := guarantee.Claims{Payee: o.payee, Asset: o.token.Address, Amount: o.amount}
	policy, err := guarantee.PolicyOf(asked(*o))
	if policy != nil {
		claims = claims.Bind(*policy)
	}
	if err == nil {
		err = guarantee.Matches(guarantee.Signed{Claims: claims}, asked(*o))
	}
	if err != nil {
		return "asks for more than a promise: " + err.Error()
	}
	trusted, err := l.houses()
	if err != nil {
		return "is cleared by a clearing house, and yours does not answer"
	}
	if len(trusted) == 0 {
		return "needs collateral at a clearing house, and you have none"
	}
	var why string
	o.deployment, why = trust(o.Requirements, o.chain, trusted)
	return why
}

// trust finds the deployment for which an offer may be signed. What the offer says about itself can rule one out, never
// bring one in.
func trust(r x402.Requirements, chain network.Chain, trusted []guarantee.Deployment) (guarantee.Deployment, string) {
	onChain := false
	for _, d := range trusted {
		if d.ChainID != chain.ID {
			continue
		}
		onChain = true
		vault := r.ExtraString("vault")
		a, err := evm.ParseAddress(vault)
		if vault != "" && (err != nil || a != d.Vault) {
			continue
		}
		name, version := r.ExtraString("eip712Name"), r.ExtraString("eip712Version")
		if name != "" && name != d.Name || version != "" && version != d.Version {
			continue
		}
		return d, ""
	}
	if onChain {
		return guarantee.Deployment{}, "is cleared by a house that does not hold your collateral"
	}
	held := make([]string, len(trusted))
	for i, d := range trusted {
		held[i] = fmt.Sprintf("chain %d", d.ChainID)
		if c, ok := network.ByID(d.ChainID); ok {
			held[i] = c.Name
		}
	}
	return guarantee.Deployment{}, fmt.Sprintf("is on %s; your collateral is on %s", chain.Name, strings.Join(held, ", "))
}

func (byGuarantee) sign(ctx context.Context, p *Payer, o option, r *row) (any, map[string]json.RawMessage, error) {
	signed, err := guarantee.Pay(ctx, p.Key, o.deployment, asked(o), r.Terms, p.Now())
	if err != nil {
		return nil, nil, err
	}
	r.Vault, r.ChainID = o.deployment.Vault, o.deployment.ChainID
	r.Digest = signed.Claims.Digest(o.deployment.ClaimsSeparator())
	if signed.Claims.Amount != r.Amount || signed.Claims.Payee != r.Payee || signed.Claims.Asset != r.Asset {
		return nil, nil, errTwoReadings
	}
	return signed, o.extensions, nil
}

// prove looks for the payee's signature that it takes no more than what was charged.
func (byGuarantee) prove(r row, receipt x402.SettleResponse) bool {
	signer, ok := r.noted(receipt)
	return ok && signer == r.Payee
}

// noted returns who signed, in a receipt, that no more than what was charged is taken; false if nobody did.
func (r row) noted(receipt x402.SettleResponse) (signer evm.Address, ok bool) {
	raw := receipt.Extra["note"]
	var note guarantee.SignedNote
	if len(raw) == 0 || json.Unmarshal(raw, &note) != nil || note.Digest != r.Digest || r.Charged.Less(note.Amount) {
		return signer, false
	}
	signer, err := note.Signer(guarantee.Deployment{ChainID: r.ChainID, Vault: r.Vault})
	return signer, err == nil
}
