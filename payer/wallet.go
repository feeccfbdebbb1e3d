package payer

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// Wallet tells what chains know of the payer's account. What it cannot tell it returns an error for; then the payer goes
// on without knowing. It has to be safe for concurrent use.
type Wallet interface {
	// Networks returns the ids of the chains that it can ask.
	Networks() []uint64
	// Balance returns what an account holds of a token.
	Balance(ctx context.Context, chainID uint64, token, owner evm.Address) (money.Amount, error)
	// Allowance returns what Permit2 may take of an account's token.
	Allowance(ctx context.Context, chainID uint64, token, owner evm.Address) (money.Amount, error)
	// PermitNonce returns the account's next nonce for permits (EIP-2612) of a token.
	PermitNonce(ctx context.Context, chainID uint64, token, owner evm.Address) (money.Amount, error)
	// Used reports whether the nonce of an authorization is used up, as of the time of the newest block. Of the
	// authorization only Method, ChainID, Asset, From and Nonce are looked at.
	Used(ctx context.Context, a exact.Authorization) (used bool, asOf time.Time, err error)
	// Moved returns what a transaction moved of a token from one account to another. A transaction that is not on the
	// chain, or failed, is an error.
	Moved(ctx context.Context, chainID uint64, tx evm.Hash, token, from, to evm.Address) (money.Amount, error)
}

// Approver is a [Wallet] that can sign a transaction which allows Permit2 to take a token, without sending it: whoever
// settles the payment broadcasts it and pays its gas. It is asked only where the seller says so.
type Approver interface {
	Approval(ctx context.Context, chainID uint64, token evm.Address) (raw []byte, err error)
}

// chainSlack is how far past an authorization's end a chain must be before an unused nonce says that it is over: a block
// that could have carried it may still be exchanged for another one.
const chainSlack = 5 * time.Minute

// shortage says why an offer that could be signed would not be paid by the chain.
type shortage struct {
	code  string
	have  money.Amount // in the offer's asset
	known bool         // whether have is
}

// afford asks the wallet whether the account holds what an offer asks for, and what Permit2 needs beside the signature.
// Nil is yes, or not known.
func (l *look) afford(o *option, t terms) *shortage {
	if l.Wallet == nil || !o.transfers() || o.stock != nil {
		return nil
	}
	owner, token := l.Key.Address(), o.token.Address
	held, err := l.Wallet.Balance(l.ctx, o.chain.ID, token, owner)
	if err != nil {
		l.Log.Debug("balance not known", "network", o.chain.Name, "asset", o.token.Symbol, "error", err)
		return nil
	}
	if held.Less(o.amount) {
		return &shortage{"insufficient_funds", held, true}
	}
	if o.method != exact.Permit2 {
		return nil
	}
	allowed, err := l.Wallet.Allowance(l.ctx, o.chain.ID, token, owner)
	if err != nil || !allowed.Less(o.amount) {
		return nil
	}
	if _, offered := t.Extensions[exact.PermitExtension]; offered && o.token.EIP2612 {
		if o.permitNonce, err = l.Wallet.PermitNonce(l.ctx, o.chain.ID, token, owner); err == nil {
			o.sponsor = exact.PermitExtension
			return nil
		}
	}
	if _, offered := t.Extensions[exact.ApprovalExtension]; offered {
		if _, can := l.Wallet.(Approver); can {
			o.sponsor = exact.ApprovalExtension
			return nil
		}
	}
	return &shortage{code: "permit2_allowance_required"}
}

// holdings names what dollars the account holds and where, as far as the wallet knows and the policy would spend them:
// "USDC on base".
func (l *look) holdings() (held []string) {
	if l.Wallet == nil {
		return nil
	}
	for _, id := range l.Wallet.Networks() {
		chain, ok := l.registry.ByID(id)
		if !ok || !l.onNetwork(chain) {
			continue
		}
		for _, token := range chain.Dollars() {
			if !l.inAsset(chain, token.Address) {
				continue
			}
			if a, err := l.Wallet.Balance(l.ctx, id, token.Address, l.Key.Address()); err == nil && !a.IsZero() {
				held = append(held, fmt.Sprintf("%s on %s", token.Symbol, chain.Name))
			}
		}
	}
	return held
}

// authorization is what a wallet needs to find the nonce of a row's authorization.
func (r row) authorization() exact.Authorization {
	return exact.Authorization{Method: r.Transfer, ChainID: r.ChainID, Asset: r.Asset, From: r.Payer, Nonce: r.Nonce}
}

