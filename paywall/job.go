package paywall

import (
	"context"
	"time"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// DefaultJob is how long a purchase stays open whose handler answered 202, unless its route says. A guarantee's stays open
// no longer than its cycle can still be lowered.
const DefaultJob = 2 * time.Minute

// Complete charges a job: a purchase whose handler answered 202. units are what it used; 0 charges what was signed, or on a
// route with stages all of them. Errors are [*x402.Error]: not_found, job_closed if it is charged or let go already, and
// settlement_pending while it is not known whether the money moved; then the paywall finds out by itself.
func (pw *Paywall) Complete(ctx context.Context, id string, units uint64) (purchase.Purchase, error) {
	return pw.endJob(ctx, id, func(p *purchase.Purchase) {
		p.State, p.Units, p.Charged = purchase.Committed, units, p.Cap
		if units > 0 {
			p.Charged = pw.chargeOf(*p, units)
		}
	})
}

// Cancel lets a job go that failed, except for the stages that it reached; reason is a code for the records and the buyer.
func (pw *Paywall) Cancel(ctx context.Context, id, reason string) (purchase.Purchase, error) {
	return pw.endJob(ctx, id, func(p *purchase.Purchase) {
		p.State, p.Charged, p.Outcome = purchase.Void, p.Owed, clip(reason)
		if !p.Owed.IsZero() {
			p.State = purchase.Committed
		}
	})
}

// Reach says that a job has reached a stage of the price that it was sold at: what that earns is charged even if the rest
// fails.
func (pw *Paywall) Reach(ctx context.Context, id, stage string) error {
	p, err := pw.job(ctx, id)
	if err != nil {
		return err
	}
	t, err := pw.tariffOf(p)
	if err != nil {
		return err
	}
	percent, ok := t.stages.upTo(stage)
	if !ok {
		return x402.Errorf("usage", "purchase %s was sold without a stage %q", p.ID, clip(stage))
	}
	return pw.cfg.Purchases.Owe(ctx, p.ID, earned(p.Cap, percent))
}

// Purchase returns a purchase of the book. The error is [*x402.Error] with code not_found if there is none.
func (pw *Paywall) Purchase(ctx context.Context, id string) (purchase.Purchase, error) {
	p, ok, err := pw.cfg.Purchases.FindID(ctx, id)
	switch {
	case err != nil:
		return p, bookDown(err)
	case !ok:
		return p, x402.Errorf("not_found", "no purchase %s in this book", clip(id)).
			WithHint("ids stand in the gate's lines and in receipts; --book names another book")
	}
	return p, nil
}

// Token returns the token that a purchase was paid in; one that is not known any more has no name.
func (pw *Paywall) Token(p purchase.Purchase) network.Token {
	on, err := pw.registry.Lookup(p.Network)
	if err != nil {
		return network.Token{}
	}
	token, _ := on.Token(p.Asset.String())
	return token
}

// Show writes an amount of a purchase as its price was written: $0.0005.
func (pw *Paywall) Show(a money.Amount, p purchase.Purchase) string { return show(a, pw.Token(p)) }

// job finds an open job.
func (pw *Paywall) job(ctx context.Context, id string) (purchase.Purchase, error) {
	p, err := pw.Purchase(ctx, id)
	if err == nil && p.State != purchase.Working {
		err = x402.Errorf("job_closed", "purchase %s is %s%s", p.ID, p.State, because(p.Outcome))
	}
	return p, err
}

func (pw *Paywall) endJob(ctx context.Context, id string, decide func(*purchase.Purchase)) (purchase.Purchase, error) {
	p, ok, err := pw.cfg.Purchases.FindID(ctx, id)
	if err == nil && ok {
		leave, others := pw.join(p.Payment)
		for leave == nil {
			select {
			case <-others:
			case <-ctx.Done():
				return p, ctx.Err()
			}
			leave, others = pw.join(p.Payment)
		}
		defer leave()
	}
	if p, err = pw.job(ctx, id); err != nil {
		return p, err
	}
	w, known := pw.wayOf(p)
	if !known {
		return p, x402.Errorf("config_invalid", "purchase %s was paid by %s, which is not set up here", p.ID, p.Way)
	}
	decide(&p)
	p.Owed = money.Amount{}
	if p.State == purchase.Void {
		p.Answer, p.Draws = nil, 0
	}
	p.DoneAt = pw.cfg.Now()
	p, refusal := w.end(context.WithoutCancel(ctx), p)
	if refusal != nil {
		// Another process on the same book may have been faster.
		if now, ok, err := pw.cfg.Purchases.FindID(ctx, id); err != nil || !ok || now.State != purchase.Committed {
			return p, refusal
		}
	}
	pw.log.Info("job ended", "purchase", p.ID, "state", p.State, "charged", p.Charged, "outcome", p.Outcome)
	return p, nil
}

// tariffOf reads back the price that a purchase was sold at.
func (pw *Paywall) tariffOf(p purchase.Purchase) (tariff, error) {
	t, err := parseTariff(p.Price)
	if err != nil {
		return t, x402.Errorf("internal", "purchase %s: price %q: %w", p.ID, clip(p.Price), err)
	}
	return t, nil
}

// chargeOf is what units of a purchase come to, at the price that it was sold at and within what was signed.
func (pw *Paywall) chargeOf(p purchase.Purchase, units uint64) money.Amount {
	t, err := pw.tariffOf(p)
	if err != nil {
		return p.Cap
	}
	c, err := t.in(pw.Token(p))
	if err != nil {
		return p.Cap
	}
	return money.Min(c.rate.Charge(units, c.minimum, money.MaxAmount()), p.Cap)
}
