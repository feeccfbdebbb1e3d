package guarantee

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// PayloadBytesMax bounds what [ParsePayload] reads. A payload has about 700 bytes; a payment header may have 8 KiB.
const PayloadBytesMax = 8 << 10

// ParsePayload reads the payload of an x402 payment, see [Signed.UnmarshalJSON]. Errors match [ErrMalformed] or
// [ErrVersion]. What it returns is what somebody says, no more: [Matches] and a certificate, or [Signed.Verify], come
// next.
func ParsePayload(raw json.RawMessage) (Signed, error) {
	if len(raw) > PayloadBytesMax {
		return Signed{}, fmt.Errorf("payload of %d bytes: %w", len(raw), ErrMalformed)
	}
	var s Signed
	err := s.UnmarshalJSON(raw)
	return s, err
}

// Matches checks that a payment is for a requirement that the payee itself made: payee, asset, exactly the amount, and the
// validation that it asks for, or none. It checks no signature and no clock. The network cannot be told from claims; the
// signature and the certificate bind it, because both name the deployment's chain. Errors match [ErrMismatch],
// [ErrVersion] if one asks for validation and the other does not, [ErrPolicy], or [ErrMalformed] for a requirement that no
// payment of this scheme can meet.
func Matches(s Signed, r x402.Requirements) error {
	want, err := readRequirement(r)
	if err != nil {
		return err
	}
	switch c := s.Claims; {
	case c.Payee != want.payee:
		return fmt.Errorf("payment: %w", mismatch("payTo", c.Payee, want.payee))
	case c.Asset != want.asset:
		return fmt.Errorf("payment: %w", mismatch("asset", c.Asset, want.asset))
	case c.Amount != want.amount:
		return fmt.Errorf("payment: %w", mismatch("amount", c.Amount, want.amount))
	case c.Policy != nil && want.policy == nil:
		return fmt.Errorf("payment: claims of version %d, want 1: %w", c.Version(), ErrVersion)
	case want.policy != nil:
		return Meets(c, *want.policy, want.chainID)
	}
	return nil
}

// PolicyOf returns the policy that a requirement wants claims to depend on, without the hashes that follow from claims, and
// nil if it wants none. Errors are those of [Matches] for the requirement itself.
func PolicyOf(r x402.Requirements) (*Policy, error) {
	w, err := readRequirement(r)
	return w.policy, err
}

// Meets checks that claims depend on a policy that their payee itself made, whatever its Subject and Request. Errors are
// those of [Matches].
func Meets(c Claims, want Policy, chainID uint64) error {
	if c.Policy == nil {
		return fmt.Errorf("payment: claims of version %d, want 2: %w", c.Version(), ErrVersion)
	}
	if err := c.Policy.compare(want, inExtra); err != nil {
		return fmt.Errorf("payment: %w", err)
	}
	return c.CheckPolicy(chainID)
}

// The window in which claims are taken unless something else is configured: a buyer may need minutes from its signature
// to its request, for instance to be asked by a person; it never needs a clock that runs ahead.
const (
	DefaultPast  = 300 * time.Second
	DefaultAhead = 30 * time.Second
)

// Window says how far a claim's timestamp may be from the clock that judges it, in whole seconds. The zero value allows
// the present second only.
type Window struct{ Past, Ahead time.Duration }

// Check returns an error that matches [ErrStale] or [ErrFuture] for claims outside the window. Both bounds are inside.
func (w Window) Check(c Claims, now time.Time) error {
	seconds := uint64(max(now.Unix(), 0))
	if c.Timestamp > seconds {
		if c.Timestamp-seconds > uint64(w.Ahead/time.Second) {
			return fmt.Errorf("claims of %d, %d seconds ahead: %w", c.Timestamp, c.Timestamp-seconds, ErrFuture)
		}
	} else if seconds-c.Timestamp > uint64(w.Past/time.Second) {
		return fmt.Errorf("claims of %d, %d seconds old: %w", c.Timestamp, seconds-c.Timestamp, ErrStale)
	}
	return nil
}

// requirement is what claims can meet.
type requirement struct {
	chainID      uint64
	payee, asset evm.Address
	amount       money.Amount
	policy       *Policy // without the hashes that follow from claims; nil if no validation is asked for
}

func readRequirement(r x402.Requirements) (w requirement, err error) {
	fail := func(member, value, what string) (requirement, error) {
		return requirement{}, fmt.Errorf("requirement: %s %q: %s: %w", member, clip(value), what, ErrMalformed)
	}
	if r.Scheme != Scheme {
		return requirement{}, fmt.Errorf("requirement: %w", &MismatchError{"scheme", clip(r.Scheme), Scheme})
	}
	if asksForValidation(r) {
		w.policy = new(Policy)
		if err := readPolicyMembers(w.policy, func(name string) []byte { return r.Extra[name] }); err != nil {
			return requirement{}, fmt.Errorf("requirement: %w", err)
		}
	}
	chain, ok := strings.CutPrefix(r.Network, "eip155:")
	if w.chainID, err = strconv.ParseUint(chain, 10, 64); !ok || err != nil || w.chainID == 0 || chainName(w.chainID).String() != r.Network {
		return fail("network", r.Network, "not the CAIP-2 name of an EVM chain")
	}
	if w.payee, err = evm.ParseAddress(r.PayTo); err != nil {
		return fail("payTo", r.PayTo, "not an address")
	}
	if w.payee.IsZero() {
		return fail("payTo", r.PayTo, "nobody's address")
	}
	if w.asset, err = evm.ParseAddress(r.Asset); err != nil {
		return fail("asset", r.Asset, "not an address")
	}
	if w.amount, err = money.ParseAmount(r.Amount); err != nil {
		return fail("amount", r.Amount, "not an amount")
	}
	if w.amount.IsZero() {
		return fail("amount", r.Amount, "nothing to pay")
	}
	return w, nil
}

// VersionFor returns the version of the claims that meet a requirement.
func VersionFor(r x402.Requirements) int {
	if asksForValidation(r) {
		return 2
	}
	return 1
}

// asksForValidation reports whether a requirement has any part of a policy but the tag alone.
func asksForValidation(r x402.Requirements) bool {
	for _, m := range policyMembers {
		if !m.optional && (r.Extra[m.claims] != nil || r.Extra[m.extra] != nil) {
			return true
		}
	}
	return false
}

// chainName writes a chain id as CAIP-2.
type chainName uint64

func (n chainName) String() string { return "eip155:" + strconv.FormatUint(uint64(n), 10) }