// moved asks the chain what the transaction of a receipt moved, where the receipt says less than what was signed. What is
// on the chain counts, in place of the seller's word.
func (p *Payer) moved(ctx context.Context, r *row) {
	if p.Wallet == nil || r.Proven || r.State == Sent || r.Transfer == "" {
		return
	}
	tx, err := evm.ParseHash(r.Tx)
	if err != nil {
		return
	}
	a, err := p.Wallet.Moved(ctx, r.ChainID, tx, r.Asset, r.Payer, r.Payee)
	if err != nil || a.IsZero() { // this transaction did not pay; another one still may
		return
	}
	// A nonce is used once, so this transaction is all that can be charged, unless it is another purchase's.
	used, _, err := p.Wallet.Used(ctx, r.authorization())
	if err != nil || !used {
		return
	}
	if shared, err := p.journal.sharesTransaction(*r); err != nil || shared {
		return
	}
	r.State, r.Charged, r.Proven = Charged, money.Min(a, r.Amount), true
}

// Recheck asks the chain about payments whose outcome is not known, or rests on a seller's word, and whose time is over.
// One whose nonce is unused can never be charged any more; one whose nonce is used was charged. It returns how many it
// settled. Without a [Wallet] it does nothing.
func (p *Payer) Recheck(ctx context.Context) (settled int, err error) {
	if p.Wallet == nil {
		return 0, nil
	}
	rows, err := p.journal.rows()
	if err != nil {
		return 0, errJournal(p.Journal, err)
	}
	for _, r := range rows {
		if changed, err := p.recheck(ctx, &r); err != nil {
			p.Log.Debug("outcome of a payment not known by the chain", "purchase", r.ID, "error", err)
		} else if changed {
			settled++
		}
	}
	return settled, nil
}

// recheck does it for one purchase.
func (p *Payer) recheck(ctx context.Context, r *row) (changed bool, err error) {
	if p.Wallet == nil || r.Transfer == "" || r.Transfer == exact.Legacy || r.Proven || r.State == Reserved {
		return false, nil
	}
	end := time.Unix(int64(r.ValidBefore), 0)
	over := p.Now().After(end.Add(chainSlack))
	if !over && r.State != Sent {
		return false, nil
	}
	used, asOf, err := p.Wallet.Used(ctx, r.authorization())
	switch {
	case err != nil:
		return false, err
	case used && r.State == Charged && r.Scheme == exact.UptoScheme: // how much, only its transaction tells
		return false, nil
	case used:
		now := p.Now()
		r.State, r.Charged, r.Proven, r.Code, r.DoneAt = Charged, r.Amount, true, "", &now
	case over && asOf.After(end.Add(chainSlack)):
		now := p.Now()
		r.State, r.Charged, r.Proven, r.DoneAt = Void, money.Amount{}, true, &now
		if r.Code == "" {
			r.Code = "payment_expired"
		}
	default:
		return false, nil
	}
	return true, p.journal.record(*r, false)
}

// Unconfirmed returns the newest purchase of a request, of a day or less ago, whose outcome is not known; false if there is
// none. With a [Wallet] the chain is asked about it first.
func (p *Payer) Unconfirmed(ctx context.Context, method string, u *url.URL, body []byte) (Purchase, bool, error) {
	var found *row
	want := row{Payer: p.Key.Address(), Method: method, URL: withoutFragment(u), BodyHash: purchase.BodyDigest(body)}
	now := p.Now()
	err := p.journal.eachOpen(func(r row) {
		same := r.State == Sent && r.resource() == want.resource() && r.BodyHash == want.BodyHash
		if same && now.Sub(r.At) < 24*time.Hour && (found == nil || found.At.Before(r.At)) {
			found = &r
		}
	})
	if err != nil {
		return Purchase{}, false, errJournal(p.Journal, err)
	}
	if found == nil {
		return Purchase{}, false, nil
	}
	if changed, err := p.recheck(ctx, found); err == nil && changed && found.State == Void {
		return Purchase{}, false, nil
	}
	return p.receipt(*found), true, nil
}

// eachOpen calls fn for every purchase that is reserved, or whose outcome is not known.
func (j *journal) eachOpen(fn func(row)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.locked(func() error {
		for _, r := range j.open {
			fn(r)
		}
		return nil
	})
}
