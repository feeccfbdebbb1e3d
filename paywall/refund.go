package paywall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// Cashier pays money back on a chain, from the payee's key. Implementations are safe for concurrent use and durable: what
// was asked for once is sent once, across restarts.
type Cashier interface {
	// Pay sends amount of a token to an address on the network with a CAIP-2 name. The same id again asks what became of
	// the first: it returns the transaction once it is deep enough, false while it is not, and an [*x402.Error] if it
	// certainly was not and will not be paid.
	Pay(ctx context.Context, id, network string, token, to evm.Address, amount money.Amount) (tx evm.Hash, done bool, err error)
}

// Return says how a refund is given.
type Return struct {
	Amount money.Amount // 0: all that was charged
	Credit bool         // keep it for the payer's next purchase from this seller
	Reason string       // for the records and the payer
}

// Refund gives back what a purchase was charged, once per purchase: by a transfer, by a lower note until the cutoff of the
// guarantee's cycle and by a guarantee the other way after it, by its calls to the bundle that it drew from, or as credit. A job that is still open is let go. The
// same refund again returns the one there is. Errors are [*x402.Error]: not_found, refund_refused, refund_exists for another
// one, and config_invalid if nobody here can pay it.
func (pw *Paywall) Refund(ctx context.Context, id string, how Return) (purchase.Refund, error) {
	p, err := pw.Purchase(ctx, id)
	switch {
	case err != nil:
		return purchase.Refund{}, err
	case p.State == purchase.Void:
		return purchase.Refund{}, x402.Errorf("refund_refused", "purchase %s was not charged%s", p.ID, because(p.Outcome))
	case p.State != purchase.Committed:
		return purchase.Refund{}, x402.Errorf("refund_refused", "purchase %s is %s: nothing is charged yet", p.ID, p.State).
			WithHint("a job is let go with farthing charge --void; anything else ends by itself")
	}
	r, err := pw.refundOf(ctx, p, how)
	if err != nil {
		return r, err
	}
	if known, ok, err := pw.cfg.Purchases.FindRefund(ctx, id); err != nil {
		return r, bookDown(err)
	} else if ok {
		if !known.Same(r) {
			return known, x402.Errorf("refund_exists", "purchase %s was refunded at %s already, by %s", p.ID, known.At.UTC().Format(time.RFC3339), known.Kind)
		}
		return known, nil
	}
	r, err = pw.cfg.Purchases.Refund(ctx, r)
	switch {
	case errors.Is(err, purchase.ErrRefunded):
		return r, x402.Errorf("refund_exists", "purchase %s was refunded already", p.ID)
	case errors.Is(err, purchase.ErrTooMuch), errors.Is(err, purchase.ErrState):
		return r, x402.Errorf("refund_refused", "%w", err)
	case err != nil:
		return r, bookDown(err)
	}
	pw.log.Info("purchase refunded", "purchase", p.ID, "kind", r.Kind, "amount", r.Amount, "calls", r.Calls, "reason", r.Reason)
	return pw.giveNow(ctx, p, r)
}

// Refunding goes on with the refund of a purchase, and returns it as it stands. The error is why that is not possible now.
func (pw *Paywall) Refunding(ctx context.Context, id string) (purchase.Refund, error) {
	p, err := pw.Purchase(ctx, id)
	if err != nil {
		return purchase.Refund{}, err
	}
	r, ok, err := pw.cfg.Purchases.FindRefund(ctx, id)
	switch {
	case err != nil:
		return r, bookDown(err)
	case !ok:
		return r, x402.Errorf("not_found", "purchase %s has no refund", p.ID)
	}
	if r.State != purchase.Queued {
		return r, nil
	}
	return pw.give(ctx, p, r)
}

