package facilitator

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// House is a clearing house whose guarantees are verified and settled here; [*client.Client] is one. Its certificates are
// not trusted. Errors are [*x402.Error].
type House interface {
	Params(context.Context) (client.Params, error)
	// CertifyAlone has a guarantee admitted and certified by a signature of its own: 4Mica's clients know no other.
	CertifyAlone(context.Context, guarantee.Signed) (guarantee.Certificate, error)
	// Balance and Guarantee may refuse to tell.
	Balance(ctx context.Context, payer, asset evm.Address) (client.Balance, error)
	Guarantee(ctx context.Context, digest evm.Hash) (client.Guarantee, error)
}

// promises settles guarantees of one clearing house: what it brings about is not a transfer but a certificate.
type promises struct {
	house House
	now   func() time.Time

	mu       sync.Mutex
	verifier *guarantee.Verifier // guarded by mu; nil until the house answered once
}

// network returns the CAIP-2 name of the house's chain.
func (p *promises) network(ctx context.Context) (string, error) {
	params, err := p.house.Params(ctx)
	return chainName(params), err
}

func chainName(p client.Params) string {
	return "eip155:" + strconv.FormatUint(p.Deployment.ChainID, 10)
}

// kinds are the entries of /supported: one for each version of x402, both of which carry every version of claims.
func (p *promises) kinds(ctx context.Context) ([]x402.Kind, error) {
	params, err := p.house.Params(ctx)
	if err != nil {
		return nil, err
	}
	vault, err := json.Marshal(params.Deployment.Vault)
	if err != nil {
		return nil, err
	}
	versions, err := json.Marshal(params.Versions)
	if err != nil {
		return nil, err
	}
	kind := x402.Kind{X402Version: 1, Scheme: guarantee.Scheme, Network: chainName(params), Extra: map[string]json.RawMessage{"vault": vault, "guaranteeVersions": versions}}
	second := kind
	second.X402Version = 2
	return []x402.Kind{kind, second}, nil
}

// read makes the checks that need nobody else, in this order: scheme, network, payload, the seller's terms, signature.
func (p *promises) read(ctx context.Context, pay x402.Payment, r x402.Requirements) (s guarantee.Signed, params client.Params, err error) {
	if params, err = p.house.Params(ctx); err != nil {
		return s, params, err
	}
	switch {
	case pay.Scheme != guarantee.Scheme || r.Scheme != guarantee.Scheme:
		return s, params, x402.Errorf("payment_mismatch", "the payment is by %s, the requirements ask for %s", clip(pay.Scheme), clip(r.Scheme))
	case pay.Network != r.Network:
		return s, params, x402.Errorf("payment_mismatch", "the payment is on %s, the requirements are on %s", clip(pay.Network), clip(r.Network))
	case pay.Accepted != nil && !sameTerms(*pay.Accepted, r):
		return s, params, x402.Errorf("payment_mismatch", "the payment accepts other terms than the requirements")
	}
	if s, err = guarantee.ParsePayload(pay.Payload); err != nil {
		return s, params, x402.Errorf("payment_undecodable", "%w", err)
	}
	if err := guarantee.Matches(s, r); err != nil {
		code := "payment_mismatch"
		if errors.Is(err, guarantee.ErrMalformed) {
			code = "invalid_payment_requirements"
		}
		return s, params, x402.Errorf(code, "%w", err)
	}
	if policy := s.Claims.Policy; policy != nil && !slices.Contains(params.Registries, policy.Registry) {
		return s, params, x402.Errorf("registry_untrusted", "the clearing house does not trust the registry %s", policy.Registry)
	}
	// Whether a text signature counts is the clearing house's to say.
	switch _, err := s.Verify(params.Deployment.ClaimsSeparator(), guarantee.Rules{EIP191: true}); {
	case errors.Is(err, evm.ErrHighS):
		return s, params, x402.Errorf("high_s", "%w", err)
	case err != nil:
		return s, params, x402.Errorf("payer_signature_invalid", "%w", err)
	}
	return s, params, nil
}

// sameTerms compares what a payment says it accepted with what its seller asks for, by value.
func sameTerms(a, r x402.Requirements) bool {
	amountA, errA := money.ParseAmount(a.Amount)
	amountR, errR := money.ParseAmount(r.Amount)
	a.Amount, a.MaxTimeoutSeconds, a.Extra = r.Amount, r.MaxTimeoutSeconds, nil
	r.Extra = nil
	return errA == nil && errR == nil && amountA == amountR && x402.Matches(a, r)
}

