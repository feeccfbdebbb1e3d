package money

import (
	"errors"
	"fmt"
	"strings"

	"github.com/holiman/uint256"
)

// scaleMax bounds the digits after a decimal point, and the decimals of an asset: one above any token in use.
const scaleMax = 36

// Decimal is an exact number that is not negative, such as 0.0005. The zero value is 0. Decimals of equal value are
// equal with ==.
type Decimal struct {
	coefficient Amount // without trailing zeros while scale > 0
	scale       uint8  // digits after the point
}

func newDecimal(coefficient Amount, scale uint8) Decimal {
	ten := uint256.NewInt(10)
	for scale > 0 {
		var quotient, rest uint256.Int
		quotient.DivMod(&coefficient.v, ten, &rest)
		if !rest.IsZero() {
			break
		}
		coefficient.v, scale = quotient, scale-1
	}
	return Decimal{coefficient, scale}
}

// IsZero reports whether d is 0.
func (d Decimal) IsZero() bool { return d.coefficient.IsZero() }

// String returns d with at least two digits after the point and no other trailing zeros: 12.50, 0.0005.
func (d Decimal) String() string { return d.text(2) }

// text writes at least so many digits after the point.
func (d Decimal) text(fraction int) string {
	digits := d.coefficient.String()
	if missing := int(d.scale) + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	point := len(digits) - int(d.scale)
	after := digits[point:]
	if missing := fraction - len(after); missing > 0 {
		after += strings.Repeat("0", missing)
	}
	if after == "" {
		return digits
	}
	return digits[:point] + "." + after
}

// shift returns d × 10^places as numerator and power-of-ten denominator in lowest such terms: 0.0015 shifted by 3 is 15
// over 10. It reports false past 256 bits.
func (d Decimal) shift(places uint8) (numerator, denominator Amount, ok bool) {
	if places >= d.scale {
		up, _ := pow10(places - d.scale)
		numerator, ok = d.coefficient.Mul(up)
		return numerator, Units(1), ok
	}
	denominator, ok = pow10(d.scale - places)
	return d.coefficient, denominator, ok
}

// pow10 returns 10^n, and false past 256 bits (n > 77).
func pow10(n uint8) (Amount, bool) {
	if n > 77 {
		return Amount{}, false
	}
	var p Amount
	p.v.Exp(uint256.NewInt(10), uint256.NewInt(uint64(n)))
	return p, true
}

// Asset is what an amount is of, as far as prices and people are concerned.
type Asset struct {
	Symbol   string // as its token says, USDC
	Decimals uint8  // at most 36
	Dollar   bool   // stands for one dollar, at par: what prices in $ are paid in
}

// Format writes an amount for people: $0.0005, $12.50, 12.50 USDC. The symbol "$" goes before the number, any other
// after it. Every digit is shown.
func Format(a Amount, decimals uint8, symbol string) string {
	d := newDecimal(a, decimals)
	if symbol == "$" {
		return "$" + d.text(2)
	}
	return d.text(min(2, int(decimals))) + " " + symbol
}

// Format writes an amount of the asset with its symbol: 12.50 USDC.
func (a Asset) Format(amount Amount) string { return Format(amount, a.Decimals, a.Symbol) }

// Money is a sum that a person wrote: $0.01, 2.5 USDC. The zero value is no money.
type Money struct {
	Value  Decimal
	Symbol string // "$" or a token's symbol
}

// String returns the sum in the one form that [ParseMoney] and people share.
func (m Money) String() string {
	if m.Symbol == "$" {
		return "$" + m.Value.String()
	}
	return strings.TrimSuffix(m.Value.String()+" "+m.Symbol, " ") // the zero value has no symbol
}

// ErrNotRepresentable is the error of a sum that is no whole number of an asset's smallest units, or too large to count.
var ErrNotRepresentable = errors.New("not a whole number of its smallest units")

// ErrOtherAsset is the error of a sum in dollars for an asset that is none, or in another token.
var ErrOtherAsset = errors.New("in another asset")

// In counts the sum in smallest units of an asset. Nothing is rounded: a budget or a deposit that does not come out
// whole is refused with [ErrNotRepresentable], one of something else with [ErrOtherAsset].
func (m Money) In(a Asset) (Amount, error) {
	if !m.isOf(a) {
		return Amount{}, fmt.Errorf("%s as %s: %w", m, a.Symbol, ErrOtherAsset)
	}
	return m.Atomic(a.Decimals)
}

// Atomic counts the sum in smallest units of an asset with so many decimals, whatever the asset's name.
func (m Money) Atomic(decimals uint8) (Amount, error) {
	if decimals > scaleMax {
		return Amount{}, fmt.Errorf("%d decimals: at most %d are counted", decimals, scaleMax)
	}
	n, d, ok := m.Value.shift(decimals)
	if !ok || d != Units(1) {
		return Amount{}, fmt.Errorf("%s with %d decimals: %w", m, decimals, ErrNotRepresentable)
	}
	return n, nil
}

func (m Money) isOf(a Asset) bool {
	if m.Symbol == "$" {
		return a.Dollar
	}
	return strings.EqualFold(m.Symbol, a.Symbol)
}
