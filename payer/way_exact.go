package payer

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// validMax is the longest that a signed transfer may be good for. Sellers ask for minutes; one whose work takes longer
// settles first.
const validMax = 24 * time.Hour

// byTransfer pays with a signed transfer of the token, which the seller has brought to the chain: x402's schemes exact and
// upto.
type byTransfer struct{ scheme string }

func (b byTransfer) name() string { return b.scheme }

func (b byTransfer) read(_ *look, o *option) string {
	if o.MaxTimeoutSeconds <= 0 || o.MaxTimeoutSeconds > int(validMax/time.Second) {
		return fmt.Sprintf("wants a transfer that is good for %d seconds", o.MaxTimeoutSeconds)
	}
	method := o.ExtraString("assetTransferMethod")
	switch {
	case b.scheme == exact.UptoScheme && (method == "" || method == string(exact.Permit2)):
		o.method = exact.Permit2
		if a, err := evm.ParseAddress(o.ExtraString("facilitatorAddress")); err != nil || a.IsZero() {
			return "does not say who may charge less than its limit (facilitatorAddress)"
		}
	case b.scheme == exact.Scheme && method == string(exact.Permit2):
		o.method = exact.Permit2
	case b.scheme == exact.Scheme && (method == "" || method == string(exact.EIP3009)):
		o.method = exact.EIP3009
		if !o.token.EIP3009 {
			return fmt.Sprintf("wants a transfer by signature, which %s on %s does not have", o.token.Symbol, o.chain.Name)
		}
	default:
		return fmt.Sprintf("moves the token by %q, which this payer does not sign", clip(method))
	}
	name, version := o.ExtraString("name"), o.ExtraString("version")
	if o.method == exact.EIP3009 && (name == "" || version == "") {
		return fmt.Sprintf("does not name the signing domain of %s", o.token.Symbol)
	}
	if name != "" && o.token.Name != "" && name != o.token.Name || version != "" && o.token.Version != "" && version != o.token.Version {
		return fmt.Sprintf("names the signing domain of %s as %q %q, and on %s it is %q %q: the token would refuse the signature",
			o.token.Symbol, clip(name), clip(version), o.chain.Name, o.token.Name, o.token.Version)
	}
	return readBundle(o)
}

func (b byTransfer) sign(ctx context.Context, p *Payer, o option, r *row) (any, map[string]json.RawMessage, error) {
	a, err := exact.Pay(ctx, p.Key, o.Requirements, r.Terms, p.Now())
	if err != nil {
		return nil, nil, err
	}
	if a.Amount != r.Amount || a.To != r.Payee || a.Asset != r.Asset || a.ChainID != o.chain.ID || a.Method != o.method {
		return nil, nil, errTwoReadings
	}
	switch o.sponsor {
	case exact.PermitExtension:
		if a.Name == "" || a.Version == "" { // the permit is the token's, and the offer need not name its domain
			a.Name, a.Version = o.token.Name, o.token.Version
		}
		a, err = a.Sponsored(ctx, p.Key, o.permitNonce)
	case exact.ApprovalExtension:
		var raw []byte
		if raw, err = p.Wallet.(Approver).Approval(ctx, o.chain.ID, a.Asset); err == nil {
			a, err = a.Approved(raw)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	r.ChainID, r.Transfer, r.Nonce, r.ValidBefore, r.Digest = a.ChainID, a.Method, a.Nonce, a.ValidBefore, a.ID()
	extensions, err := a.Extensions(o.extensions)
	if err != nil {
		return nil, nil, err
	}
	payload, err := a.Payload()
	return payload, extensions, err
}

// prove knows of no proof in a receipt: what a transfer came to is on the chain, see [Payer.Recheck].
func (byTransfer) prove(row, x402.SettleResponse) bool { return false }

// charged is what a receipt of this way says, as far as it can be so: a transfer of exactly the amount either takes
// place or does not.
func (b byTransfer) charged(said, signed money.Amount) money.Amount {
	if b.scheme == exact.Scheme && !said.IsZero() {
		return signed
	}
	return money.Min(said, signed)
}