// verify also asks the house, as far as it tells, whether it would admit the guarantee now; nothing is locked by that. One
// that was admitted before is good, whatever its age.
func (p *promises) verify(ctx context.Context, pay x402.Payment, r x402.Requirements) (guarantee.Signed, error) {
	s, params, err := p.read(ctx, pay, r)
	if err != nil {
		return s, err
	}
	refused := p.late(s.Claims, params)
	if refused == nil {
		refused, err = p.short(ctx, s.Claims)
	}
	if refused == nil || err != nil {
		return s, err
	}
	known, err := p.house.Guarantee(ctx, s.Claims.Digest(params.Deployment.ClaimsSeparator()))
	switch {
	case silent(err):
		return s, err
	case err == nil && known.Signed.Claims.Equal(s.Claims):
		return s, nil
	}
	return s, refused
}

// late is the refusal of claims that were signed for another time than now; nil for none.
func (p *promises) late(c guarantee.Claims, params client.Params) error {
	window := guarantee.Window{Past: params.TimestampPast, Ahead: params.TimestampFuture}
	if window == (guarantee.Window{}) {
		window = guarantee.Window{Past: guarantee.DefaultPast, Ahead: guarantee.DefaultAhead}
	}
	if err := window.Check(c, p.now()); err != nil {
		return x402.Errorf("timestamp_skew", "%w", err)
	}
	return nil
}

// short is the refusal of a payer without enough free collateral; nil for one that has it, or of whom the house does not
// tell.
func (p *promises) short(ctx context.Context, c guarantee.Claims) (refused, err error) {
	b, err := p.house.Balance(ctx, c.Payer, c.Asset)
	if silent(err) {
		return nil, err
	}
	if err != nil || !b.Headroom.Less(c.Amount) {
		return nil, nil
	}
	e := x402.Errorf("collateral_insufficient", "guarantee of %s, %s of collateral is free", c.Amount, b.Headroom)
	e.Details = map[string]string{"asked": c.Amount.String(), "available": b.Headroom.String(), "asset": c.Asset.Lower()}
	return e, nil
}

// silent reports whether an error says that the house did not answer, as against that it does not tell.
func silent(err error) bool {
	e, ok := x402.AsError(err)
	return err != nil && (!ok || e.Reason().Status >= 500)
}

// settle has the guarantee certified, and compares every field of the certificate. Doing so again gives an equally good
// certificate, and charges nothing anew: whoever sells must itself see to it that one payment buys once.
func (p *promises) settle(ctx context.Context, pay x402.Payment, r x402.Requirements) (s guarantee.Signed, certificate json.RawMessage, err error) {
	s, params, err := p.read(ctx, pay, r)
	if err != nil {
		return s, nil, err
	}
	verifier, err := p.verifierOf(params)
	if err != nil {
		return s, nil, err
	}
	cert, err := p.house.CertifyAlone(ctx, s)
	if silent(err) {
		return s, nil, x402.Errorf("settlement_pending", "whether the guarantee is certified is not known: %w", err)
	}
	if err != nil {
		switch e, _ := x402.AsError(err); e.Reason().Status {
		case http.StatusPaymentRequired, http.StatusConflict:
			return s, nil, e
		}
		// What is wrong between us and the clearing house is not the payer's fault.
		return s, nil, x402.Errorf("house_refused", "the clearing house does not certify for this facilitator: %w", err)
	}
	if _, err := verifier.Verify(cert, s.Claims); err != nil {
		code := "certificate_invalid"
		if errors.Is(err, guarantee.ErrMismatch) || errors.Is(err, guarantee.ErrForeign) {
			code = "certificate_mismatch"
		}
		return s, nil, x402.Errorf(code, "clearing house: %w", err)
	}
	return s, prefixed(cert), nil
}

// prefixed writes a certificate as facilitators do, with 0x, where a clearing house writes none.
func prefixed(c guarantee.Certificate) json.RawMessage {
	return fmt.Appendf(nil, `{"claims":"0x%s","signature":"0x%s"}`, hex.EncodeToString(c.Claims), hex.EncodeToString(c.Signature[:]))
}

func (p *promises) verifierOf(params client.Params) (*guarantee.Verifier, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verifier == nil {
		v, err := guarantee.NewVerifier(params.Key, params.Deployment)
		if err != nil {
			return nil, x402.Errorf("house_refused", "the clearing house's key: %w", err)
		}
		p.verifier = v
	}
	return p.verifier, nil
}

// promisesOn finds the house that clears on a network (CAIP-2).
func (f *Facilitator) promisesOn(ctx context.Context, network string) (*promises, error) {
	var down error
	for _, p := range f.promises {
		name, err := p.network(ctx)
		if err == nil && name == network {
			return p, nil
		}
		if err != nil {
			down = err
		}
	}
	if down != nil {
		return nil, down
	}
	return nil, x402.Errorf("invalid_network", "guarantees on %q are not served", clip(network))
}

