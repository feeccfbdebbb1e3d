package exact

import (
	"context"
	"fmt"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// backdate is by how much the clients of x402 version 1 and of T402 set validAfter before their clock.
const backdate = 600

// Pay signs the transfer that an offer asks for, by the method that the offer names. Whether the price, the payee and
// the token are to be trusted is for the caller to have judged. Errors are [*x402.Error] for an offer that no payment can
// meet, otherwise the signer's.
//
// A nonce pays once: with EIP-3009 and Permit2 the chain sees to that, so a payment that is signed again under its nonce
// can never be charged twice. The transfer is valid from the beginning of time, as far as versions 1 and T402 do not ask
// for ten minutes ago, until now + maxTimeoutSeconds.
func Pay(ctx context.Context, key evm.Signer, offer x402.Requirements, nonce evm.Hash, now time.Time) (Authorization, error) {
	a, err := unsigned(key.Address(), offer, nonce, now)
	if err != nil {
		return Authorization{}, err
	}
	sig, err := key.Sign(ctx, a.Digest())
	if err != nil {
		return Authorization{}, fmt.Errorf("sign %s payment to %s: %w", a.Scheme, a.To, err)
	}
	a.Signature = sig[:]
	return a, nil
}

func unsigned(from evm.Address, offer x402.Requirements, nonce evm.Hash, now time.Time) (a Authorization, err error) {
	fail := func(code, format string, args ...any) (Authorization, error) {
		return Authorization{}, x402.Errorf(code, "offer: "+format, args...)
	}
	a = Authorization{Scheme: offer.Scheme, Method: EIP3009, From: from, Nonce: nonce}
	method := offer.ExtraString("assetTransferMethod")
	switch {
	case a.Scheme == LegacyScheme:
		a.Method = Legacy
	case a.Scheme != Scheme && a.Scheme != UptoScheme:
		return fail("unsupported_scheme", "scheme %q", clip(a.Scheme))
	case method == string(Permit2), method == "" && a.Scheme == UptoScheme:
		a.Method = Permit2
	case method != "" && method != string(EIP3009), a.Scheme == UptoScheme:
		return fail("unsupported_payload_type", "method %q in scheme %s", clip(method), a.Scheme)
	}
	if a.ChainID, err = chainID(offer.Network); err != nil {
		return fail("invalid_network", "%w", err)
	}
	want, err := wanted(offer)
	if err != nil {
		return Authorization{}, err
	}
	a.Asset, a.To, a.Amount = want.asset, want.payTo, want.amount
	a.Name, a.Version = domainOf(offer, a.Method)
	if a.Method == EIP3009 && (a.Name == "" || a.Version == "") {
		return fail("invalid_exact_evm_missing_eip712_domain", "extra does not name the signing domain of token %s", a.Asset)
	}
	switch {
	case offer.MaxTimeoutSeconds <= 0:
		return fail("invalid_payment_requirements", "maxTimeoutSeconds is %d", offer.MaxTimeoutSeconds)
	case now.Unix() < backdate:
		return fail("invalid_payment_requirements", "cannot be answered at %s", now)
	case a.Method == Permit2 && a.Amount.IsZero():
		return fail("invalid_payment_requirements", "amount 0, which Permit2 cannot move")
	}
	start := uint64(now.Unix())
	a.ValidBefore = start + uint64(offer.MaxTimeoutSeconds)
	if offer.NetworkSent != "" || offer.ExtraString("tokenType") != "" { // version 1, or T402
		a.ValidAfter = start - backdate
	}
	switch a.Method {
	case Permit2:
		a.Spender = ExactProxy
		if a.Scheme == UptoScheme {
			a.Spender = UptoProxy
			if a.Facilitator, err = evm.ParseAddress(offer.ExtraString("facilitatorAddress")); err != nil {
				return fail("invalid_payment_requirements", "extra.facilitatorAddress: %w", err)
			}
		}
	case Legacy:
		if a.Spender, err = evm.ParseAddress(offer.ExtraString("spender")); err != nil {
			return fail("invalid_spender", "extra.spender: %w", err)
		}
	}
	return a, nil
}

// Sponsored returns the authorization with a permit (EIP-2612) that allows Permit2 to move just its amount until its
// deadline, for a payer whose allowance is lower and who would rather not pay gas. The nonce is the token's nonces(From).
// The facilitator has to offer [PermitExtension].
func (a Authorization) Sponsored(ctx context.Context, key evm.Signer, nonce money.Amount) (Authorization, error) {
	if a.Method != Permit2 || key.Address() != a.From || a.Name == "" || a.Version == "" {
		return Authorization{}, x402.Errorf("invalid_eip2612_extension_format",
			"permit for a payment by %s from %s: it needs Permit2, the payer's key, and the token's signing domain", a.Method, a.From)
	}
	deadline := money.Units(a.ValidBefore)
	p := Permit{From: a.From, Asset: a.Asset, Spender: Permit2Address, Amount: a.Amount, Nonce: nonce, Deadline: deadline}
	sig, err := key.Sign(ctx, p.Digest(a))
	if err != nil {
		return Authorization{}, fmt.Errorf("sign permit of %s: %w", a.From, err)
	}
	p.Signature = sig[:]
	a.Permit, a.Approval = &p, nil
	return a, nil
}

// Approved returns the authorization with a transaction by which the payer allows Permit2 to move the token, for a token
// without permits. Whoever settles broadcasts it, and has to offer [ApprovalExtension]. The transaction is checked as a
// facilitator will check it.
func (a Authorization) Approved(raw []byte) (Authorization, error) {
	p := Approval{From: a.From, Asset: a.Asset, Spender: Permit2Address, Amount: unlimited, Raw: raw}
	a.Permit, a.Approval = nil, &p
	if err := p.check(a); err != nil {
		return Authorization{}, err
	}
	return a, nil
}

// unlimited is what approvals that are sponsored are for.
var unlimited = func() money.Amount {
	var word evm.Hash
	for i := range word {
		word[i] = 0xff
	}
	return number(word)
}()
