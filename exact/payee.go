package exact

import (
	"errors"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// slack is how long an authorization has to stay valid at least, in seconds, so that there is time to settle it.
const slack = 6

// ErrContractSignature says that a signature is not made by the payer's key. It may still be good: the payer may be a
// contract, whose code on the chain is the judge.
var ErrContractSignature = errors.New("signature is not by the payer's key")

// codes are the reasons of one way to pay.
type codes struct {
	scheme, network, signature, recipient, expired, early, amount string
}

var (
	transferCodes = codes{
		"invalid_exact_evm_scheme", "invalid_exact_evm_network_mismatch", "invalid_exact_evm_signature", "invalid_exact_evm_recipient_mismatch",
		"invalid_exact_evm_payload_authorization_valid_before", "invalid_exact_evm_payload_authorization_valid_after",
		"invalid_exact_evm_payload_authorization_value_mismatch",
	}
	permit2Codes = codes{
		"unsupported_payload_type", "invalid_exact_evm_network_mismatch", "invalid_permit2_signature", "invalid_permit2_recipient_mismatch",
		"permit2_deadline_expired", "permit2_not_yet_valid", "permit2_amount_mismatch",
	}
	uptoCodes = codes{
		"invalid_upto_evm_scheme", "invalid_upto_evm_network_mismatch", "invalid_permit2_signature", "invalid_permit2_recipient_mismatch",
		"permit2_deadline_expired", "permit2_not_yet_valid", "permit2_amount_mismatch",
	}
	// Where T402's package has words of its own for what its text has a code for, the text's.
	legacyCodes = codes{
		"unsupported_scheme", "invalid_network", "invalid_exact_evm_payload_signature", "invalid_exact_evm_payload_recipient_mismatch",
		"authorization_expired", "authorization_not_yet_valid", "invalid_exact_evm_payload_authorization_value",
	}
)

func (a Authorization) code() *codes {
	switch {
	case a.Scheme == UptoScheme:
		return &uptoCodes
	case a.Method == Permit2:
		return &permit2Codes
	case a.Method == Legacy:
		return &legacyCodes
	}
	return &transferCodes
}

// want is what terms ask for, apart from scheme and network.
type want struct {
	asset, payTo evm.Address
	amount       money.Amount
}

func wanted(r x402.Requirements) (w want, err error) {
	if w.asset, err = evm.ParseAddress(r.Asset); err != nil {
		return want{}, x402.Errorf("invalid_payment_requirements", "requirements: asset: %w", err)
	}
	if w.payTo, err = evm.ParseAddress(r.PayTo); err != nil {
		return want{}, x402.Errorf("invalid_payment_requirements", "requirements: payTo: %w", err)
	}
	if w.payTo.IsZero() {
		return want{}, x402.Errorf("invalid_payment_requirements", "requirements: payTo is nobody's address")
	}
	if w.amount, err = decimal(r.Amount); err != nil {
		return want{}, x402.Errorf("invalid_payment_requirements", "requirements: amount: %w", err)
	}
	return w, nil
}

// fits checks that payment and terms speak of the same way to pay on the same chain.
func (a Authorization) fits(r x402.Requirements) error {
	if a.Scheme != r.Scheme || a.Scheme != Scheme && a.Scheme != UptoScheme && a.Scheme != LegacyScheme {
		code := "unsupported_scheme"
		switch r.Scheme {
		case Scheme:
			code = transferCodes.scheme
			if a.Method == Permit2 {
				code = permit2Codes.scheme
			}
		case UptoScheme:
			code = uptoCodes.scheme
		}
		return x402.Errorf(code, "payment is of scheme %q, terms of %q", clip(a.Scheme), clip(r.Scheme))
	}
	if a.Method == EIP3009 && a.Scheme == Scheme {
		if name, version := domainOf(r, a.Method); name == "" || version == "" {
			return x402.Errorf("invalid_exact_evm_missing_eip712_domain", "requirements: extra.name or extra.version is missing")
		}
	}
	if id, err := chainID(r.Network); err != nil || id != a.ChainID {
		return x402.Errorf(a.code().network, "payment is for chain %d, terms for %q", a.ChainID, clip(r.Network))
	}
	return nil
}

// Check checks everything but the signature against terms and a time, in the order of the published facilitators and
// with their codes; errors are [*x402.Error]. Chain and signature are what remains; [Authorization.Accept] checks the
// signature too, in its place.
func (a Authorization) Check(r x402.Requirements, now time.Time) error {
	return a.check(r, now, nil, func() error { return nil })
}

// Accept is [Authorization.Check] together with [Authorization.Signed]: all that can be told without a chain.
func (a Authorization) Accept(r x402.Requirements, now time.Time) error {
	return a.check(r, now, nil, a.Signed)
}

// check is the one list of checks. For a facilitator signers are its own accounts; nil means that the terms say who they
// are. signature is called where its turn is.
func (a Authorization) check(r x402.Requirements, now time.Time, signers []evm.Address, signature func() error) error {
	if err := a.fits(r); err != nil {
		return err
	}
	w, err := wanted(r)
	if err != nil {
		return err
	}
	code := a.code()
	refuse := func(code, format string, args ...any) error { return x402.Errorf(code, format, args...) }
	clock := uint64(max(now.Unix(), 0))
	recipient := func() error {
		if a.To != w.payTo {
			return refuse(code.recipient, "payment goes to %s, payTo is %s", a.To, w.payTo)
		}
		return nil
	}
	window := func() error {
		if a.ValidBefore < clock+slack {
			return refuse(code.expired, "payment is valid before %d, it is %d and settling takes %d seconds", a.ValidBefore, clock, slack)
		}
		if a.ValidAfter > clock {
			return refuse(code.early, "payment is valid after %d, it is %d", a.ValidAfter, clock)
		}
		return nil
	}
	amount := func() error {
		if a.Amount != w.amount {
			return refuse(code.amount, "payment is of %s, asked are %s", a.Amount, w.amount)
		}
		return nil
	}
	token := func() error {
		if a.Asset != w.asset {
			return refuse("permit2_token_mismatch", "payment is in token %s, asked is %s", a.Asset, w.asset)
		}
		return nil
	}
	if a.Method == Permit2 {
		proxy := ExactProxy
		if a.Scheme == UptoScheme {
			proxy = UptoProxy
		}
		spender := func() error {
			if a.Spender != proxy {
				return refuse("invalid_permit2_spender", "permit is for spender %s, want %s", a.Spender, proxy)
			}
			return nil
		}
		facilitator := func() error {
			if a.Scheme == UptoScheme && !among(signers, a.Facilitator, r.ExtraString("facilitatorAddress")) {
				return refuse("upto_facilitator_mismatch", "permit is for facilitator %s", a.Facilitator)
			}
			return nil
		}
		return first(spender, recipient, facilitator, window, amount, token, signature, func() error { return a.sponsored(now) })
	}
	// The token and its domain were taken from terms when the payment was read; these are others if they differ.
	if name, version := domainOf(r, a.Method); a.Asset != w.asset || a.Name != name || a.Version != version {
		return refuse("payment_mismatch", "payment was read against terms for token %s (%q, %q)", a.Asset, clip(a.Name), clip(a.Version))
	}
	if a.Method == Legacy {
		spender := func() error {
			if !among(signers, a.Spender, r.ExtraString("spender")) {
				return refuse("invalid_spender", "payment is for spender %s", a.Spender)
			}
			return nil
		}
		return first(spender, signature, recipient, window, amount)
	}
	return first(signature, recipient, window, amount)
}

// among reports whether an account is one of a facilitator's, or, where those are not known, the one that terms name.
func among(signers []evm.Address, account evm.Address, named string) bool {
	if signers == nil {
		want, err := evm.ParseAddress(named)
		return err == nil && want == account
	}
	for _, s := range signers {
		if s == account {
			return true
		}
	}
	return false
}

func first(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// sponsored checks what comes along so that Permit2 may move the token.
func (a Authorization) sponsored(now time.Time) error {
	switch {
	case a.permitErr != nil:
		return a.permitErr
	case a.Permit != nil:
		return a.Permit.check(a, now)
	case a.approvalErr != nil:
		return a.approvalErr
	case a.Approval != nil:
		return a.Approval.check(a)
	}
	return nil
}

func (p Permit) check(a Authorization, now time.Time) error {
	switch {
	case p.From != a.From:
		return x402.Errorf("eip2612_from_mismatch", "permit is of %s, payment of %s", p.From, a.From)
	case p.Asset != a.Asset:
		return x402.Errorf("eip2612_asset_mismatch", "permit is for token %s, payment in %s", p.Asset, a.Asset)
	case p.Spender != Permit2Address:
		return x402.Errorf("eip2612_spender_not_permit2", "permit is for spender %s, want %s", p.Spender, Permit2Address)
	case p.Deadline.Less(money.Units(uint64(max(now.Unix(), 0)) + slack)):
		return x402.Errorf("eip2612_deadline_expired", "permit ends at %s, it is %d", p.Deadline, now.Unix())
	case p.Amount != a.Amount: // what the proxy would refuse
		return x402.Errorf("permit2_2612_amount_mismatch", "permit is of %s, payment of %s", p.Amount, a.Amount)
	}
	return nil
}

// Signed checks that the payer's key made the signature: 65 bytes with a low s. Errors are [*x402.Error] and match
// [ErrContractSignature], as who has no key may be a contract.
//
// A last byte of 0 or 1 counts as 27 or 28: the tokens want the latter, but signers that speak of a recovery id give the
// former, and libraries that published facilitators use take both. The 64 bytes of EIP-2098 are no key's signature here,
// since the tokens refuse them.
func (a Authorization) Signed() error {
	if sig, ok := plain(a.Signature); ok && a.byKey(sig) {
		return nil
	}
	return x402.Errorf(a.code().signature, "payment of %s: %w", a.From, ErrContractSignature)
}

// byKey reports whether the payer's key made a signature of the authorization as it stands now.
func (a Authorization) byKey(sig evm.Signature) bool {
	is := recovered{a.Digest(), sig, a.From}
	if a.recovered != nil {
		if known := a.recovered.Load(); known != nil && *known == is {
			return true
		}
	}
	if signer, err := evm.Recover(is.digest, sig); err != nil || signer != a.From {
		return false
	}
	if a.recovered != nil {
		a.recovered.Store(&is)
	}
	return true
}

// plain returns a signature of 65 bytes with v as contracts take it.
func plain(b []byte) (sig evm.Signature, ok bool) {
	if len(b) != len(sig) {
		return sig, false
	}
	copy(sig[:], b)
	if sig[64] < 2 {
		sig[64] += 27
	}
	return sig, true
}
