package payer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// Purchase is what a purchase came to, as far as its payer knows. See [Receipt].
type Purchase struct {
	ID          string
	State       State
	At          time.Time
	Method, URL string
	Way         string // way to pay: guarantee
	Network     string // CAIP-2
	Asset       money.Asset
	Address     evm.Address // of the asset
	Payee       evm.Address
	Signed      money.Amount // most that it could have cost
	Charged     money.Amount // what it costs; 0 unless State is Charged
	Digest      evm.Hash     // of what was signed: names a guarantee at its clearing house
	Code        string       // why it is void, or not known
	// Proven says that what was signed and not charged cannot be charged any more: the payee signed so, or the payment
	// never left.
	Proven bool
	// Certificate is the clearing house's, nil if there is none or it does not certify what was signed. Its signature is
	// not checked: that is the payee's concern.
	Certificate *guarantee.Certificate
}

// String is one line for a person.
func (r Purchase) String() string {
	sum := money.Format(r.Charged, r.Asset.Decimals, "$")
	switch r.State {
	case Charged:
		return fmt.Sprintf("paid %s to %s by %s · purchase %s", sum, r.Payee.Short(), r.Way, r.ID)
	case Void:
		return fmt.Sprintf("not charged by %s · purchase %s", r.Payee.Short(), r.ID)
	}
	return fmt.Sprintf("not confirmed: %s to %s by %s · purchase %s", money.Format(r.Signed, r.Asset.Decimals, "$"), r.Payee.Short(), r.Way, r.ID)
}

type recordKey struct{}

// record is the purchase behind an answer. Its row changes once more if the receipt comes behind the body.
type record struct {
	payer *Payer
	mu    sync.Mutex
	row   row // guarded by mu
}

func (r *record) settle(receipt *x402.SettleResponse) {
	r.mu.Lock()
	r.row.settle(receipt, r.payer.Now())
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
	return rec.row.receipt(), true
}

// Receipts returns every purchase in the journal, the oldest first. One in memory keeps the newest few thousand.
func (p *Payer) Receipts() ([]Purchase, error) {
	rows, err := p.journal.rows()
	if err != nil {
		return nil, errJournal(p.Journal, err)
	}
	list := make([]Purchase, len(rows))
	for i, r := range rows {
		list[i] = r.receipt()
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
		return Purchase{}, x402.Errorf("not_found", "no purchase %s in the journal", clip(id))
	}
	return r.receipt(), nil
}

func (r row) receipt() Purchase {
	out := Purchase{
		ID: r.ID, State: r.State, At: r.At, Method: r.Method, URL: r.URL, Way: r.way(), Network: r.Network,
		Asset: money.Asset{Symbol: r.Symbol, Decimals: r.Decimals, Dollar: true}, Address: r.Asset, Payee: r.Payee,
		Signed: r.Amount, Charged: r.Charged, Digest: r.Digest, Code: r.Code, Proven: r.Proven,
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

// way is what people call the row's way to pay.
func (r row) way() string {
	if w, ok := wayOf(r.scheme()); ok {
		return w.name()
	}
	return clip(r.Scheme)
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
	if domain != d.CertificateDomain() || claims.ReqID != r.Terms || claims.Payee != r.Payee || claims.Asset != r.Asset || claims.Amount != r.Amount {
		return nil, errOtherCertificate
	}
	return &cert, nil
}