// refundOf decides what is given back for a purchase that was charged.
func (pw *Paywall) refundOf(ctx context.Context, p purchase.Purchase, how Return) (r purchase.Refund, err error) {
	r = purchase.Refund{Purchase: p.ID, State: purchase.Queued, Amount: how.Amount, Reason: clip(how.Reason), At: pw.cfg.Now()}
	if r.Amount.IsZero() {
		r.Amount = p.Charged
	}
	switch {
	case p.DrawsOnly():
		if !how.Amount.IsZero() || how.Credit {
			return r, x402.Errorf("refund_refused", "purchase %s was paid out of a bundle: its calls come back, not money", p.ID)
		}
		r.Kind, r.Amount, r.Calls, r.State = purchase.ByCalls, money.Amount{}, p.Draws, purchase.Done
		return r, nil
	case p.Charged.Less(r.Amount):
		return r, x402.Errorf("refund_refused", "purchase %s was charged %s, and %s cannot come back", p.ID, p.Charged, r.Amount)
	case p.Buys > 0:
		b, ok, err := pw.cfg.Purchases.FindBundle(ctx, p.ID)
		if err != nil || !ok {
			return r, bookDown(err)
		}
		r.Calls = b.Remaining
		if how.Amount.IsZero() {
			r.Amount = p.Charged.Share(b.Remaining, b.Total)
		}
		if r.Calls == 0 {
			return r, x402.Errorf("refund_refused", "nothing is left of bundle %s", p.ID)
		}
	}
	switch {
	case how.Credit:
		r.Kind, r.State = purchase.ByCredit, purchase.Done
	case p.Way == guarantee.Scheme:
		return pw.refundByNote(ctx, p, r)
	case pw.cfg.Cashier == nil:
		return r, x402.Errorf("config_invalid", "purchase %s is refunded by a transfer on %s, and nobody here can send one", p.ID, p.Network).
			WithHint("farthing refund --rpc-url URL with the payee's key, or --as-credit")
	default:
		r.Kind = purchase.ByTransfer
	}
	return r, nil
}

// refundByNote signs that the payee takes less than it was charged while its cycle can still be lowered, and afterwards
// that it owes the payer.
func (pw *Paywall) refundByNote(ctx context.Context, p purchase.Purchase, r purchase.Refund) (purchase.Refund, error) {
	g := guarantees{pw}
	if !g.lowers() {
		return r, x402.Errorf("config_invalid", "purchase %s is refunded by the payee's signature, which takes its key", p.ID)
	}
	if last, ok := g.lastNote(p); ok && pw.cfg.Now().After(last) {
		if pw.named() {
			return r, x402.Errorf("refund_refused", "purchase %s was cleared at %s: now only the key of %s can give it back", p.ID, last.UTC().Format(time.RFC3339), pw.payee).
				WithHint("keep it for the buyer: --as-credit")
		}
		return pw.signLate(ctx, p, r, purchase.ByGuarantee)
	}
	left, enough := beyond(p.Charged, p.Credit).Sub(r.Amount)
	if !enough {
		return r, x402.Errorf("refund_refused", "purchase %s was paid with %s of credit, which no signature gives back", p.ID, p.Credit).
			WithHint("keep it for the buyer: --as-credit")
	}
	note, err := pw.lower(ctx, p.Payment, left, "refund")
	if err != nil {
		return r, asError(err, "house_unreachable")
	}
	r.Kind, r.Proof = purchase.ByNote, note
	return r, nil
}

// giveBack refunds a purchase that was paid before its work and whose seller said that nothing is to be charged.
func (pw *Paywall) giveBack(ctx context.Context, p purchase.Purchase) {
	how := Return{Reason: p.Outcome, Credit: pw.cfg.Cashier == nil}
	if _, err := pw.Refund(ctx, p.ID, how); err != nil {
		pw.log.Error("a purchase that was paid before its work is to be refunded, and could not be", "purchase", p.ID, "error", err)
	}
}

// giveNow does what can be done at once for a refund, and leaves the rest to the paywall's goroutine.
func (pw *Paywall) giveNow(ctx context.Context, p purchase.Purchase, r purchase.Refund) (purchase.Refund, error) {
	if r.State != purchase.Queued {
		return r, nil
	}
	done, err := pw.give(ctx, p, r)
	if err != nil {
		pw.log.Warn("refund is under way", "purchase", p.ID, "kind", r.Kind, "error", err)
		return r, nil
	}
	return done, nil
}

