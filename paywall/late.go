package paywall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
	"github.com/farthing402/farthing/x402"
)

// coverMax is how many claims are named to back a refund, the most that a clearing house looks at.
const coverMax = 256

// lateRule is announced with what becomes of the part of a promise that is not charged, where that may be known late.
const lateRule = "; after the cutoff of its cycle it comes back by a guarantee of the seller's"

// tooLate reports whether a note is refused because what it lets go is in the net already, or is to be.
func tooLate(err error) bool {
	var e *x402.Error
	return errors.As(err, &e) && (e.Code == "note_too_late" || e.Code == "note_pledged")
}

// lasting reports whether a refund that the clearing house refuses would be refused for ever. Collateral and claims come
// and go.
func lasting(e *x402.Error) bool {
	status := e.Reason().Status
	return status == http.StatusBadRequest || status == http.StatusNotFound
}

// signLate signs that the payee owes the payer what a refund gives back. There is one request id for a purchase, so that
// signing again replaces what was not admitted and cannot add to what was.
func (pw *Paywall) signLate(ctx context.Context, p purchase.Purchase, r purchase.Refund, kind purchase.RefundKind) (purchase.Refund, error) {
	v, err := pw.verifierNow(ctx)
	if err != nil {
		return r, err
	}
	id, ok := purchase.IDBytes(p.ID)
	if !ok {
		return r, x402.Errorf("internal", "purchase %s has an id that no request id can carry", clip(p.ID))
	}
	ctx, cancel := context.WithTimeout(ctx, signTime)
	defer cancel()
	signed, err := guarantee.Sign(ctx, pw.cfg.Signer, v.params.Deployment, guarantee.Claims{
		Payer: p.Payee, Payee: p.Payer, Asset: p.Asset, ReqID: guarantee.RefundID(id), Amount: r.Amount, Timestamp: uint64(max(pw.cfg.Now().Unix(), 0)),
	})
	if err != nil {
		return r, err
	}
	r.Kind = kind
	r.Proof, err = json.Marshal(evidence{Guarantee: signed})
	return r, err
}

// giveLate has the guarantee of a refund certified, and keeps the certificate with it. One whose timestamp has become too
// old was not admitted, and is signed again.
func (pw *Paywall) giveLate(ctx context.Context, p purchase.Purchase, r purchase.Refund) (purchase.Refund, error) {
	if pw.house == nil || pw.cfg.Signer == nil || pw.named() {
		return r, fmt.Errorf("refund of %s: it takes a clearing house, and the payee's own key", p.ID)
	}
	v, err := pw.verifierNow(ctx)
	if err != nil {
		return r, err
	}
	for again := true; ; again = false {
		var e evidence
		if err := json.Unmarshal(r.Proof, &e); err != nil {
			return r, err
		}
		cover, err := pw.claims(ctx, v, p)
		if err != nil {
			return r, err
		}
		cert, err := pw.house.Refund(ctx, e.Guarantee, cover)
		if old := (*x402.Error)(nil); again && errors.As(err, &old) && old.Code == "timestamp_skew" {
			if r, err = pw.signLate(ctx, p, r, r.Kind); err == nil {
				err = pw.cfg.Purchases.FinishRefund(ctx, r)
			}
			if err != nil {
				return r, err
			}
			continue
		}
		if err != nil {
			return r, err
		}
		if _, err := v.certs.Verify(cert, e.Guarantee.Claims); err != nil {
			return r, fmt.Errorf("refund of %s: the clearing house's certificate does not verify: %w", p.ID, err)
		}
		if e.Certificate, err = json.Marshal(cert); err == nil {
			r.Proof, err = json.Marshal(e)
		}
		return r, err
	}
}

// claims are what the payee has earned in the cycle that is open and can no longer be lowered: only what is charged and
// past every note is named, so that no buyer is charged too much because its claim backs another's refund.
func (pw *Paywall) claims(ctx context.Context, v *verifier, p purchase.Purchase) (cover []evm.Hash, err error) {
	open, _, listed := openCycle(v.params.Schedules, p.Asset, pw.cfg.Now())
	if !listed {
		return nil, nil
	}
	charged, err := pw.cfg.Purchases.Captured(ctx, p.Payee, guarantee.Scheme, p.Network, p.Asset, 4*coverMax)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(charged, func(a, b purchase.Purchase) int { return b.Charged.Cmp(a.Charged) }) // few of them are to do
	for _, c := range charged {
		if len(cover) == coverMax {
			break
		}
		var e evidence
		var cert guarantee.Certificate
		if json.Unmarshal(c.Certificate, &e) != nil || json.Unmarshal(e.Certificate, &cert) != nil {
			continue
		}
		if _, cycle, _, err := guarantee.DecodeClaims(cert.Claims); err == nil && cycle == open {
			cover = append(cover, c.Payment)
		}
	}
	return cover, nil
}

// returnLate answers a note that came too late: what it was to let go the payee owes the payer now. It is written down
// before the note is forgotten, and carried out like any refund.
func (pw *Paywall) returnLate(ctx context.Context, p purchase.Purchase, note guarantee.SignedNote) error {
	back, ok := p.Cap.Sub(note.Amount)
	if !ok || back.IsZero() {
		return nil
	}
	r := purchase.Refund{Purchase: p.ID, State: purchase.Queued, Amount: back, Reason: p.Outcome, At: pw.cfg.Now()}
	r, err := pw.signLate(ctx, p, r, purchase.ByReturn)
	if err != nil {
		return err
	}
	r, err = pw.cfg.Purchases.Refund(ctx, r)
	switch {
	case errors.Is(err, purchase.ErrRefunded):
		return nil // somebody has given it back in another way
	case err != nil:
		return err
	}
	pw.log.Warn("a note came too late: what it lets go is given back by a guarantee", "purchase", p.ID, "amount", back)
	_, err = pw.giveNow(ctx, p, r)
	return err
}

// refundState is what a receipt says about a refund.
type refundState struct {
	Kind   purchase.RefundKind  `json:"kind"`
	State  purchase.RefundState `json:"state"`
	Amount money.Amount         `json:"amount"`
	Proof  json.RawMessage      `json:"proof,omitempty"` // of one that is done
}

// refundState is nil for a purchase of which nothing is given back.
func (pw *Paywall) refundState(ctx context.Context, p purchase.Purchase) *refundState {
	r, ok, err := pw.cfg.Purchases.FindRefund(ctx, p.ID)
	if err != nil || !ok || r.State == purchase.Failed {
		return nil
	}
	s := &refundState{Kind: r.Kind, State: r.State, Amount: r.Amount}
	if r.State == purchase.Done && r.Kind.Signed() {
		s.Proof = r.Proof
	}
	return s
}
