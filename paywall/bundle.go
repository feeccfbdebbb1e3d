package paywall

import (
	"context"
	"errors"
	"time"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// bundleOffer is what an offer says to programs about the bundle that it sells.
type bundleOffer struct {
	Units uint64 `json:"units"`
	Unit  string `json:"unit"`
	Valid string `json:"valid"` // a duration as Go writes it, from when it is paid
	Route string `json:"route"` // the seller's name of it: what else the bundle may be drawn for
}

// bundleState is what a receipt says about the bundle that a request drew from.
type bundleState struct {
	ID        string `json:"id"`
	Unit      string `json:"unit"`
	Total     uint64 `json:"total"`
	Remaining uint64 `json:"remaining"`
	Expires   int64  `json:"expires"` // unix seconds
	Drawn     uint64 `json:"drawn"`   // by this request
}

// bundleState looks up the bundle of a purchase; nil if it has none, or it cannot be told now.
func (pw *Paywall) bundleState(ctx context.Context, p purchase.Purchase) *bundleState {
	if p.Bundle == "" {
		return nil
	}
	b, ok, err := pw.cfg.Purchases.FindBundle(context.WithoutCancel(ctx), p.Bundle)
	if err != nil || !ok {
		return nil
	}
	return &bundleState{b.ID, b.Unit, b.Total, b.Remaining, b.ValidUntil.Unix(), p.Draws}
}

// draws is how many units of a bundle a request may use at most.
func (a *agreement) draws() uint64 {
	if measuredLater(a.tariff.price) {
		return max(1, min(a.rate.Within(a.cap), a.tariff.bundle.units))
	}
	return 1
}

// lease is how long a request that buys a bundle may take to say so.
func (pw *Paywall) lease() time.Duration {
	if pw.cfg.Abandoned > 0 {
		return pw.cfg.Abandoned
	}
	return time.Minute
}

// pollBuying is how often it is looked whether another request's bundle has been paid.
const pollBuying = 25 * time.Millisecond

// draw reserves a purchase against a bundle. While another request buys one, it waits for that.
func (pw *Paywall) draw(ctx context.Context, p purchase.Purchase, ask purchase.BundleAsk) (purchase.Purchase, error) {
	patience := time.NewTimer(max(pw.cfg.Wait, buyingWait))
	defer patience.Stop()
	poll := time.NewTicker(pollBuying)
	defer poll.Stop()
	for {
		got, _, err := pw.cfg.Purchases.ReserveCall(ctx, p, ask)
		switch {
		case errors.Is(err, purchase.ErrNoBundle):
			return got, x402.Errorf("bundle_exhausted", "nothing is left of bundle %s, or it is over", clip(ask.Bundle))
		case !errors.Is(err, purchase.ErrBuying):
			return got, err
		}
		select {
		case <-poll.C:
		case <-patience.C:
			return got, x402.Errorf("payment_in_progress", "another request is buying the bundle that this one draws from")
		}
	}
}

// buyingWait is how long a request waits for another one's bundle: as long as a slow block takes.
const buyingWait = 20 * time.Second

// readDraw reads a request that draws from a bundle.
func (w *transfer) readDraw(v *visit, p *x402.Payment, among []tender) (payment, *x402.Error) {
	d, err := purchase.ReadDraw(p.Payload)
	if err != nil {
		return nil, x402.Errorf("payment_undecodable", "payload: %w", err)
	}
	if p.Accepted == nil {
		return nil, x402.Errorf("payment_undecodable", "payload: a draw needs the offer that it accepts")
	}
	for _, in := range among {
		if sameToken(*p.Accepted, in) {
			return drawn{w, d, in}, nil
		}
	}
	return nil, x402.Errorf("payment_mismatch", "draws in asset %s, which this route does not take", clip(p.Accepted.Asset))
}

func sameToken(r x402.Requirements, in tender) bool {
	t, err := in.chain.Token(r.Asset)
	return err == nil && t.Address == in.token.Address
}

// drawn is a request that is paid out of a bundle, and says so itself: nothing in it can move money.
type drawn struct {
	*transfer
	purchase.Draw
	in tender
}

func (d drawn) digest() [32]byte { return d.Draw.Digest(d.in.chain.ID, d.pw.payee) }

func (d drawn) facts() facts {
	return facts{d.digest(), d.Payer, d.pw.payee, d.in.token.Address, money.Amount{}, d.Terms}
}

func (d drawn) fits(a *agreement) *x402.Error {
	if a.tariff.bundle == nil {
		return x402.Errorf("payment_mismatch", "draws from bundle %s, and this route sells none", clip(d.Bundle))
	}
	return nil
}

func (d drawn) late(_ *agreement, now time.Time) *x402.Error {
	if err := d.Draw.Window(now); err != nil {
		return x402.Errorf("timestamp_skew", "%w", err)
	}
	return nil
}

func (d drawn) verify(*visit, *agreement) *x402.Error {
	if err := d.Draw.Verify(d.in.chain.ID, d.pw.payee); err != nil {
		return x402.Errorf("payer_signature_invalid", "the signature is not of payer %s: %w", d.Payer, err)
	}
	return nil
}

func (d drawn) reserve(ctx context.Context, a *agreement, p purchase.Purchase) (purchase.Purchase, error) {
	return d.pw.draw(ctx, p, purchase.BundleAsk{Bundle: d.Bundle, Draw: a.draws(), RunAt: d.pw.cfg.Now()})
}

func (d drawn) secure(v *visit, _ *agreement, p purchase.Purchase) (purchase.Purchase, *x402.Error) {
	if p.State == purchase.Running {
		return p, nil
	}
	return v.start(p, nil) // another gate reserved it, and left it
}
