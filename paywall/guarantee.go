package paywall

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// verifier is what is needed to judge guarantees of one clearing house without asking it.
type verifier struct {
	params    client.Params
	separator evm.Hash
	window    guarantee.Window
	certs     *guarantee.Verifier
}

// verifierNow returns the clearing house's verifier. It asks until the clearing house answers once.
func (pw *Paywall) verifierNow(ctx context.Context) (*verifier, error) {
	pw.mu.Lock()
	known := pw.verifier
	pw.mu.Unlock()
	if known != nil {
		return known, nil
	}
	params, err := pw.house.Params(ctx)
	if err != nil {
		return nil, asError(err, "house_unreachable")
	}
	if params.Deployment.ChainID != pw.chain.ID {
		return nil, x402.Errorf("house_refused", "the clearing house clears on chain %d, this route sells on %s", params.Deployment.ChainID, pw.chain)
	}
	certs, err := guarantee.NewVerifier(params.Key, params.Deployment)
	if err != nil {
		return nil, x402.Errorf("house_refused", "the clearing house's key: %w", err)
	}
	v := &verifier{
		params: params, separator: params.Deployment.ClaimsSeparator(), certs: certs,
		window: guarantee.Window{Past: params.TimestampPast, Ahead: params.TimestampFuture},
	}
	setDefault(&v.window.Past, guarantee.DefaultPast)
	setDefault(&v.window.Ahead, guarantee.DefaultAhead)
	pw.mu.Lock()
	defer pw.mu.Unlock()
	pw.verifier = v
	return v, nil
}

// skew reports a timestamp outside the window, which the clearing house would refuse.
func skew(w guarantee.Window, c guarantee.Claims, now time.Time) *x402.Error {
	err := w.Check(c, now)
	switch {
	case errors.Is(err, guarantee.ErrFuture):
		return x402.Errorf("timestamp_skew", "your clock is %d s ahead of the seller's; %d s are allowed", c.Timestamp-uint64(max(now.Unix(), 0)), w.Ahead/time.Second)
	case err != nil:
		return x402.Errorf("timestamp_skew", "signed %d s ago; %d s are allowed", uint64(max(now.Unix(), 0))-c.Timestamp, w.Past/time.Second)
	}
	return nil
}

// verifyPayer checks the payer's own signature.
func (pw *Paywall) verifyPayer(v *verifier, s guarantee.Signed) *x402.Error {
	// A text signature names no deployment. Whether it counts is the clearing house's policy; it says so when it certifies.
	_, err := s.Verify(v.separator, guarantee.Rules{EIP191: true})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, evm.ErrHighS):
		return x402.Errorf("high_s", "%w", err)
	}
	return x402.Errorf("payer_signature_invalid", "the signature is not of payer %s: %w", s.Claims.Payer, err)
}

// certify has a guarantee certified and verifies what comes back, every field of it. since is when its payment was
// reserved: a clearing house whose answer was lost certifies again for the cycle that it admitted the guarantee to then.
func (pw *Paywall) certify(ctx context.Context, v *verifier, s guarantee.Signed, since time.Time) (guarantee.Certificate, *x402.Error) {
	cert, err := pw.house.Certify(ctx, s)
	if err != nil {
		var e *x402.Error
		if !errors.As(err, &e) {
			e = &x402.Error{Code: "house_unreachable", Message: "cannot certify payments: the clearing house does not answer", Err: err}
		}
		switch e.Reason().Status {
		case http.StatusPaymentRequired, http.StatusConflict, http.StatusServiceUnavailable:
			return guarantee.Certificate{}, e
		}
		// What is wrong between us and the clearing house is not the buyer's fault, and must not read as if it were.
		return guarantee.Certificate{}, &x402.Error{Code: "house_refused", Message: "the clearing house does not certify for this seller: " + e.Error(), Err: e}
	}
	cycle, err := v.certs.Verify(cert, s.Claims)
	switch {
	case errors.Is(err, guarantee.ErrMismatch) || errors.Is(err, guarantee.ErrForeign):
		return guarantee.Certificate{}, x402.Errorf("certificate_mismatch", "the clearing house certified something else: %w", err)
	case err != nil:
		return guarantee.Certificate{}, x402.Errorf("certificate_invalid", "the clearing house's certificate does not verify: %w", err)
	case !cycleLives(v.params.Schedules, s.Claims.Asset, cycle, since, pw.cfg.Now()):
		return guarantee.Certificate{}, x402.Errorf("certificate_mismatch", "the clearing house certified for a cycle that is over, or not yet begun")
	}
	return cert, nil
}

// cyclesBack bounds the search for the cycle of a certificate.
const cyclesBack = 64

// cycleLives reports whether a certificate's cycle took notes still at since, and has begun by now. A clearing house that
// puts a guarantee into a cycle long netted would leave the payee with nothing. A house without a schedule for the asset
// is believed.
func cycleLives(schedules []client.Schedule, asset evm.Address, cycle evm.Hash, since, now time.Time) bool {
	listed := false
	at, earliest := uint64(now.Unix()), uint64(since.Unix())
	for _, s := range schedules {
		length, cutoff := uint64(s.Length/time.Second), uint64(s.Cutoff/time.Second)
		if s.Asset != asset || length == 0 {
			continue
		}
		listed = true
		// The house's clock may be a little ahead of ours.
		last := at + uint64(guarantee.DefaultAhead/time.Second)
		for _, later := range schedules {
			if later.Asset == asset && later.From > s.From && later.From <= last {
				last = later.From - 1
			}
		}
		if last < s.From {
			continue
		}
		start := s.From + (last-s.From)/length*length
		for range cyclesBack {
			if start+length+cutoff+uint64(guarantee.DefaultAhead/time.Second) < earliest {
				break
			}
			if guarantee.CycleID(asset, start) == cycle {
				return true
			}
			if start < s.From+length {
				break
			}
			start -= length
		}
	}
	return !listed
}

// evidence is what a purchase keeps as the proof of its payment: with both signatures the payee can be paid even if the
// operator disappears.
type evidence struct {
	Guarantee   guarantee.Signed `json:"guarantee"`
	Certificate json.RawMessage  `json:"certificate"` // [guarantee.Certificate]
}

// signTime is how long a remote key may take. The buyer waits for it, and the worker tries again.
const signTime = 5 * time.Second

// lower signs a note that the payee takes no more than amount of a guarantee, and returns its JSON.
func (pw *Paywall) lower(ctx context.Context, v *verifier, payment evm.Hash, amount money.Amount, outcome string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, signTime)
	defer cancel()
	signed, err := guarantee.SignNote(ctx, pw.cfg.Signer, v.params.Deployment, noteOf(payment, amount, outcome))
	if err != nil {
		return nil, err
	}
	return json.Marshal(signed)
}

func noteOf(payment evm.Hash, amount money.Amount, outcome string) guarantee.Note {
	note := guarantee.Note{Digest: payment, Amount: amount}
	if outcome != "" {
		note.Reason = evm.Keccak256([]byte(outcome))
	}
	return note
}

// unsigned is what a pending purchase keeps in place of its proof: the note that is still to be signed.
func unsigned(payment evm.Hash, amount money.Amount, outcome string) []byte {
	b, _ := json.Marshal(noteOf(payment, amount, outcome)) // two hashes and an amount: cannot fail
	return b
}
