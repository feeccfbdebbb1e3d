package x402

import (
	"net/http"
	"strings"

	"github.com/farthing402/farthing/money"
)

// HeaderOverrides is how a handler tells its own paywall what to charge of an upto payment: {"amount":"12345"}. It never
// leaves the seller; see [TakeOverride].
const HeaderOverrides = "Settlement-Overrides"

// overrideBytesMax bounds the header: a number of 78 digits and a few words.
const overrideBytesMax = 256

// TakeOverride removes the header from a response, in every spelling, and returns the amount that it names of what was
// signed; set is false without one, which means all of it. An amount is in smallest units ("12345"), a percentage of what
// was signed with at most two decimals ("40%"), or in dollars ("$0.05") if the asset is one; what does not come out even
// is rounded down, so the payer keeps it. The error is meter_missing for a header that says nothing of this, and
// invalid_upto_evm_payload_settlement_exceeds_amount for more than was signed.
func TakeOverride(h http.Header, signed money.Amount, asset money.Asset) (charge money.Amount, set bool, refusal *Error) {
	var values []string
	for name, v := range h {
		if strings.EqualFold(name, HeaderOverrides) {
			values = append(values, v...)
			delete(h, name)
		}
	}
	switch {
	case len(values) == 0:
		return signed, false, nil
	case len(values) > 1:
		return charge, true, Errorf("meter_missing", "%d %s headers", len(values), HeaderOverrides)
	case len(values[0]) > overrideBytesMax:
		return charge, true, Errorf("meter_missing", "%s is longer than %d bytes", HeaderOverrides, overrideBytesMax)
	}
	var o struct {
		Amount *string `json:"amount"`
	}
	if err := Decode([]byte(values[0]), &o); err != nil {
		return charge, true, Errorf("meter_missing", "%s: %w", HeaderOverrides, err)
	}
	if o.Amount == nil {
		return signed, false, nil
	}
	charge, ok := overrideAmount(*o.Amount, signed, asset)
	switch {
	case !ok:
		return money.Amount{}, true, Errorf("meter_missing", "%s: amount %q is no number of units, percentage or dollars", HeaderOverrides, *o.Amount)
	case signed.Less(charge):
		return money.Amount{}, true, Errorf("invalid_upto_evm_payload_settlement_exceeds_amount", "the handler charges %s of %s that were signed", charge, signed)
	}
	return charge, true, nil
}

func overrideAmount(text string, signed money.Amount, asset money.Asset) (money.Amount, bool) {
	if digits, ok := strings.CutSuffix(text, "%"); ok {
		hundredths, ok := fixed(digits, 2, false)
		if !ok {
			return money.Amount{}, false
		}
		// More than all of it is refused before it is multiplied: no sum of this size wraps then.
		if money.Units(10_000).Less(hundredths) {
			if signed.IsZero() {
				return signed, true
			}
			more, fits := signed.Add(money.Units(1))
			return more, fits
		}
		return portion(signed, hundredths), true
	}
	if digits, ok := strings.CutPrefix(text, "$"); ok {
		if !asset.Dollar || strings.HasSuffix(digits, ".") {
			return money.Amount{}, false
		}
		return fixed(digits, int(asset.Decimals), true)
	}
	if !isAmount(text) {
		return money.Amount{}, false
	}
	return fixed(text, 0, false)
}

// portion returns amount × hundredths / 10000, rounded down, for hundredths of at most 10000: the quotient and the rest
// are multiplied apart, so that nothing can wrap.
func portion(amount, hundredths money.Amount) money.Amount {
	quotient, rest := divide(amount)
	whole, _ := quotient.Mul(hundredths)
	part, _ := rest.Mul(hundredths)
	part, _ = divide(part)
	sum, _ := whole.Add(part)
	return sum
}

// divide returns amount / 10000 and what is left.
func divide(amount money.Amount) (quotient, rest money.Amount) {
	text := amount.String()
	if len(text) <= 4 {
		return money.Amount{}, amount
	}
	quotient, _ = money.ParseAmount(text[:len(text)-4])
	rest, _ = money.ParseAmount(trimZeros(text[len(text)-4:]))
	return quotient, rest
}

// fixed reads a decimal number as one of 10^-places; more places than that are cut off if cut is set, else refused.
func fixed(text string, places int, cut bool) (money.Amount, bool) {
	whole, fraction, _ := strings.Cut(text, ".")
	if !isAmount(whole) || strings.Trim(fraction, "0123456789") != "" {
		return money.Amount{}, false
	}
	if len(fraction) > places {
		if !cut {
			return money.Amount{}, false
		}
		fraction = fraction[:places]
	}
	a, err := money.ParseAmount(trimZeros(whole + fraction + strings.Repeat("0", places-len(fraction))))
	return a, err == nil
}

func trimZeros(digits string) string {
	if digits = strings.TrimLeft(digits, "0"); digits == "" {
		return "0"
	}
	return digits
}