// give carries a queued refund out, or finds out what became of it.
func (pw *Paywall) give(ctx context.Context, p purchase.Purchase, r purchase.Refund) (purchase.Refund, error) {
	var tx evm.Hash
	var failed *x402.Error
	switch r.Kind {
	case purchase.ByTransfer:
		if pw.cfg.Cashier == nil {
			return r, fmt.Errorf("refund of %s: nobody here can send it", p.ID)
		}
		sent, done, err := pw.cfg.Cashier.Pay(ctx, "refund:"+p.ID, p.Network, p.Asset, p.Payer, r.Amount)
		switch {
		case errors.As(err, &failed):
		case err != nil:
			return r, err
		case !done:
			return r, nil
		}
		tx = sent
	case purchase.ByNote:
		if pw.house == nil {
			return r, fmt.Errorf("refund of %s: no clearing house is set up", p.ID)
		}
		var note guarantee.SignedNote
		if err := json.Unmarshal(r.Proof, &note); err != nil {
			return r, err
		}
		outcomes, err := pw.house.Notes(ctx, []guarantee.SignedNote{note})
		if err == nil && len(outcomes) == 1 {
			err = outcomes[0]
		}
		switch {
		case tooLate(err) && !pw.named():
			if r, err = pw.signLate(ctx, p, r, purchase.ByGuarantee); err == nil {
				err = pw.cfg.Purchases.FinishRefund(ctx, r)
			}
			if err != nil {
				return r, err
			}
			return pw.give(ctx, p, r)
		case err != nil && pw.hopeless(p, err):
			failed = asCoded(err)
		case err != nil:
			return r, err
		}
	case purchase.ByGuarantee, purchase.ByReturn:
		var err error
		if r, err = pw.giveLate(ctx, p, r); errors.As(err, &failed) && !lasting(failed) {
			failed = nil
		}
		if err != nil && failed == nil {
			return r, err
		}
	}
	r.State, r.Transaction, r.DoneAt = purchase.Done, tx, pw.cfg.Now()
	if failed != nil {
		r.State, r.Reason = purchase.Failed, failed.Code+": "+clip(failed.Error())
		pw.log.Error("refund failed: the payer is owed it", "purchase", p.ID, "kind", r.Kind, "error", failed)
	}
	err := pw.cfg.Purchases.FinishRefund(ctx, r)
	if errors.Is(err, purchase.ErrState) { // another gate was faster
		if now, ok, e := pw.cfg.Purchases.FindRefund(ctx, p.ID); e == nil && ok && now.State == r.State {
			return now, nil
		}
	}
	return r, err
}

// giveQueued carries out refunds that are left over.
func (pw *Paywall) giveQueued(ctx context.Context) error {
	open, err := pw.cfg.Purchases.OpenRefunds(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range open {
		p, ok, err := pw.cfg.Purchases.FindID(ctx, r.Purchase)
		if err == nil && ok && p.Payee == pw.payee {
			_, err = pw.give(ctx, p, r)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// reserve reserves a purchase, and what its payer has as credit goes into it. Without part, a payment cannot be lowered and
// only credit for all of it is used.
func (pw *Paywall) reserve(ctx context.Context, p purchase.Purchase, part bool) (purchase.Purchase, error) {
	book := pw.cfg.Purchases
	has, err := book.Credit(ctx, p.Payer, p.Payee, p.Network, p.Asset)
	if err != nil {
		return p, err
	}
	if has = money.Min(has, p.Cap); part || has == p.Cap {
		p.Credit = has
	}
	got, err := book.Reserve(ctx, p)
	if errors.Is(err, purchase.ErrNoCredit) { // another request was faster
		p.Credit = money.Amount{}
		return book.Reserve(ctx, p)
	}
	return got, err
}

// beyond is the part of a charge that credit does not pay.
func beyond(charge, credit money.Amount) money.Amount {
	rest, ok := charge.Sub(credit)
	if !ok { // there is more credit
		return money.Amount{}
	}
	return rest
}
