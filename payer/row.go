package payer

import (
	"cmp"
	"encoding/json"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// State is where a purchase stands, as its payer knows it.
type State string

// The states. Charged and Void are final, except that a Void can turn out to be Charged when it is asked for again.
const (
	Reserved State = "reserved" // its budget is set aside; nothing is signed
	Sent     State = "sent"     // signed and written down; it may have left, and its outcome is not known
	Charged  State = "charged"  // the seller charged it, or answered without a word about a charge
	Void     State = "void"     // not charged: it never left, or the seller says so
)

// row is a purchase as a line of the journal has it. The last line of an id counts.
type row struct {
	ID    string    `json:"id"`
	State State     `json:"state"`
	At    time.Time `json:"at"` // reserved

	Seller   string       `json:"seller"` // host, with its port if it has one
	Method   string       `json:"method"`
	URL      string       `json:"url"`
	Accept   string       `json:"accept,omitempty"`
	BodyType string       `json:"bodyType,omitempty"`
	BodyHash evm.Hash     `json:"bodyHash"`
	Body     []byte       `json:"body,omitempty"`     // if it is not too large to keep
	BodyGone bool         `json:"bodyGone,omitempty"` // there was a body, and it is not kept
	Price    string       `json:"price,omitempty"`    // the seller's words
	Network  string       `json:"network"`
	Asset    evm.Address  `json:"asset"`
	Symbol   string       `json:"symbol"`
	Decimals uint8        `json:"decimals"`
	Payee    evm.Address  `json:"payee"`
	Amount   money.Amount `json:"amount"`           // most that it can cost
	Scheme   string       `json:"scheme,omitempty"` // empty: a guarantee
	Terms    evm.Hash     `json:"terms"`            // hash of what was accepted: the request id
	Digest   evm.Hash     `json:"digest"`           // of what was signed
	Vault    evm.Address  `json:"vault"`
	ChainID  uint64       `json:"chainId"`
	Payer    evm.Address  `json:"payer,omitzero"`

	// Of a transfer: how the token moves, the nonce that the chain lets be used once, and until when, unix seconds.
	Transfer    exact.Method `json:"transfer,omitempty"`
	Nonce       evm.Hash     `json:"nonce,omitzero"`
	ValidBefore uint64       `json:"validBefore,omitempty"`
	Tx          string       `json:"transaction,omitempty"` // that paid, by the seller's word

	Bundle *bundle `json:"bundle,omitempty"` // what it bought ahead
	Draw   string  `json:"draw,omitempty"`   // the purchase whose bundle it was drawn from
	Left   *uint64 `json:"left,omitempty"`   // what the seller said is left then
	Name   string  `json:"name,omitempty"`   // the caller's own, for a transfer

	Header  string          `json:"header,omitempty"`  // name of the payment header
	Payment string          `json:"payment,omitempty"` // its value
	Charged money.Amount    `json:"charged"`
	Proven  bool            `json:"proven,omitempty"` // what was not charged cannot be: it never left, or the payee signed so
	Code    string          `json:"code,omitempty"`   // why it is void or not known
	Credit  money.Amount    `json:"credit,omitzero"`  // that paid besides, by the seller's word
	Receipt json.RawMessage `json:"receipt,omitempty"`
	Attest  Attest          `json:"attest,omitempty"` // of Receipt

	Returned *Returned  `json:"returned,omitempty"`
	DoneAt   *time.Time `json:"doneAt,omitempty"`
}

// promised is the most that the purchase can cost, scaled as budgets are.
func (r row) promised() money.Amount {
	a, _ := inDollars(r.Amount, r.Decimals) // it fitted when it was reserved
	return a
}

// counted is what counts as spent.
func (r row) counted() money.Amount {
	if r.State == Reserved || r.State == Sent {
		return r.promised()
	}
	a, _ := inDollars(r.Charged, r.Decimals)
	return a
}

// believed is what counts as not spent on the seller's word alone.
func (r row) believed() money.Amount {
	if r.Proven || r.State != Charged && r.State != Void {
		return money.Amount{}
	}
	return less(r.promised(), r.counted())
}

// settle ends the row by a receipt, or by an answer that has none, which counts as charged in full. It trusts the receipt
// only as far as it is in the payer's disfavour, or signed by the payee.
func (r *row) settle(receipt *x402.SettleResponse, now time.Time) {
	r.State, r.Charged, r.Code = Charged, r.Amount, ""
	r.DoneAt = &now
	if receipt == nil {
		return
	}
	if raw, err := json.Marshal(receipt); err == nil {
		r.Receipt = raw
	}
	r.Attest = r.attest(*receipt)
	if tx, err := evm.ParseHash(cmp.Or(receipt.Transaction, receipt.TxHash)); err == nil && r.Transfer != "" {
		r.Tx = tx.String()
	}
	charged, err := money.ParseAmount(receipt.Amount)
	if w, ok := r.way(); ok && err == nil {
		if transfer, ok := w.(byTransfer); ok {
			charged = transfer.charged(charged, r.Amount)
		}
	}
	switch {
	case err == nil && !charged.IsZero(): // perhaps although the work failed
		r.Charged = money.Min(charged, r.Amount)
	case !receipt.Success && (err == nil || receipt.ErrorReason != ""):
		r.State, r.Charged, r.Code = Void, money.Amount{}, clip(receipt.ErrorReason)
	case err == nil:
		r.Charged = money.Amount{}
	}
	var credit money.Amount
	if raw := receipt.Extra["credit"]; len(raw) > 0 && json.Unmarshal(raw, &credit) == nil && !less(r.Amount, r.Charged).Less(credit) {
		r.Credit = credit
	}
	r.Proven = r.Charged == r.Amount // nothing was given back
	if w, ok := r.way(); ok && !r.Proven {
		r.Proven = w.prove(*r, *receipt)
	}
	r.told(*receipt, now)
}

// assumed reports whether the row counts as charged only because its answer did not say what it cost: a job that was
// begun, perhaps.
func (r row) assumed() bool {
	var w x402.SettleResponse
	return r.State == Charged && r.Tx == "" && len(r.Receipt) > 0 && json.Unmarshal(r.Receipt, &w) == nil && w.Amount == ""
}

// scheme is the row's way to pay. Journals of the first release know one only and do not name it.
func (r row) scheme() string { return cmp.Or(r.Scheme, guarantee.Scheme) }
