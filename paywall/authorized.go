package paywall

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// authorized is a transfer that was signed.
type authorized struct {
	*transfer
	exact.Authorization
	sent  x402.Payment
	needs time.Duration // how long from now it must be good: as long as the route's jobs take
}

func (s authorized) facts() facts {
	a := s.Authorization
	return facts{a.ID(), a.From, a.To, a.Asset, a.Amount, a.Nonce}
}

// check compares the authorization with what was agreed; a fault of its times is returned apart.
func (s authorized) check(a *agreement, now time.Time) (wrong, late *x402.Error) {
	r := s.terms(a.tender, a.quote, transferLasts)
	if words := settlersWords[s.Scheme]; words != nil {
		_, kind, err := s.facilitator(context.Background(), r.Network)
		if err != nil {
			return internal(err), nil
		}
		for _, name := range words {
			r.Extra[name] = kind.Extra[name]
		}
	}
	err := s.Check(r, now)
	if err == nil && s.needs > 0 {
		err = s.Check(r, now.Add(s.needs))
	}
	if err == nil {
		return nil, nil
	}
	e := internal(err)
	if untimely[e.Code] {
		return nil, e
	}
	return e, nil
}

// untimely are the codes of an authorization that was good at another time.
var untimely = map[string]bool{
	"invalid_exact_evm_payload_authorization_valid_before": true, "invalid_exact_evm_payload_authorization_valid_after": true,
	"permit2_deadline_expired": true, "permit2_not_yet_valid": true, "payment_expired": true,
}

func (s authorized) fits(a *agreement) *x402.Error {
	wrong, _ := s.check(a, s.pw.cfg.Now())
	if wrong == nil && s.Amount != a.quote.Amount {
		wrong = x402.Errorf("payment_mismatch", "signed for %s, this request takes %s", show(s.Amount, a.token), show(a.quote.Amount, a.token))
	}
	return wrong
}

func (s authorized) late(a *agreement, now time.Time) *x402.Error {
	_, late := s.check(a, now)
	return late
}

// verify checks a key's signature here. What is no key's may be a contract's, which the chain judges: the facilitator asks
// it, before anything is reserved for it.
func (s authorized) verify(v *visit, a *agreement) *x402.Error {
	err := s.Signed()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exact.ErrContractSignature) && a != nil:
		return s.ask(context.WithoutCancel(v.r.Context()), v, a)
	}
	return internal(err)
}

// reserve reserves the payment for a request, or on a route that sells bundles a part of one.
func (s authorized) reserve(ctx context.Context, a *agreement, p purchase.Purchase) (purchase.Purchase, error) {
	if a.tariff.bundle == nil {
		return s.pw.reserve(ctx, p, s.lowers())
	}
	b := a.tariff.bundle
	return s.pw.draw(ctx, p, purchase.BundleAsk{Draw: a.draws(), Buy: b.units, Valid: b.valid, Lease: s.pw.lease(), RunAt: s.pw.cfg.Now()})
}

// request is what a facilitator is asked about a purchase, and what the purchase keeps so that it can be asked again.
func (s authorized) request(v *visit, a *agreement) ([]byte, error) {
	r := s.terms(a.tender, a.quote, s.lasts(v.route))
	for _, name := range settlersWords[s.Scheme] {
		r.Extra[name] = s.sent.Accepted.Extra[name] // it was compared
	}
	if v.settleWithin > 0 {
		r.Extra["settleWithin"], _ = json.Marshal(int(v.settleWithin / time.Second))
	}
	sent := s.sent
	if sent.Resource == nil {
		sent.Resource = &x402.Resource{URL: v.resource, Description: v.description, MimeType: v.mimeType}
	}
	return json.Marshal(x402.FacilitatorRequest{Payment: sent, Requirements: r})
}

// secure has the facilitator verify the transfer, or settle it where that comes before the work.
func (s authorized) secure(v *visit, a *agreement, p purchase.Purchase) (purchase.Purchase, *x402.Error) {
	ctx := context.WithoutCancel(v.r.Context())
	if p.State == purchase.Running {
		return p, nil // it draws from a bundle, and began as it was reserved
	}
	if p.DrawsOnly() || p.Credit == p.Cap {
		return v.start(p, nil) // the signature only proves who asks: it is not sent anywhere, and not kept
	}
	request, err := s.request(v, a)
	if err != nil {
		return p, internal(err)
	}
	if purchase.Completion(a.quote.Completion) != purchase.BeforeWork && p.Buys == 0 && !p.Settling {
		e := s.ask(ctx, v, a)
		if e == nil {
			return v.start(p, request)
		}
		// Somebody else may have brought it to the chain already. Then the seller has its money, and whose signature is for
		// this very request gets what it paid for. Any other could have been spent at another of the seller's books.
		if !nonceUsed[e.Code] || s.lowers() || a.purchase == "" || a.paymentID != "" {
			return p, e
		}
	}
	if p.Transaction.IsZero() {
		again := p.Settling
		if again && s.pw.beingAsked(p.ReservedAt) {
			return p, pending(p, evm.Hash{}, errors.New("another gate may be settling it"))
		}
		if err := s.pw.cfg.Purchases.Settling(ctx, p.ID, request); errors.Is(err, purchase.ErrState) {
			return p, errMoved
		} else if err != nil {
			return p, bookDown(err)
		}
		p.Settling, p.Certificate = true, request
		var e *x402.Error
		if p, e = s.settleFirst(ctx, p, again); e != nil {
			return p, e
		}
	}
	return v.start(p, request)
}

// ask has the facilitator verify.
func (s authorized) ask(ctx context.Context, v *visit, a *agreement) *x402.Error {
	f, _, err := s.facilitator(ctx, a.chain.CAIP2())
	if err != nil {
		return internal(err)
	}
	raw, err := s.request(v, a)
	if err != nil {
		return internal(err)
	}
	var q x402.FacilitatorRequest
	if err := json.Unmarshal(raw, &q); err != nil {
		return internal(err)
	}
	answer, err := f.Verify(ctx, q.Payment, q.Requirements)
	switch {
	case err != nil:
		return facilitatorDown(err)
	case !answer.IsValid:
		return refusal(answer.InvalidReason, answer.InvalidMessage)
	case isOther(answer.Payer, s.From):
		return x402.Errorf("facilitator_fault", "the facilitator verified a payment of %s, and this one is of %s", clip(answer.Payer), s.From)
	}
	return nil
}

// refusal is what a facilitator says is wrong with a payment.
func refusal(reason, message string) *x402.Error {
	code := reason
	if _, ok := x402.Lookup(code); !ok {
		code = "payment_refused"
	}
	e := &x402.Error{Code: code, Message: clipTo(message, 300)}
	if e.Message == "" && code == "payment_refused" {
		e.Message = "the facilitator refuses it: " + clip(reason)
	}
	if refusedBy(e) {
		return e
	}
	return &x402.Error{Code: "payment_refused", Message: strings.TrimSuffix(clip(reason)+": "+e.Error(), ": ")}
}
