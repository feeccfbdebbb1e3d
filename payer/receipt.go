package payer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// Purchase is what a purchase came to, as far as its payer knows. See [Receipt].
type Purchase struct {
	ID          string
	State       State
	At          time.Time
	Method, URL string
	Way         string // way to pay: guarantee, exact, upto, bundle (drawn from one), transfer (by [Payer.Pay])
	Network     string // CAIP-2
	Asset       money.Asset
	Address     evm.Address // of the asset
	Payee       evm.Address
	Signed      money.Amount // most that it could have cost
	Charged     money.Amount // what it costs; 0 unless State is Charged
	Digest      evm.Hash     // of what was signed: names a guarantee at its clearing house
	Credit      money.Amount // what came out of credit that the seller kept, beside Charged
	Attest      Attest       // whether the payee has signed the receipt
	Returned    *Returned    // what was given back; nil if nothing was, as far as the payer was told
	Code        string       // why it is void, or not known
	Transaction string       // hash of the transaction that paid, as the receipt names it; empty if none
	Bundle      *Bundle      // that was bought or drawn from; nil if none
	// Proven says that what was signed and not charged cannot be charged any more: the payee signed so, or the payment
	// never left.
	Proven bool
	// Assumed says that Charged is what was signed because the answer did not say what it cost: a job that goes on, perhaps.
	Assumed bool
	// Certificate is the clearing house's, nil if there is none or it does not certify what was signed. Its signature is
	// not checked: that is the payee's concern.
	Certificate *guarantee.Certificate
}

// String is one line for a person.
func (r Purchase) String() string {
	show := func(a money.Amount) string { return money.Format(a, r.Asset.Decimals, "$") }
	switch r.State {
	case Charged:
		line := fmt.Sprintf("paid %s to %s by %s", show(r.Charged), r.Payee.Short(), r.Way)
		switch {
		case !r.Credit.IsZero() && r.Charged.IsZero():
			line = fmt.Sprintf("paid %s to %s out of credit", show(r.Credit), r.Payee.Short())
		case !r.Credit.IsZero():
			line += fmt.Sprintf(", and %s out of credit", show(r.Credit))
		}
		line += " · purchase " + r.ID
		if r.Transaction != "" {
			line += " · tx " + r.Transaction
		}
		if r.Bundle != nil {
			line += " · " + r.Bundle.String()
		}
		if r.Attest == Refuted {
			line += " · the signed receipt does not hold"
		}
		return line + r.returned()
	case Void:
		return fmt.Sprintf("not charged by %s · purchase %s", r.Payee.Short(), r.ID) + r.returned()
	}
	return fmt.Sprintf("not confirmed: %s to %s by %s · purchase %s", money.Format(r.Signed, r.Asset.Decimals, "$"), r.Payee.Short(), r.Way, r.ID)
}

// returned says what came back, for a person; empty if nothing did.
func (r Purchase) returned() string {
	if r.Returned == nil {
		return ""
	}
	line := " · returned"
	if !r.Returned.Done {
		line = " · to be returned:"
	}
	if !r.Returned.Amount.IsZero() {
		line += " " + money.Format(r.Returned.Amount, r.Asset.Decimals, "$")
	}
	switch r.Returned.Kind {
	case string(purchase.ByReturn):
		return line + " by guarantee" // of what was promised
	case string(purchase.ByCredit):
		return line + " as credit"
	}
	return line + " by " + r.Returned.Kind
}

type recordKey struct{}

// record is the purchase behind an answer. Its row changes once more if the receipt comes behind the body.
type record struct {
	payer *Payer
	mu    sync.Mutex
	row   row // guarded by mu
}

func (r *record) settle(ctx context.Context, receipt *x402.SettleResponse) {
	r.mu.Lock()
	r.row.settle(receipt, r.payer.Now())
	r.payer.confirm(ctx, &r.row)
	row := r.row
	r.mu.Unlock()
	r.payer.write(row)
}

// Receipt returns what an answer cost that came through a [Payer], and false for one that was not paid for. An answer that
// is charged by what it streams tells only once its body is read to the end; until then the whole amount counts.
func Receipt(resp *http.Response) (Purchase, bool) {
	if resp == nil || resp.Request == nil {
		return Purchase{}, false
	}
	rec, ok := resp.Request.Context().Value(recordKey{}).(*record)
	if !ok {
		return Purchase{}, false
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return rec.payer.receipt(rec.row), true
}

// Receipts returns every purchase in the journal, the oldest first. One in memory keeps the newest few thousand.
func (p *Payer) Receipts() ([]Purchase, error) {
	rows, err := p.journal.rows()
	if err != nil {
		return nil, errJournal(p.Journal, err)
	}
	list := make([]Purchase, len(rows))
	for i, r := range rows {
		list[i] = p.receipt(r)
	}
	return list, nil
}

// ReceiptOf returns a purchase in the journal. An error with code not_found says that there is none.
func (p *Payer) ReceiptOf(id string) (Purchase, error) {
	r, ok, err := p.journal.find(id)
	if err != nil {
		return Purchase{}, errJournal(p.Journal, err)
	}
	if !ok {
		return Purchase{}, x402.Errorf("not_found", "no purchase %s in the journal", clip(id)).WithHint("--receipt all lists them; --journal FILE names another")
	}
	return p.receipt(r), nil
}

// receipt is a row with what is known of its bundle.
func (p *Payer) receipt(r row) Purchase {
	out := r.receipt()
	if b, ok := p.journal.counted(r); ok {
		out.Bundle = &b
	}
	return out
}

func (r row) receipt() Purchase {
	out := Purchase{
		ID: r.ID, State: r.State, At: r.At, Method: r.Method, URL: r.URL, Way: r.wayName(), Network: r.Network,
		Asset: money.Asset{Symbol: r.Symbol, Decimals: r.Decimals, Dollar: true}, Address: r.Asset, Payee: r.Payee,
		Signed: r.Amount, Charged: r.Charged, Digest: r.Digest, Code: r.Code, Proven: r.Proven, Transaction: r.Tx, Assumed: r.assumed(),
		Credit: r.Credit, Attest: r.Attest, Returned: r.Returned,
	}
	var w x402.SettleResponse
	if len(r.Receipt) == 0 || json.Unmarshal(r.Receipt, &w) != nil || len(w.Certificate) == 0 {
		return out
	}
	if cert, err := r.certificate(w.Certificate); err == nil {
		out.Certificate = cert
	}
	return out
}

var errOtherCertificate = errors.New("certificate is of something else")

// certificate reads a certificate and compares what it certifies with what was signed.
func (r row) certificate(raw json.RawMessage) (*guarantee.Certificate, error) {
	var cert guarantee.Certificate
	if err := json.Unmarshal(raw, &cert); err != nil {
		return nil, err
	}
	domain, _, claims, err := guarantee.DecodeClaims(cert.Claims)
	if err != nil {
		return nil, err
	}
	d := guarantee.Deployment{ChainID: r.ChainID, Vault: r.Vault}
	if domain != d.DomainOf(claims.Version()) || claims.ReqID != r.Terms || claims.Payee != r.Payee || claims.Asset != r.Asset || claims.Amount != r.Amount {
		return nil, errOtherCertificate
	}
	return &cert, nil
}