func (f *Facilitator) verifyPromise(ctx context.Context, pay x402.Payment, r x402.Requirements) (answer x402.VerifyResponse, err error) {
	p, err := f.promisesOn(ctx, r.Network)
	var s guarantee.Signed
	if err == nil {
		s, err = p.verify(ctx, pay, r)
	}
	reason, err := refusal(err)
	if err != nil {
		return answer, err
	}
	if !s.Claims.Payer.IsZero() {
		answer.Payer = s.Claims.Payer.String()
	}
	if answer.IsValid = reason == nil; reason != nil {
		answer.InvalidReason, answer.InvalidMessage = reason.Code, reason.Error()
	}
	return answer, nil
}

// settlePromise answers with x402's members and with those that 4Mica's clients read.
func (f *Facilitator) settlePromise(ctx context.Context, pay x402.Payment, r x402.Requirements) (x402.SettleResponse, error) {
	answer := x402.SettleResponse{Network: r.Network, NetworkID: r.Network}
	p, err := f.promisesOn(ctx, r.Network)
	var s guarantee.Signed
	if err == nil {
		s, answer.Certificate, err = p.settle(ctx, pay, r)
	}
	reason, err := refusal(err)
	if err != nil {
		return x402.SettleResponse{}, err
	}
	if !s.Claims.Payer.IsZero() {
		answer.Payer = s.Claims.Payer.String()
	}
	if reason != nil {
		answer.ErrorReason, answer.ErrorMessage, answer.Error = reason.Code, reason.Error(), reason.Error()
		return answer, nil
	}
	answer.Success, answer.Amount = true, s.Claims.Amount.String()
	return answer, nil
}

// tab answers the question for a request id.
func (f *Facilitator) tab(ctx context.Context, q x402.TabRequest) (x402.Tab, error) {
	network := q.Network
	if q.Terms != nil {
		if q.Terms.Scheme != guarantee.Scheme || network != "" && q.Terms.Network != network {
			return x402.Tab{}, x402.Errorf("malformed_request", "paymentRequirements are not %s on this network", guarantee.Scheme)
		}
		network = q.Terms.Network
	}
	var p *promises
	if network == "" && len(f.promises) == 1 {
		p = f.promises[0]
	} else {
		var err error
		if p, err = f.promisesOn(ctx, network); err != nil {
			return x402.Tab{}, err
		}
	}
	params, err := p.house.Params(ctx)
	if err != nil {
		return x402.Tab{}, err
	}
	version := q.Version
	if q.Terms != nil {
		if version = guarantee.VersionFor(*q.Terms); q.Version != 0 && q.Version != version {
			return x402.Tab{}, x402.Errorf("malformed_request", "paymentRequirements want a guarantee of version %d, not %d", version, q.Version)
		}
	}
	if version != 0 && !slices.Contains(params.Versions, version) {
		return x402.Tab{}, x402.Errorf("malformed_request", "guarantees of version %d are not taken here", version)
	}
	payee, asset, err := parties(q, params)
	if err != nil {
		return x402.Tab{}, err
	}
	return q.Tab(payee, asset, f.Now())
}

// parties are payee and asset of a question: what it says, else what its terms say; the asset else the first that is
// cleared.
func parties(q x402.TabRequest, params client.Params) (payee, asset evm.Address, err error) {
	if q.Terms != nil {
		if payee, err = evm.ParseAddress(q.Terms.PayTo); err == nil {
			asset, err = evm.ParseAddress(q.Terms.Asset)
		}
		if err != nil {
			return payee, asset, x402.Errorf("malformed_request", "paymentRequirements: %w", err)
		}
	}
	cleared := func(a evm.Address) bool {
		return slices.ContainsFunc(params.Schedules, func(s client.Schedule) bool { return s.Asset == a })
	}
	switch {
	case q.Payee != nil && q.Terms != nil && payee != *q.Payee, q.Asset != nil && q.Terms != nil && asset != *q.Asset:
		return payee, asset, x402.Errorf("malformed_request", "the question contradicts its paymentRequirements")
	case q.Payee != nil:
		payee = *q.Payee
	}
	switch {
	case q.Asset != nil:
		asset = *q.Asset
	case q.Terms == nil && len(params.Schedules) > 0:
		asset = params.Schedules[0].Asset
	}
	switch {
	case payee.IsZero():
		return payee, asset, x402.Errorf("malformed_request", "recipientAddress is missing")
	case len(params.Schedules) > 0 && !cleared(asset):
		return payee, asset, x402.Errorf("asset_unsupported", "asset %s is not cleared here", asset)
	}
	return payee, asset, nil
}
