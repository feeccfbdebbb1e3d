package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/x402"
)

// Facilitator is a clearing house as sellers of plain x402 see it: it verifies a guarantee, and settles it by having it
// certified. What it settles is a promise that is backed; there is no transaction. Make one with [Client.Facilitator].
type Facilitator struct {
	client *Client

	mu       sync.Mutex
	verifier *guarantee.Verifier // guarded by mu; nil until the parameters are known
}

var _ x402.Facilitator = (*Facilitator)(nil)

// Facilitator returns the clearing house as an [x402.Facilitator].
func (c *Client) Facilitator() *Facilitator { return &Facilitator{client: c} }

// Verify implements [x402.Facilitator]. It checks the offer, then the payer's signature; collateral only counts when the
// guarantee is settled.
func (f *Facilitator) Verify(ctx context.Context, p x402.Payment, r x402.Requirements) (x402.VerifyResponse, error) {
	params, err := f.client.Params(ctx)
	if err != nil {
		return x402.VerifyResponse{}, err
	}
	s, refusal := check(p, r, params.Deployment)
	if refusal != nil {
		return x402.VerifyResponse{InvalidReason: refusal.Code, InvalidMessage: refusal.Message}, nil
	}
	return x402.VerifyResponse{IsValid: true, Payer: s.Claims.Payer.String()}, nil
}

// Settle implements [x402.Facilitator]. It makes the checks of Verify, has the guarantee certified, and checks the
// certificate. Settling the same payment again gives an equally good certificate, and charges nothing anew: whoever sells
// must itself see to it that one payment buys once.
func (f *Facilitator) Settle(ctx context.Context, p x402.Payment, r x402.Requirements) (x402.SettleResponse, error) {
	params, err := f.client.Params(ctx)
	if err != nil {
		return x402.SettleResponse{}, err
	}
	s, refusal := check(p, r, params.Deployment)
	if refusal != nil {
		return refusedSettle(r, refusal), nil
	}
	verifier, err := f.verifierOf(params)
	if err != nil {
		return x402.SettleResponse{}, err
	}
	cert, err := f.client.Certify(ctx, s)
	if err != nil {
		var e *x402.Error
		if errors.As(err, &e) && e.Reason().Status < 500 {
			return refusedSettle(r, e), nil
		}
		return x402.SettleResponse{}, err
	}
	if _, err := verifier.Verify(cert, s.Claims); err != nil {
		code := "certificate_invalid"
		if errors.Is(err, guarantee.ErrMismatch) || errors.Is(err, guarantee.ErrForeign) {
			code = "certificate_mismatch"
		}
		return x402.SettleResponse{}, x402.Errorf(code, "clearing house: %w", err)
	}
	raw, err := json.Marshal(cert)
	if err != nil {
		return x402.SettleResponse{}, x402.Errorf("internal", "certificate: %w", err)
	}
	return x402.SettleResponse{
		Success: true, Payer: s.Claims.Payer.String(), Network: r.Network, NetworkID: r.Network, Amount: s.Claims.Amount.String(), Certificate: raw,
	}, nil
}

// Supported implements [x402.Facilitator].
func (f *Facilitator) Supported(ctx context.Context) (x402.Supported, error) {
	params, err := f.client.Params(ctx)
	if err != nil {
		return x402.Supported{}, err
	}
	network := caip2(params.Deployment)
	return x402.Supported{
		Kinds: []x402.Kind{
			{X402Version: 1, Scheme: guarantee.Scheme, Network: network}, {X402Version: 2, Scheme: guarantee.Scheme, Network: network},
		},
		Extensions: []string{}, Signers: map[string][]string{},
	}, nil
}

// check makes the checks that need nobody else, in the order: scheme, network, payload, offer, signature.
func check(p x402.Payment, r x402.Requirements, d guarantee.Deployment) (guarantee.Signed, *x402.Error) {
	fail := func(code, format string, args ...any) (guarantee.Signed, *x402.Error) {
		return guarantee.Signed{}, x402.Errorf(code, format, args...)
	}
	if p.Scheme != guarantee.Scheme || r.Scheme != guarantee.Scheme {
		return fail("payment_mismatch", "scheme is not %s", guarantee.Scheme)
	}
	if p.Network != r.Network || r.Network != caip2(d) {
		return fail("payment_mismatch", "network is not %s", caip2(d))
	}
	s, err := guarantee.ParsePayload(p.Payload)
	if err != nil {
		return fail("payment_undecodable", "%w", err)
	}
	if err := guarantee.Matches(s, r); err != nil {
		return fail("payment_mismatch", "%w", err)
	}
	// Whether a text signature counts is the clearing house's to say.
	switch _, err := s.Verify(d.ClaimsSeparator(), guarantee.Rules{EIP191: true}); {
	case errors.Is(err, evm.ErrHighS):
		return fail("high_s", "%w", err)
	case err != nil:
		return fail("payer_signature_invalid", "%w", err)
	}
	return s, nil
}

func refusedSettle(r x402.Requirements, e *x402.Error) x402.SettleResponse {
	return x402.SettleResponse{ErrorReason: e.Code, ErrorMessage: e.Message, Error: e.Message, Network: r.Network, NetworkID: r.Network}
}

func (f *Facilitator) verifierOf(p Params) (*guarantee.Verifier, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.verifier == nil {
		v, err := guarantee.NewVerifier(p.Key, p.Deployment)
		if err != nil { // the parameters were checked when they were read
			return nil, fmt.Errorf("clearing house: %w", err)
		}
		f.verifier = v
	}
	return f.verifier, nil
}

func caip2(d guarantee.Deployment) string { return "eip155:" + strconv.FormatUint(d.ChainID, 10) }
