package payer

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// Returned is what a seller gave back of a purchase, as its receipt told when the payment was last shown. Budgets do not
// count it: what was spent was spent.
type Returned struct {
	Kind   string       `json:"kind"` // note, guarantee, return (of what was promised beyond the charge), transfer, credit, calls
	Amount money.Amount `json:"amount"`
	Done   bool         `json:"done"` // false: under way
	// Proven says that the receipt holds the payee's signature, and for a guarantee the clearing house's too.
	Proven bool `json:"proven"`
}

// confirm finds out what a receipt alone does not prove: with the clearing house, and with the chain.
func (p *Payer) confirm(ctx context.Context, r *row) {
	var receipt x402.SettleResponse
	if len(r.Receipt) > 0 && json.Unmarshal(r.Receipt, &receipt) == nil {
		if signer, ok := r.noted(receipt); ok && !r.Proven {
			r.Proven = p.signsFor(ctx, signer, r.Payee)
		}
		r.Returned = p.returned(ctx, *r, receipt.Extra["refund"])
	}
	p.moved(ctx, r)
}

// signsFor asks the payer's own clearing house whether a payee has named a key to sign its notes.
func (p *Payer) signsFor(ctx context.Context, key, payee evm.Address) bool {
	if p.house == nil {
		return false
	}
	signers, err := p.house.Signers(ctx, payee)
	now := uint64(max(p.Now().Unix(), 0))
	return err == nil && slices.ContainsFunc(signers, func(s client.Signer) bool { return s.Key == key && (s.Until == 0 || now < s.Until) })
}

// returned reads what a receipt says about a refund; nil if it says nothing that can be one.
func (p *Payer) returned(ctx context.Context, r row, raw json.RawMessage) *Returned {
	var told struct {
		Kind, State string
		Amount      money.Amount
		Proof       json.RawMessage
	}
	if len(raw) == 0 || json.Unmarshal(raw, &told) != nil || told.Kind == "" || r.Amount.Less(told.Amount) {
		return nil
	}
	back := &Returned{Kind: clip(told.Kind), Amount: told.Amount, Done: told.State == string(purchase.Done)}
	switch purchase.RefundKind(told.Kind) {
	case purchase.ByNote:
		var note guarantee.SignedNote
		if json.Unmarshal(told.Proof, &note) == nil && note.Digest == r.Digest {
			signer, err := note.Signer(guarantee.Deployment{ChainID: r.ChainID, Vault: r.Vault})
			back.Proven = err == nil && (signer == r.Payee || p.signsFor(ctx, signer, r.Payee))
		}
	case purchase.ByGuarantee, purchase.ByReturn:
		back.Proven = p.owed(ctx, r, told.Amount, told.Proof)
	}
	return back
}

// owed reports whether a proof is the payee's guarantee for this very purchase, certified by the payer's own clearing house.
func (p *Payer) owed(ctx context.Context, r row, amount money.Amount, proof json.RawMessage) bool {
	var e struct {
		Guarantee   guarantee.Signed
		Certificate guarantee.Certificate
	}
	if p.house == nil || json.Unmarshal(proof, &e) != nil {
		return false
	}
	id, ok := purchase.IDBytes(r.ID)
	c := e.Guarantee.Claims
	if !ok || c.ReqID != guarantee.RefundID(id) || c.Payer != r.Payee || c.Payee != p.Key.Address() || c.Asset != r.Asset || c.Amount != amount {
		return false
	}
	params, err := p.house.Params(ctx)
	if err != nil {
		return false
	}
	if _, err := e.Guarantee.Verify(params.Deployment.ClaimsSeparator(), guarantee.Rules{}); err != nil {
		return false
	}
	verifier, err := guarantee.NewVerifier(params.Key, params.Deployment)
	if err != nil {
		return false
	}
	_, err = verifier.Verify(e.Certificate, c)
	return err == nil
}
